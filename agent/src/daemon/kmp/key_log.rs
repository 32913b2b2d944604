//! Agreed keys in clear, for those who debug: `tcpauthd --key-log FILE`.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::{keys::Role, kmp::Agreed};

/// The first lines of a new file.
const HEADER: &str = "\
# Keys of TCP connections, agreed by tcpauthd with neighbours' daemons, in clear: whoever reads this file can forge
# segments of these connections. For `tcpauth verify --key-log`. A line a key, fields separated by a blank:
# our end, the peer's end, the client's ISN, the server's ISN (- if it was not known yet), MAC algorithm, KeyID of what
# we send, KeyID of what we accept, master key in hex, whether MACs include or exclude other TCP options. Traffic keys
# come from the master key by the KDF of RFC 5926.
";

/// Why keys cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum KeyLogError {
    /// The system refuses the file.
    #[error("cannot write agreed keys to {}: {source}", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not for its owner only, or is no file.
    #[error(
        "agreed keys are not written to {}: it has to be a file of ours with mode 0600 (it has {mode:04o}); remove it, \
         or give another name to --key-log",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// A file to which agreed keys are written.
#[derive(Debug)]
pub struct KeyLog {
    path: PathBuf,
    file: File,
    has_failed: bool,
}

impl KeyLog {
    /// Opens the file, new or to go on with, for root alone.
    ///
    /// # Errors
    /// [`KeyLogError`].
    pub fn open(path: &Path) -> Result<Self, KeyLogError> {
        let failed = |source| KeyLogError::System { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        // A link would have it written to where somebody else wants it.
        options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let mut file = options.open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let is_ours = metadata.uid() == nix::unistd::geteuid().as_raw();
        if !metadata.is_file() || !is_ours || metadata.mode() & 0o077 != 0 {
            let mode = metadata.mode() & 0o7777;
            return Err(KeyLogError::Exposed { path: path.to_owned(), mode });
        }
        if metadata.len() == 0 {
            file.write_all(HEADER.as_bytes()).map_err(failed)?;
        }
        tracing::warn!(
            file = %path.display(),
            "AGREED KEYS ARE WRITTEN IN CLEAR, as --key-log asks: whoever reads the file can forge segments; not for routers \
             in service"
        );
        Ok(Self { path: path.to_owned(), file, has_failed: false })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line. A failure is logged, once.
    pub fn write(&mut self, agreed: &Agreed) {
        let written = self.file.write_all(line(agreed).as_bytes());
        match written {
            Err(error) if !self.has_failed => {
                tracing::error!(file = %self.path.display(), "an agreed key is not in the key log: {error}");
                self.has_failed = true;
            }
            Err(_) => {}
            Ok(()) => self.has_failed = false,
        }
    }
}

/// The line of an agreed key.
fn line(agreed: &Agreed) -> Zeroizing<String> {
    let Agreed { connection, role, mkt } = agreed;
    let ends = match role {
        Role::Client => [connection.client, connection.server],
        Role::Server => [connection.server, connection.client],
    };
    let [local, peer] = ends.map(without_scope);
    let server_isn = connection.server_isn.map_or_else(|| "-".to_owned(), |isn| isn.0.to_string());
    let key = Zeroizing::new(hex::encode(mkt.master_key.octets()));
    let public = format!(
        "{local} {peer} {} {server_isn} {} {} {} ",
        connection.client_isn.0,
        mkt.algorithm.name(),
        mkt.send_id.0,
        mkt.recv_id.0
    );
    let tcp_options = mkt.tcp_options.name();
    // In one allocation: nothing of the key is left behind.
    let mut line = Zeroizing::new(String::with_capacity(public.len() + key.len() + tcp_options.len() + 2));
    for part in [&public, key.as_str(), " ", tcp_options, "\n"] {
        line.push_str(part);
    }
    line
}

/// An end as captures have it: without the interface of a link-local address.
fn without_scope(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(end.ip(), end.port())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use tcpauth_common::{Algorithm, Isn, Kdf, KeyId};

    use super::*;
    use crate::{
        keys::{MasterKey, Mkt, TcpOptions},
        kmp::Connection,
    };

    fn agreed(role: Role, server_isn: Option<Isn>) -> Agreed {
        let connection = Connection {
            client: "192.0.2.1:40000".parse().unwrap(),
            server: "192.0.2.2:179".parse().unwrap(),
            client_isn: Isn(4_294_967_295),
            server_isn,
        };
        let mkt = Mkt {
            send_id: KeyId(130),
            recv_id: KeyId(200),
            algorithm: Algorithm::HmacSha256_128,
            kdf: Kdf::Rfc5926,
            tcp_options: TcpOptions::Include,
            master_key: MasterKey::new(Zeroizing::new(vec![0, 0xff])).unwrap(),
        };
        Agreed { connection, role, mkt }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn each_end_writes_its_own_side_of_the_key() {
        let ours = line(&agreed(Role::Client, None));
        assert_eq!(
            *ours,
            "192.0.2.1:40000 192.0.2.2:179 4294967295 - hmac-sha-256-128 130 200 00ff include\n"
        );
        let mut theirs = agreed(Role::Server, Some(Isn(7)));
        theirs.mkt.tcp_options = TcpOptions::Exclude;
        let theirs = line(&theirs);
        assert_eq!(
            *theirs,
            "192.0.2.2:179 192.0.2.1:40000 4294967295 7 hmac-sha-256-128 130 200 00ff exclude\n"
        );
    }

    #[test]
    fn a_log_goes_on_where_it_was_and_is_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.log");
        for _ in 0..2 {
            KeyLog::open(&path).unwrap().write(&agreed(Role::Client, None));
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(HEADER) && HEADER.lines().all(|line| line.starts_with('#')));
        let keys = text.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(keys.count(), 2, "{text}");
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_file_that_others_may_read_gets_no_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.log");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = KeyLog::open(&path).unwrap_err().to_string();
        assert!(error.contains("mode 0600 (it has 0640)"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &link).unwrap();
        assert!(matches!(KeyLog::open(&link), Err(KeyLogError::System { .. })));
        assert!(!folder.path().join("elsewhere").exists());
        assert!(matches!(
            KeyLog::open(&folder.path().join("none/keys.log")),
            Err(KeyLogError::System { .. })
        ));
    }
}
