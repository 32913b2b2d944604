//! `tcpauth purge`: take everything of an instance out of the kernel, daemon or no daemon.

use std::io::{self, BufRead, IsTerminal, Write};

use super::{failure::Failure, output::Output};
use crate::{
    control::{client::Client, protocol::Answer},
    daemon::lock::InstanceLock,
    instance::Instance,
    kernel::Dataplane,
};

/// How to purge.
#[derive(clap::Args)]
pub struct PurgeArgs {
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
}

/// Remove the instance's programs, maps, pins and lane, once the operator has confirmed it.
pub async fn run(
    args: &PurgeArgs,
    instance: &Instance,
    client: &Client,
    output: Output,
) -> Result<(), Failure> {
    if client.is_listening().await {
        return Err(Failure::Failed(format!(
            "tcpauthd of instance {instance} is running: stop it first with `systemctl stop {}`",
            client.unit()
        )));
    }
    if !args.yes {
        let stdin = io::stdin();
        let is_terminal = stdin.is_terminal();
        confirm(instance, is_terminal, &mut stdin.lock(), &mut io::stderr())?;
    }
    // Held until all is removed: a daemon that starts meanwhile would work on maps without pins.
    let _lock = InstanceLock::take(instance).map_err(|error| Failure::Failed(error.to_string()))?;
    let report = Dataplane::purge(instance).map_err(|error| Failure::Failed(error.to_string()))?;
    match std::fs::remove_file(instance.kept_config()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let kept = instance.kept_config();
            return Err(Failure::Failed(format!("{report}; but {} stays: {error}", kept.display())));
        }
        _ => {}
    }
    let done = format!("instance {instance}: {report}");
    output.line(&Answer::Done(done.clone()), |_| done)
}

/// Say what purging means, and go on only if the operator types `yes`.
fn confirm(
    instance: &Instance,
    is_terminal: bool,
    replies: &mut impl BufRead,
    prompt: &mut impl Write,
) -> Result<(), Failure> {
    if !is_terminal {
        return Err(Failure::Usage("purge asks for confirmation: use --yes where no terminal is".to_owned()));
    }
    write!(
        prompt,
        "This removes all programs and keys of instance {instance} from the kernel.\n\
         Sessions will no longer be protected, and new ones will be neither signed nor verified. Those that are\n\
         up end at their hold time if the neighbor still asks for a MAC; else they go on without one.\n\
         Type yes to go on: "
    )?;
    prompt.flush()?;
    let mut reply = String::new();
    replies.read_line(&mut reply)?;
    if reply.trim().eq_ignore_ascii_case("yes") {
        Ok(())
    } else {
        Err(Failure::Failed("not confirmed; nothing was removed".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::Colour;

    fn confirmed(is_terminal: bool, reply: &str) -> (Result<(), String>, String) {
        let mut prompt = Vec::new();
        let result = confirm(&Instance::default(), is_terminal, &mut reply.as_bytes(), &mut prompt);
        (result.map_err(|failure| failure.to_string()), String::from_utf8(prompt).unwrap())
    }

    #[tokio::test]
    async fn a_daemon_that_only_starts_is_not_purged_under_its_feet() {
        let instance: Instance = format!("purge{}", std::process::id()).parse().unwrap();
        let lock = InstanceLock::take(&instance).unwrap();
        // It does not listen yet.
        let client = Client::new(&instance, None);
        let result =
            run(&PurgeArgs { yes: true }, &instance, &client, Output { json: false, colour: Colour::Off })
                .await;
        drop(lock);
        std::fs::remove_file(instance.socket().with_extension("pid")).unwrap();
        match result {
            Err(Failure::Failed(why)) => assert!(why.contains("already runs (pid "), "{why}"),
            _ => panic!("purged"),
        }
    }

    #[test]
    fn only_yes_goes_on_and_the_warning_comes_first() {
        for reply in ["yes\n", "YES", " yes \n"] {
            let (result, prompt) = confirmed(true, reply);
            assert_eq!(result, Ok(()));
            assert!(prompt.contains("no longer be protected"), "{prompt}");
            assert!(prompt.contains("else they go on without one"), "{prompt}");
        }
        for reply in ["", "\n", "y\n", "no\n", "yes please\n"] {
            assert_eq!(confirmed(true, reply).0.unwrap_err(), "not confirmed; nothing was removed");
        }
    }

    #[test]
    fn nobody_at_the_terminal_is_no_consent() {
        let (result, prompt) = confirmed(false, "yes\n");
        assert!(result.unwrap_err().contains("--yes"));
        assert_eq!(prompt, "");
    }

    #[tokio::test]
    async fn a_running_daemon_keeps_its_programs() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("running.sock");
        let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let instance: Instance = "purge-test".parse().unwrap();
        let client = Client::new(&instance, Some(&socket));
        let output = Output { json: false, colour: crate::cli::table::Colour::Off };
        let refusal = run(&PurgeArgs { yes: true }, &instance, &client, output).await.unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "tcpauthd of instance purge-test is running: stop it first with `systemctl stop tcpauthd@purge-test`"
        );
    }
}
