//! Whether a handshake can begin at all: each distinct table `tls` is tried once, with the files that it names.

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::{Authentication, Rsa, Tls};
use crate::keys::MasterKey;
use crate::kmp::tls::{Endpoint, Psk, Side};

/// What was tried, and what was wrong with it.
#[derive(Default)]
pub(in crate::config) struct Trials(Vec<(Subject, Result<(), String>)>);

/// What of a table `tls` decides whether a handshake can begin.
#[derive(PartialEq, Eq)]
struct Subject {
    suites: Vec<&'static str>,
    rsa: Option<Rsa>,
    private_key_file: Option<PathBuf>,
}

/// What a trial says.
pub(super) struct Verdict<'v> {
    pub(super) result: &'v Result<(), String>,
    /// Not told before.
    pub(super) is_new: bool,
}

impl Trials {
    /// What is wrong with the suites or the files of `tls`: `tls.FIELD PATH: why`.
    pub(super) fn of(&mut self, tls: &Tls) -> Verdict<'_> {
        let (rsa, private_key_file) = match &tls.authentication {
            Authentication::Psk { rsa, .. } => (rsa.clone(), None),
            Authentication::RawPublicKey { private_key_file, .. } => (None, Some(private_key_file.clone())),
        };
        let subject = Subject { suites: tls.suites.clone(), rsa, private_key_file };
        let known = self.0.iter().position(|(other, _)| *other == subject);
        let place = known.unwrap_or(self.0.len());
        if known.is_none() {
            self.0.push((subject, attempt(tls)));
        }
        Verdict { result: &self.0[place].1, is_new: known.is_none() }
    }
}

fn attempt(tls: &Tls) -> Result<(), String> {
    let is_server = match &tls.authentication {
        Authentication::Psk { rsa: Some(rsa), .. } => rsa.certificate.is_some(),
        _ => true,
    };
    // Any secret serves: nobody answers.
    let Some(secret) = MasterKey::new(Zeroizing::new(vec![0; 32])) else { return Ok(()) };
    let psk = Psk { identity: "a".to_owned(), peer_identity: "b".to_owned(), secret };
    for side in [Some(Side::Client), is_server.then_some(Side::Server)].into_iter().flatten() {
        Endpoint::new(side, tls, &psk).map_err(|error| error.to_string())?;
    }
    Ok(())
}
