//! The request of a worker for a signature.

use std::fmt;

use release_core::Decision;
use release_core::ipc::Request;
use serde::{Deserialize, Serialize};

/// The text before the hash in the message that a server signs (RFC 8446, section 4.4.3).
const CONTEXT: &[u8] = b"TLS 1.3, server CertificateVerify\0";
const PADDING: [u8; 64] = [b' '; 64];

/// Requests a signature with the key of the worker's certificate.
///
/// A worker with other requests lists it in [`requests!`](release_core::requests).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sign {
    /// The number of the signature scheme, as in the registry of TLS.
    pub scheme: u16,
    /// The bytes to sign.
    pub message: Vec<u8>,
    /// The certificate of the worker: [`Certificate::mark`](crate::Certificate::mark).
    pub certificate: u64,
}

impl Request for Sign {
    type Response = Vec<u8>;
}

impl Sign {
    /// Permits the message of a server in a handshake of TLS 1.3, and nothing else. Use it in
    /// [`Workers::answer_permitted`](release_core::Workers::answer_permitted): a worker that requests
    /// another signature is killed.
    ///
    /// A certificate, a token or a message of another protocol never has this form. Without this check
    /// a worker that is taken over could have them signed.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Decision;
    /// use release_rustls::Sign;
    ///
    /// let message = b"{\"user\": \"root\"}".to_vec();
    /// let token = Sign { scheme: 0x0403, message, certificate: 0 };
    /// assert!(matches!(token.permit(), Decision::Deny(_)));
    /// ```
    #[must_use]
    pub fn permit(&self) -> Decision {
        let rest = self.message.strip_prefix(&PADDING).and_then(|rest| rest.strip_prefix(CONTEXT));
        // SHA-256 and SHA-384 are the hashes of TLS 1.3.
        let is_handshake = rest.is_some_and(|hash| [32, 48].contains(&hash.len()));
        Decision::only_if(is_handshake, "a signature that is not of a TLS 1.3 handshake")
    }
}

/// Shows the length of the message, not the message.
impl fmt::Debug for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sign {{ scheme: {:#06x}, {} bytes }}", self.scheme, self.message.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_handshake(hash: usize) -> Vec<u8> {
        [&PADDING, CONTEXT, &vec![7; hash]].concat()
    }

    fn is_permitted(message: Vec<u8>) -> bool {
        matches!(Sign { scheme: 0x0403, message, certificate: 0 }.permit(), Decision::Allow)
    }

    #[test]
    fn the_message_of_a_server_is_permitted_and_nothing_near_it() {
        assert!(is_permitted(of_handshake(32)));
        assert!(is_permitted(of_handshake(48)));
        for hash in [0, 31, 33, 47, 49, 64] {
            assert!(!is_permitted(of_handshake(hash)), "{hash}");
        }
        let right = of_handshake(32);
        for at in 0..right.len() - 32 {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            assert!(!is_permitted(wrong), "{at}");
        }
        // What a client signs.
        let client = [&PADDING[..], b"TLS 1.3, client CertificateVerify\0", &[7; 32]].concat();
        assert!(!is_permitted(client));
        assert!(!is_permitted(right[1..].to_vec()));
    }
}
