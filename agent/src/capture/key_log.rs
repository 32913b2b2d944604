//! Keys that two daemons agreed on, as `tcpauthd --key-log` writes them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use tcpauth_common::{Algorithm, Isn, Kdf, KeyId};
use zeroize::Zeroizing;

use super::connection::{End, Sequence};
use crate::keys::{MasterKey, Mkt, TcpOptions};

/// Keys of single connections. Holds secrets: no `Debug`.
#[derive(Clone, Default)]
pub struct AgreedKeys {
    /// By both ends, the lower one first.
    keys: HashMap<[SocketAddr; 2], Vec<AgreedKey>>,
}

/// A key of one connection.
#[derive(Clone)]
pub(super) struct AgreedKey {
    /// The end whose daemon wrote it: [`Mkt::send_id`] is the KeyID of what it sends.
    pub local: SocketAddr,
    /// As that daemon has it.
    pub mkt: Mkt,
    client_isn: Isn,
    /// `None`: it was not known yet, and does not tell.
    server_isn: Option<Isn>,
}

/// Why agreed keys cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KeyLogError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A line is none that tcpauthd writes.
    #[error(
        "{}:{line}: {what}; a line is `local-end peer-end client-isn server-isn algorithm send-id recv-id key-in-hex tcp-options`, \
         as `tcpauthd --key-log` writes it",
        path.display()
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl AgreedKeys {
    /// Reads a file, beside those that were read before.
    ///
    /// # Errors
    /// [`KeyLogError`].
    pub fn read(&mut self, path: &Path) -> Result<(), KeyLogError> {
        let read = fs::read_to_string(path);
        let text =
            Zeroizing::new(read.map_err(|source| KeyLogError::Read { path: path.to_owned(), source })?);
        for (line, text) in (1..).zip(text.lines()) {
            if text.trim().is_empty() || text.starts_with('#') {
                continue;
            }
            let (mut ends, keys) =
                parse(text).map_err(|what| KeyLogError::Line { path: path.to_owned(), line, what })?;
            ends.sort_unstable();
            self.keys.entry(ends).or_default().extend(keys);
        }
        Ok(())
    }

    /// Those of connections with these ends, the lower one first.
    pub(super) fn between(&self, ends: &[SocketAddr; 2]) -> &[AgreedKey] {
        self.keys.get(ends).map_or(&[], Vec::as_slice)
    }
}

impl AgreedKey {
    /// Whether it is a key of the connection in which `sender` has this sequence.
    pub fn is_of(&self, sequence: Sequence, sender: End) -> bool {
        let (client, server) = match sequence.client == sender {
            true => (sequence.source_isn, sequence.destination_isn),
            false => (sequence.destination_isn, sequence.source_isn),
        };
        self.client_isn == client && self.server_isn.is_none_or(|isn| isn == server)
    }
}

/// Both ends, and the key. One of older versions of tcpauthd, which do not say whether it covers TCP options, may be
/// either of two.
fn parse(line: &str) -> Result<([SocketAddr; 2], Vec<AgreedKey>), &'static str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let Some((fields, tcp_options)) = fields.split_first_chunk::<8>() else {
        return Err("too few fields");
    };
    let [local, peer, client_isn, server_isn, algorithm, send_id, recv_id, master_key] = *fields;
    let tcp_options = match *tcp_options {
        [] => vec![TcpOptions::Include, TcpOptions::Exclude],
        [name] => vec![TcpOptions::from_name(name).ok_or("tcp-options is neither include nor exclude")?],
        _ => return Err("too many fields"),
    };
    let end = |text: &str| text.parse::<SocketAddr>().map_err(|_| "an end is no address with a port");
    let isn = |text: &str| text.parse().map(Isn).map_err(|_| "an ISN is no number of 32 bits");
    let id = |text: &str| text.parse().map(KeyId).map_err(|_| "a KeyID is no number of 8 bits");
    let octets = Zeroizing::new(hex::decode(master_key).map_err(|_| "the key is not hexadecimal")?);
    let mkt = Mkt {
        send_id: id(send_id)?,
        recv_id: id(recv_id)?,
        algorithm: Algorithm::from_name(algorithm).ok_or("the algorithm is unknown")?,
        kdf: Kdf::Rfc5926,
        tcp_options: TcpOptions::default(),
        master_key: MasterKey::new(octets).ok_or("the key is empty")?,
    };
    let server_isn = if server_isn == "-" { None } else { Some(isn(server_isn)?) };
    let (local, peer, client_isn) = (end(local)?, end(peer)?, isn(client_isn)?);
    let with = |tcp_options| {
        let mkt = Mkt { tcp_options, ..mkt.clone() };
        AgreedKey { local, mkt, client_isn, server_isn }
    };
    Ok(([local, peer], tcp_options.into_iter().map(with).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "192.0.2.1:40000 192.0.2.2:179 7 - hmac-sha-256-128 130 200 00ff exclude";

    #[test]
    fn a_line_is_a_key_of_both_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.log");
        fs::write(&path, format!("# said first\n\n{LINE}\n")).unwrap();
        let mut keys = AgreedKeys::default();
        keys.read(&path).unwrap();
        let ends = ["192.0.2.1:40000".parse().unwrap(), "192.0.2.2:179".parse().unwrap()];
        let [key] = keys.between(&ends) else { panic!("not one key") };
        assert_eq!((key.mkt.send_id, key.mkt.recv_id), (KeyId(130), KeyId(200)));
        assert_eq!(key.mkt.master_key.octets(), [0, 0xff]);
        assert!(key.mkt.excludes_options());
        let sequence = |source, destination, client| Sequence {
            source_isn: Isn(source),
            destination_isn: Isn(destination),
            client,
            sne: 0,
        };
        assert!(key.is_of(sequence(7, 9, End::Lower), End::Lower));
        assert!(key.is_of(sequence(9, 7, End::Lower), End::Higher));
        assert!(!key.is_of(sequence(7, 9, End::Higher), End::Lower), "the other end's ISN");
        let later = AgreedKey { server_isn: Some(Isn(9)), ..key.clone() };
        assert!(later.is_of(sequence(7, 9, End::Lower), End::Lower));
        assert!(!later.is_of(sequence(7, 0, End::Lower), End::Lower), "no SYN is under it");
    }

    #[test]
    fn a_line_without_tcp_options_may_be_of_either_key() {
        let (_, keys) = parse(LINE.strip_suffix(" exclude").unwrap()).unwrap();
        assert_eq!(keys.iter().map(|key| key.mkt.excludes_options()).collect::<Vec<_>>(), [false, true]);
        let (_, keys) = parse(&LINE.replace("exclude", "include")).unwrap();
        assert_eq!(keys.iter().map(|key| key.mkt.excludes_options()).collect::<Vec<_>>(), [false]);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.log");
        for (from, to, what) in [
            (" 00ff exclude", "", "too few fields"),
            ("exclude", "exclude x", "too many fields"),
            ("exclude", "excluded", "tcp-options is neither include nor exclude"),
            ("192.0.2.2:179", "192.0.2.2", "an end is no address with a port"),
            (" 7 ", " x ", "an ISN is no number"),
            (" 130 ", " 256 ", "a KeyID is no number"),
            ("hmac-sha-256-128", "hmac-md4", "the algorithm is unknown"),
            ("00ff", "0f0", "the key is not hexadecimal"),
        ] {
            fs::write(&path, format!("#\n{}\n", LINE.replace(from, to))).unwrap();
            let error = AgreedKeys::default().read(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("keys.log:2: {what}")), "{error}");
            assert!(!error.contains("00ff"), "{error}");
        }
        assert!(matches!(
            AgreedKeys::default().read(&folder.path().join("absent")),
            Err(KeyLogError::Read { .. })
        ));
    }
}
