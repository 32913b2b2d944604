//! Our ends of TLS-PSK connections with openssl(1) and GnuTLS at the other, and the same exported keys at both.

#[path = "tls/ours.rs"]
mod ours;
#[path = "tls/process.rs"]
mod process;

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use openssl::{hash::MessageDigest, pkey::PKey, sign::Signer};
use ours::{CLIENT, LABEL, Ours, SECRET};
use process::Program;
use tcpauth::{
    config::{Authentication, Rsa, Tls, Validation},
    kmp::tls::{
        Side, TlsError,
        key_file::PrivateKey,
        suites::{ALL, KeyExchange, Suite},
    },
};

const CONTEXT: &[u8] = b"quartet and ISNs";

/// What the tests of one suite need: a certificate, a place for files.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=router"])
            .args([
                "-keyout".as_ref(),
                files.path("key").as_path(),
                "-out".as_ref(),
                &files.path("certificate"),
            ])
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{made:?}");
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn rsa(&self, suite: &Suite) -> Option<Rsa> {
        suite.exchange.has_certificate().then(|| Rsa {
            certificate: Some((self.path("certificate"), self.path("key"))),
            validation: Validation::CaFile(self.path("certificate")),
        })
    }

    /// A secret as OpenSSL keeps it: a session, with the suite whose hash is the secret's. `-psk` means SHA-256.
    fn session(&self, suite: &Suite) -> PathBuf {
        let mut der = vec![2, 1, 1, 2, 2, 3, 4, 4, 2];
        der.extend(suite.number.to_be_bytes());
        der.extend([4, 0, 4, u8::try_from(SECRET.len()).unwrap()]);
        der.extend(SECRET);
        let mut session = vec![0x30, u8::try_from(der.len()).unwrap()];
        session.extend(der);
        let text = openssl::base64::encode_block(&session);
        let path = self.path("session");
        fs::write(
            &path,
            format!("-----BEGIN SSL SESSION PARAMETERS-----\n{text}\n-----END SSL SESSION PARAMETERS-----\n"),
        )
        .unwrap();
        path
    }

    /// `openssl s_server` or `s_client`, which exports a key and logs the master secret.
    fn openssl(&self, command: &str, suite: &Suite) -> Command {
        let name = suite.openssl().unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args([command, "-psk_identity", CLIENT, "-keymatexport", LABEL, "-keymatexportlen", "32"]);
        openssl.arg("-keylogfile").arg(self.path("keylog"));
        match suite.exchange {
            KeyExchange::Tls13 if suite.sha384 => {
                openssl.args(["-tls1_3", "-ciphersuites", name, "-psk_session"]).arg(self.session(suite))
            }
            KeyExchange::Tls13 => openssl.args(["-tls1_3", "-ciphersuites", name]),
            _ => openssl.args(["-tls1_2", "-cipher", name]),
        };
        if !(suite.exchange.is_tls13() && suite.sha384) {
            openssl.args(["-psk", &hex::encode(SECRET)]);
        }
        openssl
    }

    /// The keys with and without [`CONTEXT`] of a connection of TLS 1.2 (RFC 5705 §4), from the master secret that the
    /// other end logged.
    fn exported(&self, suite: &Suite, randoms: [&[u8]; 2]) -> [String; 2] {
        let log = fs::read_to_string(self.path("keylog")).unwrap();
        let start = format!("CLIENT_RANDOM {} ", hex::encode(randoms[0]));
        let secret = log.lines().find_map(|line| line.strip_prefix(&start)).expect("logged");
        let secret = hex::decode(secret).unwrap();
        let without = [LABEL.as_bytes(), randoms[0], randoms[1]].concat();
        let with = [&without, &(CONTEXT.len() as u16).to_be_bytes()[..], CONTEXT].concat();
        [with, without].map(|seed| hex::encode(p_hash(&secret, &seed, suite.sha384)))
    }
}

/// 32 octets of the PRF of TLS 1.2 (RFC 5246 §5).
fn p_hash(secret: &[u8], seed: &[u8], sha384: bool) -> Vec<u8> {
    let digest = if sha384 { MessageDigest::sha384() } else { MessageDigest::sha256() };
    let key = PKey::hmac(secret).unwrap();
    let hmac = |octets: &[u8]| Signer::new(digest, &key).unwrap().sign_oneshot_to_vec(octets).unwrap();
    let first = hmac(seed);
    hmac(&[&first, seed].concat())[..32].to_vec()
}

fn suites() -> impl Iterator<Item = &'static Suite> {
    ALL.iter().filter(|suite| suite.refused().is_none())
}

/// A place for one connection to us.
fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[test]
fn our_client_agrees_with_openssl_in_every_suite() {
    let files = Files::new();
    for suite in suites() {
        let mut command = files.openssl("s_server", suite);
        command.args(["-accept", "127.0.0.1:0", "-naccept", "1"]);
        // A hint, which we ignore.
        match suite.exchange {
            KeyExchange::Tls13 => command.arg("-nocert"),
            KeyExchange::RsaPsk => command.args(["-psk_hint", "somebody"]),
            _ => command.args(["-psk_hint", "somebody", "-nocert"]),
        };
        if suite.exchange.has_certificate() {
            command.arg("-cert").arg(files.path("certificate")).arg("-key").arg(files.path("key"));
        }
        let mut server = Program::start(&mut command);
        let address = server.line("ACCEPT");
        let stream = TcpStream::connect(address).unwrap();
        let mut ours = Ours::new(Side::Client, suite.name, files.rsa(suite), stream);
        ours.establish().unwrap_or_else(|error| panic!("{}: {error}", suite.name));
        assert_eq!(ours.endpoint.summary().unwrap().suite, suite.name);
        let printed = server.line("Keying material:").to_lowercase();
        assert_same(&files, suite, &ours, Side::Client, &printed);
        ours.say(b"heard by the server\n");
        server.line("heard by the server");
    }
}

#[test]
fn our_server_agrees_with_openssl_in_every_suite() {
    let files = Files::new();
    for suite in suites() {
        let (listener, address) = listener();
        let mut command = files.openssl("s_client", suite);
        let mut client = Program::start(command.args(["-connect", &address]));
        let stream = listener.accept().unwrap().0;
        let mut ours = Ours::new(Side::Server, suite.name, files.rsa(suite), stream);
        ours.establish().unwrap_or_else(|error| panic!("{}: {error}", suite.name));
        assert_eq!(ours.endpoint.summary().unwrap().suite, suite.name);
        let printed = client.line("Keying material:").to_lowercase();
        assert_same(&files, suite, &ours, Side::Server, &printed);
        ours.say(b"heard by the client\n");
        client.line("heard by the client");
    }
}

/// openssl(1) exports a key without a context, which in TLS 1.3 is as good as an empty one (RFC 8446 §7.5), and in TLS 1.2
/// is another key; there, what it logs gives both.
fn assert_same(files: &Files, suite: &Suite, ours: &Ours, side: Side, printed: &str) {
    if suite.exchange.is_tls13() {
        assert_eq!(ours.export(b""), printed, "{}", suite.name);
        return;
    }
    let [with, without] = files.exported(suite, ours.randoms(side));
    assert_eq!(printed, without, "{}", suite.name);
    assert_eq!(ours.export(CONTEXT), with, "{}", suite.name);
}

/// Suites and names of GnuTLS; its secrets of TLS 1.3 have SHA-256.
fn priority(suite: &Suite) -> Option<String> {
    let (exchange, cipher) = suite.name.split_once("_WITH_").unwrap_or(("TLS_", &suite.name[4..]));
    if suite.exchange.is_tls13() && suite.sha384 {
        return None;
    }
    let exchange = match suite.exchange {
        KeyExchange::Tls13 => "ECDHE-PSK".to_owned(),
        _ => exchange.trim_start_matches("TLS_").replace('_', "-"),
    };
    let mac = match cipher {
        _ if cipher.contains("CBC_SHA256") => "SHA256",
        _ if cipher.contains("CBC_SHA384") => "SHA384",
        _ if cipher.contains("CBC_SHA") => "SHA1",
        _ => "AEAD",
    };
    let (cipher, _) = cipher.rsplit_once("_SHA").unwrap();
    let version = if suite.exchange.is_tls13() { "TLS1.3" } else { "TLS1.2" };
    Some(format!(
        "NONE:+VERS-{version}:+{}:+{mac}:+{exchange}:+COMP-NULL:+SIGN-ALL:+CTYPE-X509:+GROUP-X25519:+GROUP-FFDHE2048",
        cipher.replace('_', "-")
    ))
}

fn gnutls(role: &str, port: u16, priority: &str) -> Command {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/independent/gnutls_psk.py");
    let mut command = Command::new("/usr/bin/python3");
    command.arg(program).args([role, "--port", &port.to_string(), "--priority", priority]);
    command.args(["--label", LABEL, "--context", &hex::encode(CONTEXT)]);
    command
}

fn gnutls_by_secret(role: &str, port: u16, priority: &str) -> Command {
    let mut command = gnutls(role, port, priority);
    command.args(["--identity", CLIENT, "--key", &hex::encode(SECRET)]);
    command
}

#[test]
fn our_client_agrees_with_gnutls_in_every_suite() {
    let files = Files::new();
    let mut agreed = 0;
    for suite in suites() {
        let Some(priority) = priority(suite) else { continue };
        let mut command = gnutls_by_secret("server", 0, &priority);
        if suite.exchange.has_certificate() {
            command.arg("--certificate").arg(files.path("certificate"));
            command.arg("--private-key").arg(files.path("key"));
        }
        let mut server = Program::start(&mut command);
        let stream = TcpStream::connect(format!("127.0.0.1:{}", server.line(""))).unwrap();
        let mut ours = Ours::new(Side::Client, suite.name, files.rsa(suite), stream);
        ours.establish().unwrap_or_else(|error| panic!("{}: {error}: {}", suite.name, server.line("")));
        assert_eq!(ours.export(CONTEXT), server.line(""), "{}", suite.name);
        ours.say(b"an echo");
        assert_eq!(ours.hear(), b"an echo", "{}", suite.name);
        assert!(server.succeeded(), "{}", suite.name);
        agreed += 1;
    }
    assert_eq!(agreed, suites().count() - 1);
}

#[test]
fn our_server_agrees_with_gnutls_in_every_suite() {
    let files = Files::new();
    for suite in suites() {
        let Some(priority) = priority(suite) else { continue };
        let (listener, _) = listener();
        let port = listener.local_addr().unwrap().port();
        let mut client = Program::start(&mut gnutls_by_secret("client", port, &priority));
        let stream = listener.accept().unwrap().0;
        let mut ours = Ours::new(Side::Server, suite.name, files.rsa(suite), stream);
        ours.establish().unwrap_or_else(|error| panic!("{}: {error}: {}", suite.name, client.line("")));
        assert_eq!(ours.export(CONTEXT), client.line(""), "{}", suite.name);
        let heard = ours.hear();
        assert_eq!(heard, b"from GnuTLS", "{}", suite.name);
        ours.say(&heard);
        assert!(client.succeeded(), "{}", suite.name);
    }
}

#[test]
fn both_ends_agree_with_gnutls_by_raw_public_keys() {
    const PRIORITY: &str = "NONE:+VERS-TLS1.3:+AES-128-GCM:+AEAD:+ECDHE-ECDSA:+GROUP-X25519:+SIGN-EDDSA-ED25519:\
                            +CTYPE-RAWPK";
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let [ours_known_by, theirs_known_by] = ["ours", "theirs"].map(|name| {
        let key = PrivateKey::generate().unwrap();
        fs::write(path(name), &*key.pem().unwrap()).unwrap();
        fs::set_permissions(path(name), PermissionsExt::from_mode(0o600)).unwrap();
        key.fingerprint().unwrap()
    });
    let public =
        Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(path("theirs")).output().unwrap();
    fs::write(path("public"), public.stdout).unwrap();
    let theirs = |mut command: Command| {
        command.arg("--public-key").arg(path("public")).arg("--private-key").arg(path("theirs"));
        Program::start(&mut command)
    };
    let ours = |side, stream, peer_fingerprint| {
        let authentication =
            Authentication::RawPublicKey { private_key_file: path("ours"), peer_fingerprint };
        Ours::with(side, Tls { authentication, suites: vec!["TLS_AES_128_GCM_SHA256"] }, stream)
    };
    for side in [Side::Client, Side::Server] {
        let meet = |expected| match side {
            Side::Client => {
                let mut server = theirs(gnutls("server", 0, PRIORITY));
                let stream = TcpStream::connect(format!("127.0.0.1:{}", server.line(""))).unwrap();
                (ours(side, stream, expected), server)
            }
            Side::Server => {
                let (listener, _) = listener();
                let client = theirs(gnutls("client", listener.local_addr().unwrap().port(), PRIORITY));
                (ours(side, listener.accept().unwrap().0, expected), client)
            }
        };
        let (mut ours, mut gnutls) = meet(theirs_known_by);
        ours.establish().unwrap_or_else(|error| panic!("{side:?}: {error}"));
        assert_eq!(ours.export(CONTEXT), gnutls.line(""), "{side:?}");
        assert_eq!(hex::encode(ours_known_by), gnutls.line(""), "{side:?}");
        match side {
            Side::Client => {
                ours.say(b"an echo");
                assert_eq!(ours.hear(), b"an echo");
            }
            Side::Server => {
                let heard = ours.hear();
                ours.say(&heard);
            }
        }
        assert!(gnutls.succeeded(), "{side:?}");

        let (mut ours, _gnutls) = meet([1; 32]);
        assert!(matches!(ours.establish(), Err(TlsError::WrongPublicKey { .. })), "{side:?}");
    }
}

#[test]
fn a_stranger_with_another_secret_is_refused_by_everybody() {
    let files = Files::new();
    for name in ["TLS_AES_128_GCM_SHA256", "TLS_DHE_PSK_WITH_AES_128_CBC_SHA"] {
        let suite = suites().find(|suite| suite.name == name).unwrap();
        let wrong = |mut command: Command| {
            command.args(["-psk", &hex::encode(b"another secret")]);
            command
        };
        let (listener, address) = listener();
        let client = Program::start(wrong(files.openssl("s_client", suite)).args(["-connect", &address]));
        let mut ours = Ours::new(Side::Server, name, None, listener.accept().unwrap().0);
        assert_eq!(ours.establish(), Err(TlsError::WrongSecret));
        assert!(!ours.endpoint.is_established() && !client.succeeded());

        let mut command = wrong(files.openssl("s_server", suite));
        let mut server = Program::start(command.args(["-accept", "127.0.0.1:0", "-naccept", "1", "-nocert"]));
        let address = server.line("ACCEPT");
        let mut ours = Ours::new(Side::Client, name, None, TcpStream::connect(address).unwrap());
        assert_eq!(ours.establish(), Err(TlsError::SecretRefused { identity: CLIENT.to_owned() }));
        assert!(!ours.endpoint.is_established());
    }
}
