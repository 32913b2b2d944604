//! `tcpauth config diff|write`: the running configuration and the file.

use std::process::ExitCode;

use super::{
    failure::{DIFFERENT, Failure},
    neighbor::order,
    output::Output,
};
use crate::control::{
    client::{Client, ClientError},
    protocol::Request,
};

/// What to do with the running configuration.
#[derive(clap::Subcommand)]
pub enum ConfigCommand {
    /// Show how the running configuration differs from the file; exit code 1 if it does
    ///
    /// What was changed by `neighbor add|remove` and `key add|roll|retire` is in the running configuration only. No
    /// secret is shown. The exit code is 0 if there is no difference, 1 if there is one, 2 if the file has errors.
    Diff,
    /// Write the running configuration to the file, so that a reload or a reboot keeps it
    Write,
    /// Throw away what was changed by command: go back to the file, as `reload --discard` does
    Discard,
}

impl ConfigCommand {
    /// Do it. The exit code says whether there are differences.
    pub async fn run(self, client: &Client, output: Output) -> Result<ExitCode, Failure> {
        match self {
            Self::Diff => diff(client, output).await,
            Self::Write => order(client, Request::ConfigWrite, output).await.map(|()| ExitCode::SUCCESS),
            Self::Discard => {
                let request = Request::Reload { discard: true, force: false };
                order(client, request, output).await.map(|()| ExitCode::SUCCESS)
            }
        }
    }
}

async fn diff(client: &Client, output: Output) -> Result<ExitCode, Failure> {
    let differences = client.differences().await.map_err(|error| match error {
        // Exit code 1 would say that there are differences.
        ClientError::Refused(reason) => Failure::Usage(reason),
        error => Failure::Client(error),
    })?;
    output.result(&differences, |_| text(&differences))?;
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { DIFFERENT.into() })
}

fn text(differences: &[String]) -> String {
    if differences.is_empty() {
        return "no differences\n".to_owned();
    }
    differences.iter().map(|difference| format!("{difference}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_a_line() {
        assert_eq!(text(&[]), "no differences\n");
        assert_eq!(text(&["one".to_owned(), "two".to_owned()]), "one\ntwo\n");
    }
}
