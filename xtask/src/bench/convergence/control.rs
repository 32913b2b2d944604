//! BIRD's control socket: asked often without a process each time.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Result, ensure};
use tcpauth_tests::{bgp::Bird, wait::eventually};

/// How long BIRD may take to make its socket, which it does before it reads its configuration.
const START_LIMIT: Duration = Duration::from_secs(15);

/// How long an answer may take: a table of a million routes is worked on meanwhile.
const LIMIT: Duration = Duration::from_secs(120);

/// A connection to a BIRD.
pub struct Control(BufReader<UnixStream>);

impl Control {
    /// Connects, and waits until BIRD has read its configuration.
    ///
    /// # Errors
    /// If BIRD does not answer.
    pub fn connect(bird: &mut Bird) -> Result<Self> {
        let stream = eventually(START_LIMIT, "BIRD's socket", || {
            bird.check_running()?;
            Ok(Some(UnixStream::connect(bird.socket())?))
        })?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut control = Self(BufReader::new(stream));
        control.answer().or_else(|error| {
            // The log says more.
            bird.check_running()?;
            Err(error)
        })?;
        Ok(control)
    }

    /// Sends a command, and gives the answer without its numbers.
    ///
    /// # Errors
    /// If there is none.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.0.get_mut(), "{command}")?;
        self.answer()
    }

    /// State of the session as BIRD calls it, and number of routes received.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn session(&mut self) -> Result<(String, u64)> {
        Ok(parse(&self.ask("show protocols all bgp_neighbor")?))
    }

    /// Lines begin with a number and `-`, the last one with a number and a space.
    fn answer(&mut self) -> Result<String> {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "BIRD has closed its socket");
            let is_numbered = line.len() > 4 && line.as_bytes()[..4].iter().all(u8::is_ascii_digit);
            text.push_str(if is_numbered { &line[5..] } else { &line });
            if is_numbered && line.as_bytes()[4] == b' ' {
                return Ok(text);
            }
        }
    }
}

fn parse(answer: &str) -> (String, u64) {
    let row = answer.lines().find(|line| line.starts_with("bgp_neighbor")).unwrap_or_default();
    let state = row.split_whitespace().nth(5).unwrap_or_default();
    let routes = answer.lines().find_map(|line| line.trim().strip_prefix("Routes:"));
    let received = routes.and_then(|routes| routes.split_whitespace().next()?.parse().ok());
    (state.to_owned(), received.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_and_count_are_read_from_the_answer() {
        let answer = "Name       Proto      Table      State  Since         Info\n\
                      bgp_neighbor BGP        ---        up     11:12:07.864  Established   \n\
                      \x20 Channel ipv4\n\
                      \x20   Routes:         1000000 imported, 0 exported, 1000000 preferred\n\n";
        assert_eq!(parse(answer), ("Established".to_owned(), 1_000_000));
        let down = "bgp_neighbor BGP        ---        down   11:12:07.864  \n";
        assert_eq!(parse(down), (String::new(), 0));
    }
}
