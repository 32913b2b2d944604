//! `tcpauth` as a process, the daemon it talks to, and the terminal it may run at.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{net::UnixListener, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    pty::openpty,
    sys::{
        socket::{setsockopt, sockopt::ReceiveTimeout},
        time::TimeVal,
    },
};
use serde_json::Value;

/// `tcpauth` that talks to `socket`, without colour of the environment's choice.
pub fn tcpauth(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcpauth"));
    command.env("NO_COLOR", "1").args(["--instance", "cli-test", "--socket"]).arg(socket);
    command
}

/// A daemon that gives one answer a connection, then goes and removes its socket; it also goes if nobody asks for
/// ten seconds. Its requests come on the channel.
pub fn daemon(socket: &Path, answers: &[&Value]) -> mpsc::Receiver<Value> {
    let listener = UnixListener::bind(socket).unwrap();
    setsockopt(&listener, ReceiveTimeout, &TimeVal::new(10, 0)).unwrap();
    let (requests, received) = mpsc::channel();
    let answers: Vec<_> = answers.iter().map(|answer| format!("{answer}\n")).collect();
    let socket = socket.to_owned();
    thread::spawn(move || {
        for answer in answers {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            // The test may not care for what was asked.
            let _ = requests.send(serde_json::from_str(&line).unwrap());
            stream.write_all(answer.as_bytes()).unwrap();
        }
        fs::remove_file(&socket).unwrap();
    });
    received
}

/// The operator's side of a terminal.
pub struct Terminal {
    /// What is written to it is typed; what the command shows comes from `until`.
    pub master: File,
    seen: mpsc::Receiver<Vec<u8>>,
    unread: String,
}

/// Start `command` with a terminal of its own.
pub fn at_a_terminal(command: &mut Command) -> (Terminal, Child) {
    let pty = openpty(None, None).unwrap();
    let stdio = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
    command.stdin(stdio(&pty.slave)).stdout(stdio(&pty.slave)).stderr(stdio(&pty.slave));
    let slave = pty.slave.as_raw_fd();
    // SAFETY: both calls are async-signal-safe, and `slave` stays open until the child has been started.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            if libc::ioctl(slave, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = command.spawn().unwrap();
    let master = File::from(pty.master);
    let mut reader = master.try_clone().unwrap();
    let (sender, seen) = mpsc::channel();
    thread::spawn(move || {
        let mut chunk = [0; 1024];
        while let Ok(count @ 1..) = reader.read(&mut chunk) {
            if sender.send(chunk[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    (Terminal { master, seen, unread: String::new() }, child)
}

impl Terminal {
    /// What is shown until and with `text`, which must come within ten seconds.
    pub fn until(&mut self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(at) = self.unread.find(text) {
                let rest = self.unread.split_off(at + text.len());
                return std::mem::replace(&mut self.unread, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.seen.recv_timeout(left) {
                Ok(chunk) => self.unread += &String::from_utf8_lossy(&chunk),
                Err(_) => panic!("{text:?} does not come after {:?}", self.unread),
            }
        }
    }

    /// Type `text` and the return key.
    pub fn line(&mut self, text: &str) {
        writeln!(self.master, "{text}").unwrap();
    }

    /// Type `octets`.
    pub fn write_all(&mut self, octets: &[u8]) -> std::io::Result<()> {
        self.master.write_all(octets)
    }
}
