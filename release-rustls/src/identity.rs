//! A certificate with its private key, in the master.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{error, fmt, io};

use release_core::ipc::Refused;
use release_core::read_to_start;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Certificate, Sign};

/// A certificate with its private key. Only the master has it.
///
/// It is a value of [`Settings`](release_core::Settings): each generation of workers has its own. The
/// key is dropped, and the log contains that, when the last process of its generation has ended.
///
/// It can be serialized for [`Master::hand_over`](release_core::Master::hand_over): an upgrade passes
/// the keys in use to the next version in a sealed memory file that only the master's processes have.
/// Do not send it to a worker.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    pem: Pem,
    chain: Vec<CertificateDer<'static>>,
    mark: u64,
    key: Arc<dyn SigningKey>,
}

#[derive(Serialize, Deserialize)]
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Identity {
    /// Reads a certificate, followed by its issuers, and its key from PEM files.
    ///
    /// Reads them by [`read_to_start`]: an upgrade does not fail because of them.
    ///
    /// # Errors
    ///
    /// Returns an error, which names the file, if a file cannot be read or has no certificate or key, or
    /// if the key does not belong to the certificate.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_rustls::Identity;
    ///
    /// let error = Identity::read("absent.pem", "key.pem").unwrap_err();
    /// assert_eq!(error.to_string(), "absent.pem: No such file or directory (os error 2)");
    /// ```
    pub fn read(
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, IdentityError> {
        let (certificate, key) = (certificate.as_ref(), key.as_ref());
        let read = |path: &Path| read_to_start(path).map_err(|e| Reason::Read(e).of(path));
        let pem = Pem { certificate: read(certificate)?, key: read(key)? };
        Self::new(pem).map_err(|reason| match reason {
            Reason::Certificate(_) => reason.of(certificate),
            _ => reason.of(key),
        })
    }

    /// Takes a certificate and its key from the contents of PEM files.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no certificate or key in them, or if the key does not belong to the
    /// certificate.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_rustls::Identity;
    ///
    /// assert!(Identity::from_pem(b"not a certificate", b"not a key").is_err());
    /// ```
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let pem = Pem { certificate: certificate.to_vec(), key: key.to_vec() };
        Self::new(pem).map_err(|reason| IdentityError { path: None, reason })
    }

    fn new(pem: Pem) -> Result<Self, Reason> {
        let chain = CertificateDer::pem_slice_iter(&pem.certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(Reason::Certificate)?;
        if chain.is_empty() {
            return Err(Reason::Certificate(pem::Error::NoItemsFound));
        }
        let der = PrivateKeyDer::from_pem_slice(&pem.key).map_err(Reason::Key)?;
        let key = ring::sign::any_supported_type(&der).map_err(Reason::Unsupported)?;
        let both = CertifiedKey::new(chain.clone(), Arc::clone(&key));
        both.keys_match().map_err(Reason::Mismatch)?;
        let mark = Certificate::new(&chain, Vec::new()).mark();
        Ok(Self(Arc::new(Inner { pem, chain, mark, key })))
    }

    /// Returns the part for the workers: the certificate, and the signature schemes of its key.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_rustls::{Certificate, Identity};
    ///
    /// fn context(identity: &Identity) -> Certificate {
    ///     identity.certificate()
    /// }
    /// # let _ = context;
    /// ```
    #[must_use]
    pub fn certificate(&self) -> Certificate {
        let mut schemes =
            ring::default_provider().signature_verification_algorithms.supported_schemes();
        schemes.retain(|scheme| self.0.key.choose_scheme(&[*scheme]).is_some());
        Certificate::new(&self.0.chain, schemes)
    }

    /// Signs a message. Blocks the thread for less than 0.1 ms with an ECDSA key, and for about 1 ms with
    /// an RSA key of 2048 bits.
    ///
    /// Signs any message: check requests by [`Sign::permit`].
    ///
    /// # Errors
    ///
    /// Refuses a scheme that the key does not have, and a request of a worker with another certificate:
    /// after an upgrade that did not hand this identity over.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::Refused;
    /// use release_rustls::{Identity, Sign};
    ///
    /// fn answer(identity: &Identity, request: &Sign) -> Result<Vec<u8>, Refused> {
    ///     identity.sign(request)
    /// }
    /// # let _ = answer;
    /// ```
    pub fn sign(&self, request: &Sign) -> Result<Vec<u8>, Refused> {
        if request.certificate != self.0.mark {
            let why = "the worker has another certificate than its generation's: hand the identities in use \
                       over at an upgrade (`Settings::in_use`, `Master::hand_over`)";
            return Err(Refused::from(why));
        }
        let scheme = request.scheme.into();
        let signer = self.0.key.choose_scheme(&[scheme]);
        let signer = signer.ok_or_else(|| format!("the key does not sign by {scheme:?}"))?;
        Ok(signer.sign(&request.message)?)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        tracing::info!("a private key is not used any more");
    }
}

/// Shows nothing of the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = self.0.key.algorithm();
        f.debug_struct("Identity").field("algorithm", &algorithm).finish_non_exhaustive()
    }
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.pem.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Identity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Pem::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// The error of a certificate or a key that cannot be used.
#[derive(Debug)]
pub struct IdentityError {
    path: Option<PathBuf>,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    Read(io::Error),
    Certificate(pem::Error),
    Key(pem::Error),
    Unsupported(rustls::Error),
    Mismatch(rustls::Error),
}

impl Reason {
    fn of(self, path: &Path) -> IdentityError {
        IdentityError { path: Some(path.to_owned()), reason: self }
    }
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        self.reason.fmt(f)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Certificate(pem::Error::NoItemsFound) => {
                f.write_str("contains no certificate (`-----BEGIN CERTIFICATE-----`)")
            }
            Self::Certificate(error) => write!(f, "the certificate is not PEM: {error:?}"),
            Self::Key(pem::Error::NoItemsFound) => {
                f.write_str("contains no private key (`-----BEGIN PRIVATE KEY-----`)")
            }
            // Its details may contain a line of the file.
            Self::Key(_) => f.write_str("the private key is not PEM"),
            Self::Unsupported(error) => write!(f, "a key that cannot be used: {error}"),
            Self::Mismatch(error) => {
                write!(f, "the key does not belong to the certificate: {error}")
            }
        }
    }
}

impl error::Error for IdentityError {}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by `openssl req -x509`; it protects nothing.
    const CERTIFICATE: &[u8] = include_bytes!("../tests/certificate.pem");
    const KEY: &[u8] = include_bytes!("../tests/key.pem");
    const OTHER_KEY: &[u8] = include_bytes!("../tests/other_key.pem");

    fn error(certificate: &[u8], key: &[u8]) -> String {
        Identity::from_pem(certificate, key).expect_err("not an identity").to_string()
    }

    #[test]
    fn what_does_not_belong_together_is_named() {
        assert!(
            error(CERTIFICATE, OTHER_KEY).starts_with("the key does not belong to the certificate")
        );
        assert!(error(b"", KEY).starts_with("contains no certificate"));
        assert!(error(KEY, KEY).starts_with("contains no certificate"));
        assert!(error(CERTIFICATE, b"").starts_with("contains no private key"));
        assert!(error(CERTIFICATE, CERTIFICATE).starts_with("contains no private key"));
        let cut = &KEY[..KEY.len() / 2];
        let message = error(CERTIFICATE, cut);
        let line = std::str::from_utf8(cut).expect("text").lines().nth(1).expect("a line");
        assert!(!message.contains(&line[..8]), "a part of the key: {message}");
    }

    #[test]
    fn a_file_that_is_wrong_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("certificate"), CERTIFICATE).expect("a file");
        std::fs::write(path("key"), OTHER_KEY).expect("a file");
        let said = |certificate, key| {
            Identity::read(path(certificate), path(key)).expect_err("wrong").to_string()
        };
        assert!(said("certificate", "key").starts_with(path("key").to_str().expect("text")));
        assert!(said("key", "key").starts_with(path("key").to_str().expect("text")));
        assert!(said("certificate", "absent").contains("absent: No such file"));
        std::fs::write(path("key"), KEY).expect("a file");
        Identity::read(path("certificate"), path("key")).expect("an identity");
    }

    #[test]
    fn it_signs_by_its_own_schemes_and_survives_a_passage() {
        let identity = Identity::from_pem(CERTIFICATE, KEY).expect("an identity");
        let passed: Identity =
            serde_json::from_str(&serde_json::to_string(&identity).expect("encoded"))
                .expect("decoded");
        let certificate = identity.certificate().mark();
        let request = |scheme: rustls::SignatureScheme| Sign {
            scheme: scheme.into(),
            message: b"message".to_vec(),
            certificate,
        };
        passed.sign(&request(rustls::SignatureScheme::ECDSA_NISTP256_SHA256)).expect("signed");
        let refused = passed.sign(&request(rustls::SignatureScheme::ED25519));
        assert!(format!("{:?}", refused.expect_err("another key")).contains("ED25519"));
        let mut others = request(rustls::SignatureScheme::ECDSA_NISTP256_SHA256);
        others.certificate ^= 1;
        let refused = format!("{:?}", passed.sign(&others).expect_err("another certificate"));
        assert!(refused.contains("hand_over"), "{refused}");
        assert!(!format!("{passed:?}").contains("PRIVATE"));
    }
}
