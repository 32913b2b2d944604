//! A password typed at the terminal.

use std::{
    fs::{File, OpenOptions},
    io,
};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use super::failure::Failure;

/// The password for `whom`, asked for twice at the terminal without echo.
///
/// # Errors
/// If there is no terminal, Ctrl-C was typed, nothing was typed, or the two differ.
pub fn password(whom: &str) -> Result<Zeroizing<String>, Failure> {
    // The prompt turns Ctrl-C into this signal before it has restored the terminal: it must not kill.
    let _interrupt = signal(SignalKind::interrupt())?;
    let _silence = Silence::of_terminal().map_err(|error| no_terminal(&error))?;
    twice(whom, |prompt| rpassword::prompt_password(prompt))
}

/// A password asked for twice; `read` shows the prompt and reads a line.
fn twice(whom: &str, mut read: impl FnMut(&str) -> io::Result<String>) -> Result<Zeroizing<String>, Failure> {
    let mut ask = |prompt: &str| match read(prompt).map(Zeroizing::new) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            Err(Failure::Failed("interrupted; nothing was changed".to_owned()))
        }
        read => read.map_err(|error| no_terminal(&error)),
    };
    let password = ask(&format!("Password for {whom}: "))?;
    if password.is_empty() {
        return Err(Failure::Failed("no password was typed; nothing was changed".to_owned()));
    }
    let again = ask("Again: ")?;
    if password != again {
        return Err(Failure::Failed("the two passwords differ; nothing was changed".to_owned()));
    }
    Ok(password)
}

fn no_terminal(error: &io::Error) -> Failure {
    Failure::Usage(format!(
        "cannot ask for the password ({error}): use --password-file FILE, or `--password-file -` for standard input"
    ))
}

/// The terminal does not echo until this is dropped. The prompt's own silence begins after it was shown and
/// ends before the next: what is typed in between, or pasted at once, would be seen.
struct Silence {
    terminal: File,
    before: Termios,
}

impl Silence {
    fn of_terminal() -> io::Result<Self> {
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        // As the prompt itself will have it: Ctrl-C is a character too, whenever it is typed.
        silent
            .local_flags
            .remove(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG);
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to restore.
        let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(lines: &[&str]) -> Result<Zeroizing<String>, String> {
        let mut lines = lines.iter();
        let read = |_: &str| lines.next().map(|line| (*line).to_owned()).ok_or(io::Error::other("end"));
        twice("192.0.2.1", read).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_password_is_typed_twice_the_same() {
        assert_eq!(typed(&["a b", "a b"]).unwrap().as_str(), "a b");
        assert!(typed(&["", ""]).unwrap_err().contains("no password was typed"));
        assert!(typed(&[]).unwrap_err().contains("--password-file"));
        let refusal = typed(&["hidden1", "hidden2"]).unwrap_err();
        assert!(refusal.contains("differ") && !refusal.contains("hidden"), "{refusal}");
    }

    #[test]
    fn ctrl_c_changes_nothing() {
        let failure = twice("192.0.2.1", |_| Err(io::ErrorKind::Interrupted.into())).unwrap_err();
        assert_eq!(failure.to_string(), "interrupted; nothing was changed");
    }
}
