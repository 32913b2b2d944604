//! The client's end of the control socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::UnixStream,
    time::timeout,
};
use zeroize::{Zeroize, Zeroizing};

use super::protocol::{
    Answer, Event, NeighborKeys, NeighborStatus, PROTOCOL, Request, SessionStatus, Speaker, Status,
};
use crate::instance::Instance;

/// Version of this `tcpauth`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Asks one instance's daemon; a connection for each request.
pub struct Client {
    socket: PathBuf,
    unit: String,
    patience: Duration,
}

impl Client {
    /// A client of `instance`'s daemon, at `socket` if that is not the instance's own.
    pub fn new(instance: &Instance, socket: Option<&Path>) -> Self {
        Self {
            socket: socket.map_or_else(|| instance.socket(), Path::to_owned),
            unit: unit(instance),
            patience: PATIENCE,
        }
    }

    /// The daemon, its interfaces and neighbours.
    pub async fn status(&self) -> Result<Status, ClientError> {
        match self.ask(Request::Status).await? {
            Answer::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// The neighbours, or those configured as `peer` or with that address.
    pub async fn neighbors(&self, peer: Option<String>) -> Result<Vec<NeighborStatus>, ClientError> {
        match self.ask(Request::Neighbors { peer }).await? {
            Answer::Neighbors(neighbors) => Ok(neighbors),
            other => Err(unexpected(&other)),
        }
    }

    /// The sessions.
    pub async fn sessions(&self) -> Result<Vec<SessionStatus>, ClientError> {
        match self.ask(Request::Sessions).await? {
            Answer::Sessions(sessions) => Ok(sessions),
            other => Err(unexpected(&other)),
        }
    }

    /// The keys of all neighbours, or of the one configured as `peer`.
    pub async fn keys(&self, peer: Option<String>) -> Result<Vec<NeighborKeys>, ClientError> {
        match self.ask(Request::Keys { peer }).await? {
            Answer::Keys(keys) => Ok(keys),
            other => Err(unexpected(&other)),
        }
    }

    /// How the running configuration differs from the file, a difference a line.
    pub async fn differences(&self) -> Result<Vec<String>, ClientError> {
        match self.ask(Request::ConfigDiff).await? {
            Answer::Differences(differences) => Ok(differences),
            other => Err(unexpected(&other)),
        }
    }

    /// Have something done: what was done, in the daemon's words.
    pub async fn order(&self, request: Request) -> Result<String, ClientError> {
        match self.ask(request).await? {
            Answer::Done(done) => Ok(done),
            other => Err(unexpected(&other)),
        }
    }

    /// Follow what happens from now on.
    pub async fn events(&self) -> Result<Events, ClientError> {
        Ok(Events { lines: self.send(Request::Events).await?.lines() })
    }

    /// The systemd unit of the daemon.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// Whether a daemon listens on the socket, whatever it would answer.
    pub async fn is_listening(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }

    /// One request and its answer; a refusal is [`ClientError::Refused`].
    async fn ask(&self, request: Request) -> Result<Answer, ClientError> {
        let exchange = async {
            let mut line = String::new();
            let read = self.send(request).await?.read_line(&mut line).await.map_err(ClientError::Lost)?;
            if read == 0 { Err(ClientError::Closed { unit: self.unit.clone() }) } else { self.answer(&line) }
        };
        match timeout(self.patience, exchange).await {
            Ok(Ok(Answer::Error(reason))) => Err(ClientError::Refused(reason)),
            Ok(answer) => answer,
            Err(_) => {
                Err(ClientError::NoAnswer { seconds: self.patience.as_secs(), unit: self.unit.clone() })
            }
        }
    }

    /// The answer on a line, whichever version wrote it.
    fn answer(&self, line: &str) -> Result<Answer, ClientError> {
        let speaker: Speaker = parse(line)?;
        let other_version = || ClientError::OtherVersion {
            daemon: if speaker.version.is_empty() {
                "of an older version".into()
            } else {
                speaker.version.clone()
            },
            unit: self.unit.clone(),
        };
        if speaker.protocol > PROTOCOL {
            return Err(other_version());
        }
        match parse(line) {
            Err(_) if speaker.protocol != PROTOCOL || speaker.version != VERSION => Err(other_version()),
            answer => answer,
        }
    }

    async fn send(&self, mut request: Request) -> Result<BufReader<UnixStream>, ClientError> {
        let line = line(&request);
        if let Request::NeighborAdd { toml, .. } | Request::KeyAdd { toml, .. } = &mut request {
            toml.zeroize();
        }
        let mut stream =
            UnixStream::connect(&self.socket).await.map_err(|error| self.connect_error(error))?;
        stream.write_all(&line.map_err(ClientError::NotUnderstood)?).await.map_err(ClientError::Lost)?;
        Ok(BufReader::new(stream))
    }

    fn connect_error(&self, error: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound => ClientError::NoSocket { socket, unit: self.unit.clone() },
            io::ErrorKind::ConnectionRefused => ClientError::NotListening { socket, unit: self.unit.clone() },
            io::ErrorKind::PermissionDenied => ClientError::PermissionDenied { socket },
            _ => ClientError::Connect { socket, error },
        }
    }
}

/// What happens at the daemon, as it happens.
pub struct Events {
    lines: Lines<BufReader<UnixStream>>,
}

impl Events {
    /// The next event. Nothing is lost if the future is dropped before it is ready.
    ///
    /// # Errors
    /// [`ClientError::Stopped`] when the daemon ends the stream, which it does only when it stops.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        let line = self.lines.next_line().await.map_err(ClientError::Lost)?.ok_or(ClientError::Stopped)?;
        match serde_json::from_str::<Answer>(&line) {
            Ok(Answer::Error(reason)) => Err(ClientError::Refused(reason)),
            _ => parse(&line),
        }
    }
}

/// Why the daemon did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket.
    #[error("tcpauthd is not running (no {}); start it with `systemctl start {unit}`", socket.display())]
    NoSocket {
        /// Where it should be.
        socket: PathBuf,
        /// The systemd unit that makes it.
        unit: String,
    },
    /// The socket is there, and nobody listens.
    #[error(
        "tcpauthd is not running (nobody listens on {}); start it with `systemctl start {unit}`",
        socket.display()
    )]
    NotListening {
        /// The socket a daemon left behind.
        socket: PathBuf,
        /// The systemd unit that listens on it.
        unit: String,
    },
    /// This user may not open the socket.
    #[error("cannot open {}: permission denied: run as root or join group tcpauth", socket.display())]
    PermissionDenied {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket cannot be opened for another reason.
    #[error("cannot open {}: {error}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// The connection broke.
    #[error("the connection to tcpauthd broke: {0}")]
    Lost(#[source] io::Error),
    /// The daemon closed the connection before it had answered.
    #[error("tcpauthd closed the connection without an answer; see `journalctl -u {unit}`")]
    Closed {
        /// The daemon's systemd unit.
        unit: String,
    },
    /// The daemon ended the stream of events.
    #[error("tcpauthd has stopped; sessions that are up stay protected")]
    Stopped,
    /// The daemon accepts connections and does not answer.
    #[error("tcpauthd did not answer within {seconds} s; see `journalctl -u {unit}`")]
    NoAnswer {
        /// How long it was waited for.
        seconds: u64,
        /// The daemon's systemd unit.
        unit: String,
    },
    /// The daemon is of a version whose answers this one does not read.
    #[error(
        "tcpauthd is {daemon}, tcpauth is {VERSION}: they do not understand each other; restart the daemon (`systemctl \
         restart {unit}`: sessions stay up), or use the tcpauth that was installed with it"
    )]
    OtherVersion {
        /// Version of the daemon.
        daemon: String,
        /// The daemon's systemd unit.
        unit: String,
    },
    /// What came is not what the protocol has.
    #[error("tcpauthd's answer was not understood ({0}); are tcpauth and tcpauthd of the same version?")]
    NotUnderstood(#[source] serde_json::Error),
    /// The answer belongs to another question.
    #[error("tcpauthd answered `{0}`, which was not asked; are tcpauth and tcpauthd of the same version?")]
    Unexpected(&'static str),
    /// The daemon refused, in its own words.
    #[error("{0}")]
    Refused(String),
}

impl ClientError {
    /// Whether no daemon could be talked to, as opposed to one that refused.
    pub fn is_unreachable(&self) -> bool {
        !matches!(
            self,
            Self::OtherVersion { .. } | Self::NotUnderstood(_) | Self::Unexpected(_) | Self::Refused(_)
        )
    }
}

/// The systemd unit of an instance's daemon.
fn unit(instance: &Instance) -> String {
    if *instance == Instance::default() { "tcpauthd".to_owned() } else { format!("tcpauthd@{instance}") }
}

/// A request on its line, in memory that is wiped: it may carry a secret.
fn line(request: &Request) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
    let secret_len = match request {
        Request::NeighborAdd { toml, .. } | Request::KeyAdd { toml, .. } => toml.len(),
        _ => 0,
    };
    // JSON makes at most six octets of one: the buffer never grows and leaves no copy behind.
    let mut line = Zeroizing::new(Vec::with_capacity(1024 + 6 * secret_len));
    serde_json::to_writer(&mut *line, request)?;
    line.push(b'\n');
    Ok(line)
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T, ClientError> {
    serde_json::from_str(line).map_err(ClientError::NotUnderstood)
}

fn unexpected(answer: &Answer) -> ClientError {
    ClientError::Unexpected(match answer {
        Answer::Status(_) => "status",
        Answer::Neighbors(_) => "neighbors",
        Answer::Sessions(_) => "sessions",
        Answer::Keys(_) => "keys",
        Answer::Differences(_) => "differences",
        Answer::Done(_) => "done",
        Answer::Error(_) => "error",
    })
}

/// A reload of a thousand neighbours takes seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::net::UnixListener;

    use super::*;
    use crate::cli::samples;

    /// A client of a server that answers one request with `answer`; the request comes on the channel.
    fn client_of(dir: &Path, answer: impl Into<Vec<u8>>) -> (Client, mpsc::Receiver<serde_json::Value>) {
        let socket = dir.join("fake.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (requests, received) = mpsc::channel();
        let answer = answer.into();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            requests.send(serde_json::from_str(&line).unwrap()).unwrap();
            stream.write_all(&answer).await.unwrap();
        });
        (Client::new(&Instance::default(), Some(&socket)), received)
    }

    fn on_a_line(answer: &Answer) -> String {
        serde_json::to_string(answer).unwrap() + "\n"
    }

    #[tokio::test]
    async fn every_request_gets_its_answer() {
        let dir = tempfile::tempdir().unwrap();
        let status = samples::status();
        let (client, asked) = client_of(dir.path(), on_a_line(&Answer::Status(Box::new(status.clone()))));
        assert_eq!(json(&client.status().await.unwrap()), json(&status));
        assert_eq!(asked.recv().unwrap(), serde_json::json!({ "request": "status" }));

        let dir = tempfile::tempdir().unwrap();
        let (client, asked) = client_of(dir.path(), on_a_line(&Answer::Neighbors(status.neighbors.clone())));
        let neighbors = client.neighbors(Some("192.0.2.1".to_owned())).await.unwrap();
        assert_eq!(json(&neighbors), json(&status.neighbors));
        assert_eq!(asked.recv().unwrap(), serde_json::json!({ "request": "neighbors", "peer": "192.0.2.1" }));

        let dir = tempfile::tempdir().unwrap();
        let sessions = vec![samples::session()];
        let (client, asked) = client_of(dir.path(), on_a_line(&Answer::Sessions(sessions.clone())));
        assert_eq!(json(&client.sessions().await.unwrap()), json(&sessions));
        assert_eq!(asked.recv().unwrap(), serde_json::json!({ "request": "sessions" }));

        let dir = tempfile::tempdir().unwrap();
        let keys = vec![samples::keys()];
        let (client, asked) = client_of(dir.path(), on_a_line(&Answer::Keys(keys.clone())));
        assert_eq!(json(&client.keys(None).await.unwrap()), json(&keys));
        assert_eq!(asked.recv().unwrap(), serde_json::json!({ "request": "keys", "peer": null }));

        let dir = tempfile::tempdir().unwrap();
        let differences = vec!["neighbor 192.0.2.1: key 2 is not in the file".to_owned()];
        let (client, asked) = client_of(dir.path(), on_a_line(&Answer::Differences(differences.clone())));
        assert_eq!(client.differences().await.unwrap(), differences);
        assert_eq!(asked.recv().unwrap(), serde_json::json!({ "request": "config-diff" }));

        for (request, expected) in [
            (
                Request::Reload { discard: false, force: true },
                serde_json::json!({ "request": "reload", "discard": false, "force": true }),
            ),
            (
                Request::NeighborRemove { peer: "192.0.2.1".to_owned() },
                serde_json::json!({ "request": "neighbor-remove", "peer": "192.0.2.1" }),
            ),
            (
                Request::NeighborAdd {
                    peer: "192.0.2.1".to_owned(),
                    toml: "password = \"a\\\"b\"".to_owned(),
                },
                serde_json::json!({
                    "request": "neighbor-add", "peer": "192.0.2.1", "toml": "password = \"a\\\"b\""
                }),
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (client, asked) = client_of(dir.path(), on_a_line(&Answer::Done("ok".to_owned())));
            assert_eq!(client.order(request).await.unwrap(), "ok");
            assert_eq!(asked.recv().unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn events_come_one_by_one_until_the_daemon_stops() {
        let dir = tempfile::tempdir().unwrap();
        let events = samples::events();
        let lines: String = events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect();
        let (client, asked) = client_of(dir.path(), lines);
        let mut stream = client.events().await.unwrap();
        for event in &events {
            assert_eq!(json(&stream.next().await.unwrap()), json(event));
        }
        assert!(matches!(stream.next().await, Err(ClientError::Stopped)));
        assert_eq!(asked.recv().unwrap(), serde_json::json!({ "request": "events" }));
    }

    #[tokio::test]
    async fn events_of_newer_daemons_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let lines = concat!(
            "{\"event\":\"weather\",\"time\":1.5,\"sky\":{\"clouds\":3}}\n",
            "{\"event\":\"session\",\"time\":1.5,\"neighbor\":\"192.0.2.1\",\"session\":\"a > b\",",
            "\"state\":\"half-open\",\"new\":[1]}\n",
        );
        let (client, _asked) = client_of(dir.path(), lines);
        let mut stream = client.events().await.unwrap();
        assert!(matches!(stream.next().await.unwrap(), Event::Unknown));
        let event = json(&stream.next().await.unwrap());
        assert_eq!(event["state"], "half-open");
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_daemons_words() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = Answer::Error("192.0.2.1 is configured already".to_owned());
        let (client, _asked) = client_of(dir.path(), on_a_line(&refusal));
        let error = client.order(Request::ConfigWrite).await.unwrap_err();
        assert_eq!(error.to_string(), "192.0.2.1 is configured already");
        assert!(!error.is_unreachable());

        let dir = tempfile::tempdir().unwrap();
        let (client, _asked) = client_of(dir.path(), on_a_line(&refusal));
        let error = client.events().await.unwrap().next().await.unwrap_err();
        assert!(matches!(error, ClientError::Refused(_)), "{error}");
    }

    #[tokio::test]
    async fn answers_of_another_version_are_told_apart() {
        for (answer, expected) in [
            (on_a_line(&Answer::Done("done".to_owned())), "answered `done`, which was not asked"),
            ("{\"answer\":\"riddle\"}\n".to_owned(), "tcpauthd is of an older version"),
            (format!("{{\"protocol\":1,\"version\":\"{VERSION}\",\"answer\":\"riddle\"}}\n"), "same version"),
            (String::new(), "without an answer; see `journalctl -u tcpauthd`"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (client, _asked) = client_of(dir.path(), answer);
            let error = client.status().await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn a_daemon_that_is_not_there_is_told_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("east.sock");
        let client = Client::new(&"east".parse().unwrap(), Some(&socket));
        let error = client.status().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "tcpauthd is not running (no {}); start it with `systemctl start tcpauthd@east`",
                socket.display()
            )
        );
        assert!(error.is_unreachable());
        assert!(!client.is_listening().await);

        drop(UnixListener::bind(&socket).unwrap());
        let error = client.status().await.unwrap_err();
        assert!(error.to_string().contains("nobody listens on"), "{error}");
        assert!(error.is_unreachable());
    }

    #[test]
    fn a_closed_door_is_told_with_the_key() {
        let client = Client::new(&Instance::default(), None);
        let error = client.connect_error(io::ErrorKind::PermissionDenied.into());
        assert_eq!(
            error.to_string(),
            "cannot open /run/tcpauth/default.sock: permission denied: run as root or join group tcpauth"
        );
        assert!(error.is_unreachable());
    }

    #[tokio::test]
    async fn a_daemon_that_hangs_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("hung.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let mut client = Client::new(&Instance::default(), Some(&socket));
        client.patience = Duration::from_millis(20);
        let error = client.status().await.unwrap_err();
        assert!(error.to_string().starts_with("tcpauthd did not answer within"), "{error}");
        assert!(error.is_unreachable());
    }

    fn json(value: &impl serde::Serialize) -> serde_json::Value {
        serde_json::to_value(value).unwrap()
    }
}
