//! A certificate without its key, in the workers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use release_core::ipc::{CallError, Codec, OneOf, Peer, Postcard, Request};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::ServerConfig;
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{SignatureAlgorithm, SignatureScheme};
use serde::{Deserialize, Serialize};

use crate::Sign;

/// How long a handshake waits for the master.
const SIGN_TIMEOUT: Duration = Duration::from_secs(30);

/// A certificate and the signature schemes of its key: the context of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Each in DER, the server's own first.
    chain: Vec<Vec<u8>>,
    /// The numbers of the signature schemes.
    schemes: Vec<u16>,
}

impl Certificate {
    pub(crate) fn new(chain: &[CertificateDer<'_>], schemes: Vec<SignatureScheme>) -> Self {
        Self {
            chain: chain.iter().map(|certificate| certificate.to_vec()).collect(),
            schemes: schemes.into_iter().map(u16::from).collect(),
        }
    }

    /// Returns a number by which an [`Identity`](crate::Identity) knows a request for a signature with the
    /// key of another certificate.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_rustls::{Certificate, Sign};
    ///
    /// fn request(certificate: &Certificate, scheme: u16, message: Vec<u8>) -> Sign {
    ///     Sign { scheme, message, certificate: certificate.mark() }
    /// }
    /// # let _ = request;
    /// ```
    #[must_use]
    pub fn mark(&self) -> u64 {
        // FNV-1a, which other versions of the program compute alike. No attacker gains by a collision,
        // whose signature is wrong.
        let certificate = self.chain.first().into_iter().flatten();
        certificate.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        })
    }

    /// Returns the configuration of a TLS 1.3 server with this certificate, whose handshakes the master
    /// signs.
    ///
    /// Change the rest of it, such as `alpn_protocols`, before its use. Versions before 1.3 are not
    /// offered: their signatures have no form that [`Sign::permit`] could check.
    ///
    /// rustls waits for a signature in the call that advances the handshake, at most 30 seconds. A
    /// thread of the runtime must not wait, and such a handshake fails: run handshakes by
    /// [`Rt::unblock_future`](release_core::rt::Rt::unblock_future).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use release_core::Me;
    /// use release_rustls::{Certificate, Sign};
    ///
    /// fn config(me: &Me<Certificate, Sign>) -> Arc<rustls::ServerConfig> {
    ///     let mut config = me.context().server_config(me.master());
    ///     config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    ///     Arc::new(config)
    /// }
    /// # let _ = config;
    /// ```
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "ring has TLS 1.3")]
    pub fn server_config<R>(&self, master: Peer<R>) -> ServerConfig
    where
        R: Request,
        Postcard: Codec<R> + Codec<R::Response>,
        Sign: OneOf<R, Response = Vec<u8>>,
    {
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("ring has TLS 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified_key(master))))
    }

    /// Returns the certificate with a key that the master uses in the place of the worker, for a
    /// `ResolvesServerCert` of your own: by the name of the server, for example.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    /// use release_rustls::{Certificate, Sign};
    /// use rustls::server::ResolvesServerCertUsingSni;
    ///
    /// fn resolver(me: &Me<Certificate, Sign>) -> Result<ResolvesServerCertUsingSni, rustls::Error> {
    ///     let mut resolver = ResolvesServerCertUsingSni::new();
    ///     resolver.add("example.org", me.context().certified_key(me.master()))?;
    ///     Ok(resolver)
    /// }
    /// # let _ = resolver;
    /// ```
    pub fn certified_key<R>(&self, master: Peer<R>) -> CertifiedKey
    where
        R: Request,
        Postcard: Codec<R> + Codec<R::Response>,
        Sign: OneOf<R, Response = Vec<u8>>,
    {
        let schemes = self.schemes.iter().copied().map(SignatureScheme::from).collect();
        let chain = self.chain.iter().cloned().map(CertificateDer::from).collect();
        let ask = Arc::new(move |sign| master.blocking_call_within(SIGN_TIMEOUT, sign));
        CertifiedKey::new(chain, Arc::new(HeldKey { ask, certificate: self.mark(), schemes }))
    }
}

/// Has the master sign, whatever the other requests of the connection are.
type Ask = dyn Fn(Sign) -> Result<Vec<u8>, CallError> + Send + Sync;

/// A key that the master holds.
struct HeldKey {
    ask: Arc<Ask>,
    certificate: u64,
    /// Of a signer, the first one is chosen.
    schemes: Vec<SignatureScheme>,
}

impl fmt::Debug for HeldKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldKey").field("schemes", &self.schemes).finish_non_exhaustive()
    }
}

impl SigningKey for HeldKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let chosen = *self.schemes.iter().find(|scheme| offered.contains(scheme))?;
        let (ask, schemes) = (Arc::clone(&self.ask), vec![chosen]);
        Some(Box::new(Self { ask, certificate: self.certificate, schemes }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        // TLS 1.3 chooses by the schemes alone.
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for HeldKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let (scheme, certificate) = (self.scheme().into(), self.certificate);
        let sign = Sign { scheme, message: message.to_vec(), certificate };
        (self.ask)(sign).map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.schemes[0]
    }
}
