//! Programs at the other end.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};

/// A program whose input stays open, and which is gone when this is dropped.
pub struct Program {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    printed: String,
}

impl Program {
    pub fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output, printed: String::new() }
    }

    /// The next line that begins like this, without that.
    pub fn line(&mut self, start: &str) -> String {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).unwrap() == 0 {
                let mut complaint = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
                panic!("no {start:?} in:\n{}\n{complaint}", self.printed);
            }
            self.printed.push_str(&line);
            if let Some(rest) = line.trim().strip_prefix(start) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Whether it ended well.
    pub fn succeeded(mut self) -> bool {
        drop(self.child.stdin.take());
        self.child.wait().unwrap().success()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
