//! The callbacks of OpenSSL that the crate does not have: external PSKs of TLS 1.3 (`SSL_CTX_set_psk_use_session_callback`
//! and `SSL_CTX_set_psk_find_session_callback`), and one that keeps certificates out of TLS 1.3.

use std::{
    ffi::{c_int, c_uchar, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{Arc, OnceLock},
};

use foreign_types::ForeignTypeRef;
use openssl::{
    error::ErrorStack,
    ex_data::Index,
    ssl::{Ssl, SslContextBuilder, SslRef},
};
use openssl_sys as ffi;
use zeroize::Zeroizing;

/// The secrets of one connection.
pub trait Keyring: Send + Sync {
    /// What we call ourselves, and the secret. The octets stay where they are for as long as the keyring is there.
    fn own(&self) -> (&[u8], &[u8]);

    /// The secret of a peer that calls itself `identity`; `None`: the handshake fails at once.
    fn of_peer(&self, identity: &[u8]) -> Option<Zeroizing<Vec<u8>>>;
}

/// What callbacks of a connection find with it. Goes with the connection.
struct Attached {
    keyring: Arc<dyn Keyring>,
    /// A suite of TLS 1.3 whose hash is the secret's; `None`: TLS 1.2 only.
    suite: Option<[u8; 2]>,
}

/// Has connections of `context` use the secrets of their keyrings in TLS 1.3.
pub fn install(context: &mut SslContextBuilder) {
    // SAFETY: the context is valid, and the callbacks have the types that OpenSSL asks for and need nothing but the
    // connection, of which they take what `attach` put there.
    unsafe {
        SSL_CTX_set_psk_use_session_callback(context.as_ptr(), Some(use_session));
        SSL_CTX_set_psk_find_session_callback(context.as_ptr(), Some(find_session));
    }
}

/// Has connections of `context` use its certificate in TLS 1.2 only. Otherwise a peer whose identity is unknown would get
/// a handshake of TLS 1.3 by certificate in place of one by secret.
pub fn keep_certificate_out_of_tls13(context: &mut SslContextBuilder) {
    // SAFETY: as above; the callback's argument is not used.
    unsafe { SSL_CTX_set_cert_cb(context.as_ptr(), Some(choose_certificate), ptr::null_mut()) }
}

/// Gives a connection its keyring; `suite` is one of TLS 1.3 whose hash is the secret's.
pub fn attach(ssl: &mut Ssl, keyring: Arc<dyn Keyring>, suite: Option<u16>) -> Result<(), ErrorStack> {
    let suite = suite.map(u16::to_be_bytes);
    ssl.set_ex_data(index()?, Attached { keyring, suite });
    Ok(())
}

/// The keyring of a connection, as callbacks need it.
pub fn keyring(ssl: &SslRef) -> Option<&dyn Keyring> {
    Some(attached(ssl)?.keyring.as_ref())
}

/// What `callback` gives, or `failure` if it panics: nothing may unwind through OpenSSL.
pub fn guarded<T>(failure: T, callback: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(callback)).unwrap_or(failure)
}

fn attached(ssl: &SslRef) -> Option<&Attached> {
    ssl.ex_data(index().ok()?)
}

fn index() -> Result<Index<Ssl, Attached>, ErrorStack> {
    static INDEX: OnceLock<Index<Ssl, Attached>> = OnceLock::new();
    match INDEX.get() {
        Some(index) => Ok(*index),
        None => {
            let index = Ssl::new_ex_index()?;
            Ok(*INDEX.get_or_init(|| index))
        }
    }
}

/// Of a client: the secret for its ClientHello. 1: go on, 0: fail.
unsafe extern "C" fn use_session(
    ssl: *mut ffi::SSL,
    _hash: *const ffi::EVP_MD,
    identity: *mut *const c_uchar,
    identity_len: *mut usize,
    session: *mut *mut ffi::SSL_SESSION,
) -> c_int {
    guarded(0, || {
        // SAFETY: OpenSSL passes a valid connection, and places for the three results. The identity is the keyring's,
        // which stays with the connection.
        unsafe {
            *session = ptr::null_mut();
            let Some(attached) = attached(SslRef::from_ptr(ssl)) else { return 0 };
            let Some(suite) = attached.suite else { return 1 };
            let (own, secret) = attached.keyring.own();
            let Some(found) = session_of(secret, SSL_CIPHER_find(ssl, suite.as_ptr())) else { return 0 };
            (*identity, *identity_len, *session) = (own.as_ptr(), own.len(), found);
            1
        }
    })
}

/// Of a server: the secret of the client that calls itself `identity`. 1: go on, 0: fail.
unsafe extern "C" fn find_session(
    ssl: *mut ffi::SSL,
    identity: *const c_uchar,
    identity_len: usize,
    session: *mut *mut ffi::SSL_SESSION,
) -> c_int {
    guarded(0, || {
        // SAFETY: OpenSSL passes a valid connection, `identity_len` octets at `identity`, and a place for the result.
        unsafe {
            *session = ptr::null_mut();
            let identity = match identity_len {
                0 => &[],
                len => std::slice::from_raw_parts(identity, len),
            };
            let Some(attached) = attached(SslRef::from_ptr(ssl)) else { return 0 };
            let Some(suite) = attached.suite else { return 0 };
            let Some(secret) = attached.keyring.of_peer(identity) else { return 0 };
            let Some(found) = session_of(&secret, SSL_CIPHER_find(ssl, suite.as_ptr())) else { return 0 };
            *session = found;
            1
        }
    })
}

/// Of a server, before it chooses its certificate: it has none in TLS 1.3. 1: go on.
unsafe extern "C" fn choose_certificate(ssl: *mut ffi::SSL, _argument: *mut c_void) -> c_int {
    // SAFETY: OpenSSL passes a valid connection; its certificates are its own, not the context's.
    unsafe {
        if ffi::SSL_version(ssl) == ffi::TLS1_3_VERSION {
            SSL_certs_clear(ssl);
        }
    }
    1
}

/// A session that stands for a secret, of which the caller is the owner (RFC 8446 §4.2.11: as if it were resumed).
///
/// # Safety
/// `cipher` is null or valid.
unsafe fn session_of(secret: &[u8], cipher: *const ffi::SSL_CIPHER) -> Option<*mut ffi::SSL_SESSION> {
    // SAFETY: the session is ours until it is returned, and the secret is copied into it.
    unsafe {
        let session = SSL_SESSION_new();
        if session.is_null() {
            return None;
        }
        if cipher.is_null()
            || SSL_SESSION_set1_master_key(session, secret.as_ptr(), secret.len()) != 1
            || SSL_SESSION_set_cipher(session, cipher) != 1
            || SSL_SESSION_set_protocol_version(session, ffi::TLS1_3_VERSION) != 1
        {
            ffi::SSL_SESSION_free(session);
            return None;
        }
        Some(session)
    }
}

type UseSession = unsafe extern "C" fn(
    *mut ffi::SSL,
    *const ffi::EVP_MD,
    *mut *const c_uchar,
    *mut usize,
    *mut *mut ffi::SSL_SESSION,
) -> c_int;
type FindSession =
    unsafe extern "C" fn(*mut ffi::SSL, *const c_uchar, usize, *mut *mut ffi::SSL_SESSION) -> c_int;
type ChooseCertificate = unsafe extern "C" fn(*mut ffi::SSL, *mut c_void) -> c_int;

unsafe extern "C" {
    fn SSL_CTX_set_psk_use_session_callback(context: *mut ffi::SSL_CTX, callback: Option<UseSession>);
    fn SSL_CTX_set_psk_find_session_callback(context: *mut ffi::SSL_CTX, callback: Option<FindSession>);
    fn SSL_CTX_set_cert_cb(
        context: *mut ffi::SSL_CTX,
        callback: Option<ChooseCertificate>,
        argument: *mut c_void,
    );
    fn SSL_certs_clear(ssl: *mut ffi::SSL);
    fn SSL_CIPHER_find(ssl: *mut ffi::SSL, number: *const c_uchar) -> *const ffi::SSL_CIPHER;
    fn SSL_SESSION_new() -> *mut ffi::SSL_SESSION;
    fn SSL_SESSION_set1_master_key(session: *mut ffi::SSL_SESSION, key: *const c_uchar, len: usize) -> c_int;
    fn SSL_SESSION_set_cipher(session: *mut ffi::SSL_SESSION, cipher: *const ffi::SSL_CIPHER) -> c_int;
    fn SSL_SESSION_set_protocol_version(session: *mut ffi::SSL_SESSION, version: c_int) -> c_int;
}

#[cfg(test)]
mod tests {
    use openssl::ssl::{SslContext, SslStream};

    use super::*;
    use crate::kmp::tls::{Side, context, pipe::Pipe, suites};

    /// One that works, panics, or has nothing.
    #[derive(Clone, Copy, PartialEq)]
    enum Scripted {
        Good,
        Panics,
        Empty,
    }

    impl Keyring for Scripted {
        fn own(&self) -> (&[u8], &[u8]) {
            match self {
                Self::Good => (b"a", b"secret"),
                Self::Panics => panic!("scripted"),
                Self::Empty => (b"a", b""),
            }
        }

        fn of_peer(&self, _identity: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
            match self {
                Self::Good => Some(b"secret".to_vec().into()),
                Self::Panics => panic!("scripted"),
                Self::Empty => None,
            }
        }
    }

    fn stream(context: &SslContext, side: Side, keyring: Option<Scripted>, suite: u16) -> SslStream<Pipe> {
        let mut ssl = Ssl::new(context).expect("connection");
        if let Some(keyring) = keyring {
            attach(&mut ssl, Arc::new(keyring), (suite >> 8 == 0x13).then_some(suite)).expect("attached");
        }
        match side {
            Side::Client => ssl.set_connect_state(),
            Side::Server => ssl.set_accept_state(),
        }
        SslStream::new(ssl, Pipe::default()).expect("stream")
    }

    /// Whether both ends are established in the end.
    fn agree(suite: &str, at_client: Option<Scripted>, at_server: Option<Scripted>) -> bool {
        let suite = suites::suite(suite).expect("known");
        let ends = [(Side::Client, at_client), (Side::Server, at_server)];
        let mut ends = ends.map(|(side, keyring)| {
            let context = context::context(side, &[suite], None).expect("context");
            stream(&context, side, keyring, suite.number)
        });
        for _ in 0..10 {
            let [client, server] = &mut ends;
            let done = [client.do_handshake().is_ok(), server.do_handshake().is_ok()];
            if done == [true; 2] {
                return true;
            }
            server.get_mut().push(&client.get_mut().take_output());
            client.get_mut().push(&server.get_mut().take_output());
        }
        false
    }

    #[test]
    fn a_keyring_that_panics_or_has_nothing_fails_the_handshake_only() {
        use Scripted::{Empty, Good, Panics};
        for suite in ["TLS_AES_128_GCM_SHA256", "TLS_PSK_WITH_AES_128_CBC_SHA"] {
            assert!(agree(suite, Some(Good), Some(Good)), "{suite}");
            for bad in [Some(Panics), Some(Empty), None] {
                assert!(!agree(suite, bad, Some(Good)), "{suite}");
                assert!(!agree(suite, Some(Good), bad), "{suite}");
            }
        }
    }

    #[test]
    fn a_keyring_goes_with_its_connection() {
        let context = SslContext::builder(openssl::ssl::SslMethod::tls()).expect("context").build();
        let keyring = Arc::new(Scripted::Good);
        let mut ssl = Ssl::new(&context).expect("connection");
        attach(&mut ssl, keyring.clone(), None).expect("attached");
        assert_eq!(Arc::strong_count(&keyring), 2);
        drop(ssl);
        assert_eq!(Arc::strong_count(&keyring), 1);
    }
}
