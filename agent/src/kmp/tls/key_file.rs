//! Ed25519 keys in files, and the fingerprints by which they are known.

use std::path::Path;

use openssl::{
    hash::MessageDigest,
    pkey::{HasPublic, Id, PKey, Private},
    sha::sha256,
    x509::X509,
};
use zeroize::Zeroizing;

use super::files;

/// Why a file is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Others could have read the private key in it.
    #[error("others can read or change it: chmod 600")]
    Open,
    /// There is nothing in it that has a fingerprint.
    #[error("there is no key or certificate in it, as PEM and without a password")]
    NoKey,
    /// There is another kind of key in it.
    #[error("the key in it is none of Ed25519: tcpauth genkey --raw-public-key makes one")]
    NotEd25519,
    /// There is a public key in it.
    #[error("there is no private key in it, as PEM and without a password")]
    NoPrivateKey,
    /// OpenSSL fails.
    #[error("OpenSSL failed: {0}")]
    Library(String),
}

/// A private key, of which the public one is known by its fingerprint. No `Debug`.
pub struct PrivateKey(PKey<Private>);

impl PrivateKey {
    /// A new key, from OpenSSL's random numbers.
    ///
    /// # Errors
    /// [`KeyFileError::Library`].
    pub fn generate() -> Result<Self, KeyFileError> {
        PKey::generate_ed25519().map(Self).map_err(|error| KeyFileError::Library(error.to_string()))
    }

    /// The key in a file that is for its owner, and at most for a group to read.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let file = files::read(path).map_err(|error| KeyFileError::Unreadable(error.to_string()))?;
        if file.mode & 0o027 != 0 {
            return Err(KeyFileError::Open);
        }
        let key = private_key(&file.octets).ok_or(KeyFileError::NoPrivateKey)?;
        if key.id() != Id::ED25519 {
            return Err(KeyFileError::NotEd25519);
        }
        Ok(Self(key))
    }

    /// For a file: PKCS #8 in PEM (RFC 8410).
    ///
    /// # Errors
    /// [`KeyFileError::Library`].
    pub fn pem(&self) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        let pem = self.0.private_key_to_pem_pkcs8();
        pem.map(Zeroizing::new).map_err(|error| KeyFileError::Library(error.to_string()))
    }

    /// PKCS #8 in DER.
    ///
    /// # Errors
    /// [`KeyFileError::Library`].
    pub fn der(&self) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        let der = self.0.private_key_to_pkcs8();
        der.map(Zeroizing::new).map_err(|error| KeyFileError::Library(error.to_string()))
    }

    /// The public key, as a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// [`KeyFileError::Library`].
    pub fn public_key(&self) -> Result<Vec<u8>, KeyFileError> {
        self.0.public_key_to_der().map_err(|error| KeyFileError::Library(error.to_string()))
    }

    /// The fingerprint of the public key.
    ///
    /// # Errors
    /// [`KeyFileError::Library`].
    pub fn fingerprint(&self) -> Result<[u8; 32], KeyFileError> {
        Ok(fingerprint(&self.public_key()?))
    }
}

/// The fingerprint of a public key: SHA-256 of its SubjectPublicKeyInfo in DER.
pub fn fingerprint(public_key: &[u8]) -> [u8; 32] {
    sha256(public_key)
}

/// The fingerprint of what is in a file: of an Ed25519 key, private or public, for `tls.peer-fingerprint`; or SHA-256 of a
/// certificate in DER, for `tls.server-fingerprint`.
///
/// # Errors
/// [`KeyFileError`].
pub fn fingerprint_of_file(pem: &[u8]) -> Result<[u8; 32], KeyFileError> {
    // By what the file says that it is: OpenSSL would ask for a password at the terminal if it were to find out.
    let text = String::from_utf8_lossy(pem);
    let label = text.split_once("-----BEGIN ").and_then(|(_, rest)| rest.split_once("-----"));
    match label.map(|(label, _)| label) {
        Some("CERTIFICATE") => {
            let certificate = X509::from_pem(pem).map_err(|_| KeyFileError::NoKey)?;
            let digest = certificate.digest(MessageDigest::sha256());
            let digest = digest.map_err(|error| KeyFileError::Library(error.to_string()))?;
            digest.as_ref().try_into().map_err(|_| KeyFileError::NoKey)
        }
        Some("PUBLIC KEY") => {
            fingerprint_of_key(&PKey::public_key_from_pem(pem).map_err(|_| KeyFileError::NoKey)?)
        }
        _ => fingerprint_of_key(&private_key(pem).ok_or(KeyFileError::NoKey)?),
    }
}

/// A private key of any kind that has no password; none is asked for at the terminal.
pub fn private_key(pem: &[u8]) -> Option<PKey<Private>> {
    PKey::private_key_from_pem_callback(pem, |_| Ok(0)).ok()
}

fn fingerprint_of_key(key: &PKey<impl HasPublic>) -> Result<[u8; 32], KeyFileError> {
    if key.id() != Id::ED25519 {
        return Err(KeyFileError::NotEd25519);
    }
    let der = key.public_key_to_der().map_err(|error| KeyFileError::Library(error.to_string()))?;
    Ok(fingerprint(&der))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_known_by_one_fingerprint_in_every_form() {
        // The key pair of RFC 8032 §7.1, test 1, in the forms of RFC 8410; `openssl pkey -pubout -outform DER | sha256sum`.
        let private = "-----BEGIN PRIVATE KEY-----\n\
                       MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                       -----END PRIVATE KEY-----\n";
        let public = "-----BEGIN PUBLIC KEY-----\n\
                      MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
                      -----END PUBLIC KEY-----\n";
        let expected = "06e3fd8fda29bb60ab59557de61edb0aecdb231134be30e75b455f8e1b792fa9";
        assert_eq!(hex::encode(fingerprint_of_file(private.as_bytes()).expect("private")), expected);
        assert_eq!(hex::encode(fingerprint_of_file(public.as_bytes()).expect("public")), expected);
    }

    #[test]
    fn a_new_key_comes_back_from_its_file() {
        let key = PrivateKey::generate().expect("key");
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("key.pem");
        std::fs::write(&path, &*key.pem().expect("pem")).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("mode");
        assert_eq!(PrivateKey::read(&path).err(), Some(KeyFileError::Open));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("mode");
        let read = PrivateKey::read(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(read.fingerprint(), key.fingerprint());
        assert_ne!(PrivateKey::generate().expect("another").fingerprint(), key.fingerprint());
    }

    #[test]
    fn other_files_are_refused_with_what_is_wrong() {
        let rsa = PKey::from_rsa(openssl::rsa::Rsa::generate(2048).expect("RSA")).expect("key");
        let pem = rsa.private_key_to_pem_pkcs8().expect("pem");
        assert_eq!(fingerprint_of_file(&pem), Err(KeyFileError::NotEd25519));
        assert_eq!(fingerprint_of_file(b"secret"), Err(KeyFileError::NoKey));

        let key = PKey::generate_ed25519().expect("key");
        let cipher = openssl::symm::Cipher::aes_128_cbc();
        let locked = key.private_key_to_pem_pkcs8_passphrase(cipher, b"password").expect("pem");
        assert_eq!(fingerprint_of_file(&locked), Err(KeyFileError::NoKey));

        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("key.pem");
        assert!(matches!(PrivateKey::read(&path), Err(KeyFileError::Unreadable(_))));
        for (content, expected) in [
            (pem, KeyFileError::NotEd25519),
            (locked, KeyFileError::NoPrivateKey),
            (key.public_key_to_pem().expect("pem"), KeyFileError::NoPrivateKey),
        ] {
            std::fs::write(&path, content).expect("written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("mode");
            assert_eq!(PrivateKey::read(&path).err(), Some(expected));
        }
    }
}
