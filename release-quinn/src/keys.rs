//! Connection ids and keys of a listener, in quinn's types.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::HandshakeTokenKey;
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use release_core::net::QuicIds;
use ring::{hkdf, hmac};

/// Interval of stateless resets. quinn's default of 20 ms would let the clients of a killed process
/// wait for each other. A reset is shorter than the packet that it answers, so none can cause a loop.
const RESET_INTERVAL: Duration = Duration::from_micros(200);

#[derive(Debug)]
struct Ids(QuicIds);

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.0.generate())
    }

    /// quinn asks for ids that it does not know, and answers valid ones with a stateless reset.
    fn validate(&self, id: &ConnectionId) -> Result<(), quinn_proto::InvalidCid> {
        if self.0.may_reset(id) { Ok(()) } else { Err(quinn_proto::InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        7
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Returns the configuration of the endpoint that has these ids.
pub(crate) fn config(ids: QuicIds) -> EndpointConfig {
    let resets = hmac::Key::new(hmac::HMAC_SHA256, ids.reset_key());
    let mut config = EndpointConfig::new(Arc::new(resets));
    config.cid_generator(move || Box::new(Ids(ids.clone()))).min_reset_interval(RESET_INTERVAL);
    config
}

/// Returns the key of the tokens that all processes of the listener accept.
pub(crate) fn for_tokens(ids: &QuicIds) -> Arc<dyn HandshakeTokenKey> {
    Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(ids.token_key()))
}
