//! The daemon's side of the control socket.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream as BlockingStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::stat::{Mode, umask},
    unistd::{Gid, chown},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::{Semaphore, broadcast, mpsc, oneshot},
    time::timeout,
};
use zeroize::Zeroizing;

use super::protocol::{Answer, Event, Reply, Request};

/// Longest request, octets: a neighbour's table with its secret fits many times.
const MAX_LINE: u64 = 64 * 1024;
/// Clients served at once; more are told to come back.
const MAX_CLIENTS: usize = 32;
/// A client has this long to ask, and to take an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request on its way to the main loop.
pub struct Command {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody answers on it.
    #[error("{} is in use by another process: is a second tcpauthd of this instance running?", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket has its name.
    #[error("{} exists and is not a socket: remove it, tcpauthd needs the name", .0.display())]
    NotASocket(PathBuf),
    /// The system refuses it.
    #[error("cannot make the control socket {}: {source}", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// The control socket, for root and one group. Its file is removed with it.
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Makes the socket, in the place of one that nobody listens on any more. Its folder exists.
    ///
    /// # Errors
    /// Any [`ServerError`].
    pub fn bind(path: &Path, group: Option<Gid>) -> Result<Self, ServerError> {
        let failed = |source| ServerError::System { path: path.to_owned(), source };
        remove_stale(path)?;
        // Never open to others, not even until the mode is set.
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.map_err(failed)?;
        chown(path, None, group).map_err(|error| failed(error.into()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves clients until dropped: their requests go to `commands`, and who follows events gets `events`.
    pub async fn serve(self, commands: mpsc::Sender<Command>, events: broadcast::Sender<Event>) {
        let places = Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("control socket: {error}");
                    // Out of descriptors, most likely: do not spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let place = Arc::clone(&places).try_acquire_owned();
            let (commands, events) = (commands.clone(), events.clone());
            tokio::spawn(async move {
                let result = match place {
                    Ok(_place) => converse(stream, &commands, &events).await,
                    Err(_) => refuse(stream).await,
                };
                if let Err(error) = result {
                    tracing::debug!("control client: {error}");
                }
            });
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the socket of a daemon that was killed.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    let failed = |source| ServerError::System { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ServerError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match BlockingStream::connect(path) {
        Ok(_) => Err(ServerError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Answers one request after the other, until the client closes.
async fn converse(
    stream: UnixStream,
    commands: &mpsc::Sender<Command>,
    events: &broadcast::Sender<Event>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let line = match timeout(PATIENCE, read_line(&mut reader)).await? {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return answer_with(&mut writer, &Answer::Error(error.to_string())).await;
            }
            Err(error) => return Err(error),
        };
        match serde_json::from_slice(&line) {
            Ok(Request::Events) => return follow(reader, writer, events.subscribe()).await,
            Ok(request) => {
                let (reply, answer) = oneshot::channel();
                let stopping = || io::Error::other("the daemon is stopping");
                commands.send(Command { request, reply }).await.map_err(|_| stopping())?;
                answer_with(&mut writer, &answer.await.map_err(|_| stopping())?).await?;
            }
            // What serde found may quote the request, and a secret with it.
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                let what = format!(
                    "tcpauthd {} does not understand this request (line {line}, column {column}): is tcpauth of another \
                     version? Restart tcpauthd after an upgrade",
                    env!("CARGO_PKG_VERSION")
                );
                answer_with(&mut writer, &Answer::Error(what)).await?;
            }
        }
    }
}

/// One line without its end; `None` if the client closed.
async fn read_line(reader: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(1024));
    let len = reader.take(MAX_LINE).read_until(b'\n', &mut line).await?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => {
            line.pop();
            Ok(Some(line))
        }
        Some(_) if len as u64 == MAX_LINE => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("request longer than {MAX_LINE} octets")))
        }
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Sends events until either side closes. A client that cannot follow is told how many it missed.
async fn follow(
    mut reader: impl AsyncBufReadExt + Unpin,
    mut writer: OwnedWriteHalf,
    mut events: broadcast::Receiver<Event>,
) -> io::Result<()> {
    let mut ignored = [0; 64];
    loop {
        let event = tokio::select! {
            read = reader.read(&mut ignored) => match read? {
                0 => return Ok(()),
                _ => continue,
            },
            event = events.recv() => event,
        };
        match event {
            Ok(event) => send(&mut writer, &event).await?,
            Err(broadcast::error::RecvError::Lagged(count)) => {
                send(&mut writer, &Event::Missed { count }).await?
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}

async fn refuse(stream: UnixStream) -> io::Result<()> {
    let (_reader, mut writer) = stream.into_split();
    let answer = Answer::Error(format!("{MAX_CLIENTS} clients are being served: try again, or end some"));
    answer_with(&mut writer, &answer).await
}

async fn answer_with(writer: &mut OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    send(writer, &Reply::from(answer)).await
}

async fn send(writer: &mut OwnedWriteHalf, message: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    timeout(PATIENCE, writer.write_all(&line)).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Server {
        folder: tempfile::TempDir,
        events: broadcast::Sender<Event>,
    }

    impl Server {
        /// Answers every request but events by `Done`, with the peer if there is one.
        fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let listener = Listener::bind(&folder.path().join("sock"), None).unwrap();
            let (commands, mut requests) = mpsc::channel::<Command>(4);
            let events = broadcast::channel(2).0;
            tokio::spawn(listener.serve(commands, events.clone()));
            tokio::spawn(async move {
                while let Some(Command { request, reply }) = requests.recv().await {
                    let done = match request {
                        Request::NeighborRemove { peer } => peer,
                        _ => "done".to_owned(),
                    };
                    reply.send(Answer::Done(done)).unwrap();
                }
            });
            Self { folder, events }
        }

        async fn client(&self) -> BufReader<UnixStream> {
            BufReader::new(UnixStream::connect(self.folder.path().join("sock")).await.unwrap())
        }
    }

    async fn ask(client: &mut BufReader<UnixStream>, request: &str) -> String {
        client.write_all(request.as_bytes()).await.unwrap();
        answer(client).await
    }

    async fn answer(client: &mut BufReader<UnixStream>) -> String {
        let mut line = String::new();
        client.read_line(&mut line).await.unwrap();
        line
    }

    #[tokio::test]
    async fn requests_are_answered_one_after_the_other() {
        let server = Server::start();
        let mut client = server.client().await;
        let remove = "{\"request\":\"neighbor-remove\",\"peer\":\"192.0.2.1\"}\n";
        let line = |value: &str| {
            let version = env!("CARGO_PKG_VERSION");
            format!(
                "{{\"protocol\":1,\"version\":\"{version}\",\"answer\":\"done\",\"value\":\"{value}\"}}\n"
            )
        };
        assert_eq!(ask(&mut client, remove).await, line("192.0.2.1"));
        assert_eq!(ask(&mut client, "{\"request\":\"reload\"}\n").await, line("done"));
    }

    #[tokio::test]
    async fn what_is_not_understood_is_not_quoted() {
        let server = Server::start();
        let mut client = server.client().await;
        let answer = ask(&mut client, "{\"request\":\"neighbor-add\",\"secret\":\"hunter2\"}\n").await;
        assert!(answer.contains("\"answer\":\"error\"") && !answer.contains("hunter2"), "{answer}");
        assert!(answer.contains("is tcpauth of another version?"), "{answer}");
    }

    #[tokio::test]
    async fn a_line_without_end_is_refused() {
        let server = Server::start();
        let mut client = server.client().await;
        let answer = ask(&mut client, &"x".repeat(MAX_LINE as usize)).await;
        assert!(answer.contains("longer than 65536 octets"), "{answer}");
        assert_eq!(self::answer(&mut client).await, "", "closed");
    }

    #[tokio::test]
    async fn too_many_clients_are_told_so() {
        let server = Server::start();
        let mut clients = Vec::new();
        for _ in 0..MAX_CLIENTS {
            let mut client = server.client().await;
            ask(&mut client, "{\"request\":\"status\"}\n").await;
            clients.push(client);
        }
        let mut one_more = server.client().await;
        assert!(answer(&mut one_more).await.contains("32 clients"));
        clients.pop();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut another = server.client().await;
        assert!(ask(&mut another, "{\"request\":\"status\"}\n").await.contains("done"));
    }

    #[tokio::test]
    async fn a_slow_follower_is_told_how_many_it_missed() {
        let server = Server::start();
        let mut client = server.client().await;
        client.write_all(b"{\"request\":\"events\"}\n").await.unwrap();
        while server.events.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
        for count in 0..5 {
            server.events.send(Event::Missed { count }).unwrap();
        }
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(answer(&mut client).await);
        }
        assert_eq!(seen[0], "{\"event\":\"missed\",\"count\":3}\n");
        assert_eq!(seen[2], "{\"event\":\"missed\",\"count\":4}\n");
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        let stale = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path, None), Err(ServerError::InUse(_))));
        drop(stale);
        let listener = Listener::bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(listener);
        assert!(!path.exists());
        fs::write(&path, "file").unwrap();
        assert!(matches!(Listener::bind(&path, None), Err(ServerError::NotASocket(_))));
    }
}
