//! Files and fingerprints that the table `tls` names.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::KmpProblem;
use crate::config::cell::Cell;

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A secret of ours.
    PrivateKey,
    /// What anybody may know.
    Certificate,
}

/// The path in `cell`, of a file that can be read; a relative one starts at `folder`.
pub(super) fn file(
    field: &'static str,
    kind: Kind,
    cell: &mut Cell<'_, '_, '_>,
    folder: &Path,
) -> Option<PathBuf> {
    let path = folder.join(cell.text(field)?);
    match check(field, kind, &path) {
        Ok(()) => {
            cell.report.add_file(path.clone());
            Some(path)
        }
        Err(problem) => {
            cell.wrong(problem.into());
            None
        }
    }
}

/// The path is told only once it is known to be a file: until then it may be a secret in the wrong field.
fn check(field: &'static str, kind: Kind, path: &Path) -> Result<(), KmpProblem> {
    let unreadable = |error: std::io::Error| KmpProblem::FileUnreadable { field, kind: error.kind() };
    // Not to wait for the other end of a named pipe.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(KmpProblem::FileNotRegular(field));
    }
    let path = || path.to_owned();
    match kind {
        // A group may be let in to read, no more; others not at all.
        Kind::PrivateKey if metadata.mode() & 0o027 != 0 => {
            Err(KmpProblem::KeyFileOpen { field, path: path() })
        }
        Kind::Certificate if metadata.mode() & 0o022 != 0 => {
            Err(KmpProblem::FileWritable { field, path: path() })
        }
        _ => Ok(()),
    }
}

/// The SHA-256 fingerprint in `cell`: 64 hexadecimal digits, octets separated by colons or not.
pub(super) fn fingerprint(field: &'static str, cell: &mut Cell<'_, '_, '_>) -> Option<[u8; 32]> {
    let fingerprint = parse(cell.text(field)?);
    if fingerprint.is_none() {
        cell.wrong(KmpProblem::NotFingerprint(field).into());
    }
    fingerprint
}

fn parse(text: &str) -> Option<[u8; 32]> {
    let digits = if text.contains(':') {
        let octets: Vec<&str> = text.split(':').collect();
        octets.iter().all(|octet| octet.len() == 2).then(|| octets.concat())?
    } else {
        text.to_owned()
    };
    hex::decode(digits).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_hexadecimal_with_colons_or_without() {
        let octets: [u8; 32] = std::array::from_fn(|n| n as u8 * 8);
        let plain = hex::encode(octets);
        let colons = octets.map(|octet| format!("{octet:02X}")).join(":");
        assert_eq!((parse(&plain), parse(&colons)), (Some(octets), Some(octets)));
        for wrong in ["", "00", &plain[1..], &plain[2..], &colons[3..], &plain.replacen('0', "g", 1), ":"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(parse(&format!("{plain}00")), None);
        assert_eq!(parse(&format!("0:{}", &plain[1..])), None);
    }
}
