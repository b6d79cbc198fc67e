//! `QuicIds`: connection ids that name the process, so that the packets of a connection reach it.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::uio::pread;

use crate::sys::steering::SlotMixer;
use crate::{Error, ErrorKind};

/// The secret of a listener: the key of its ids, that of stateless resets, and that of tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdSecret {
    ids: [u8; 8],
    resets: [u8; 64],
    tokens: [u8; 64],
}

impl IdSecret {
    pub(crate) const LENGTH: usize = 8 + 64 + 64;

    pub(crate) fn of(bytes: &[u8; Self::LENGTH]) -> Self {
        let mut secret = Self { ids: [0; 8], resets: [0; 64], tokens: [0; 64] };
        secret.ids.copy_from_slice(&bytes[..8]);
        secret.resets.copy_from_slice(&bytes[8..72]);
        secret.tokens.copy_from_slice(&bytes[72..]);
        secret
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        [&self.ids[..], &self.resets, &self.tokens].concat()
    }

    pub(crate) fn mixer(&self) -> SlotMixer {
        SlotMixer::new(self.ids)
    }
}

impl fmt::Debug for IdSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdSecret")
    }
}

/// Number of the bytes that tell which slots have a process, one bit for each slot.
pub(crate) const LIVING: usize = 32;

/// Where they begin in the file of a slot, behind its number and the secret.
pub(crate) const LIVING_AT: usize = 1 + IdSecret::LENGTH;

const FILE: usize = LIVING_AT + LIVING;

/// Connection ids of a QUIC server whose packets the master steers: see
/// [`Steer::quic`](super::Steer::quic). A worker gets it with [`Me::quic_ids`](crate::Me::quic_ids).
///
/// Cheap to clone; a clone is the same.
///
/// # Examples
///
/// ```
/// use release_core::Me;
/// use release_core::net::{Datagrams, QuicIds};
///
/// fn endpoint(me: &Me) -> Result<(), release_core::Error> {
///     let socket: Datagrams = me.datagrams("h3")?;
///     let ids: QuicIds = me.quic_ids("h3")?;
///     assert_eq!(ids.slot_of(&ids.generate()), Some(ids.slot()));
///     Ok(())
/// }
/// # let _ = endpoint;
/// ```
#[derive(Clone)]
pub struct QuicIds {
    shared: Arc<SharedIds>,
}

struct SharedIds {
    slot: u8,
    secret: IdSecret,
    mixer: SlotMixer,
    file: OwnedFd,
    chance: RandomState,
    count: AtomicU64,
}

impl fmt::Debug for QuicIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicIds").field("slot", &self.shared.slot).finish_non_exhaustive()
    }
}

impl QuicIds {
    /// Takes over the descriptor `NAME.ids` that the master passes beside the socket `NAME`.
    ///
    /// # Errors
    ///
    /// Returns an error if the descriptor is not such a file.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::File;
    /// use release_core::net::QuicIds;
    ///
    /// assert!(QuicIds::inherited(File::open("/dev/null")?).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn inherited(file: impl Into<OwnedFd>) -> Result<Self, Error> {
        let (file, mut content) = (file.into(), [0; FILE]);
        let count = pread(&file, &mut content, 0)
            .map_err(|errno| Error::system("cannot read the ids of a QUIC listener", errno))?;
        let (slot, mut bytes) = (content[0], [0; IdSecret::LENGTH]);
        bytes.copy_from_slice(&content[1..LIVING_AT]);
        if count != FILE {
            let message = format!("the ids of a QUIC listener have {FILE} bytes, this has {count}");
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let secret = IdSecret::of(&bytes);
        let (mixer, chance, count) = (secret.mixer(), RandomState::new(), AtomicU64::new(0));
        Ok(Self { shared: Arc::new(SharedIds { slot, secret, mixer, file, chance, count }) })
    }

    /// Returns the number of this process's slot.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::QuicIds;
    ///
    /// fn log(ids: &QuicIds) {
    ///     tracing::info!(slot = ids.slot(), "serving");
    /// }
    /// # let _ = log;
    /// ```
    #[must_use]
    pub fn slot(&self) -> u8 {
        self.shared.slot
    }

    /// Returns a new connection id. Packets to it reach this process as long as it lives.
    ///
    /// Its random part has 32 bits: among tens of thousands of open connections, an id may occur again.
    /// Ask for another one then, as QUIC libraries do.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::QuicIds;
    ///
    /// fn are_new(ids: &QuicIds) -> bool {
    ///     ids.generate() != ids.generate()
    /// }
    /// # let _ = are_new;
    /// ```
    #[must_use]
    pub fn generate(&self) -> [u8; 7] {
        let count = self.shared.count.fetch_add(1, Ordering::Relaxed);
        let [a, b, c, d, ..] = self.shared.chance.hash_one(count).to_be_bytes();
        self.shared.mixer.id(self.shared.slot, [a, b, c, d])
    }

    /// Returns the slot in a connection id; `None` for an id that no process of this listener has
    /// generated.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::QuicIds;
    ///
    /// fn is_own(ids: &QuicIds, id: &[u8]) -> bool {
    ///     ids.slot_of(id) == Some(ids.slot())
    /// }
    /// # let _ = is_own;
    /// ```
    #[must_use]
    pub fn slot_of(&self, id: &[u8]) -> Option<u8> {
        self.shared.mixer.slot_of(id)
    }

    /// Returns whether this process may answer a packet with a stateless reset if it does not know the
    /// packet's connection id: the id is its own, or no process has its slot. A reset for a
    /// connection of another living process would end that connection.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::QuicIds;
    ///
    /// fn on_unknown(ids: &QuicIds, id: &[u8]) -> &'static str {
    ///     if ids.may_reset(id) { "reset" } else { "drop" }
    /// }
    /// # let _ = on_unknown;
    /// ```
    #[must_use]
    pub fn may_reset(&self, id: &[u8]) -> bool {
        let Some(slot) = self.slot_of(id).filter(|slot| *slot != self.shared.slot) else {
            return true;
        };
        let (mut byte, place) = ([0], LIVING_AT + usize::from(slot / 8));
        let read = i64::try_from(place).map(|place| pread(&self.shared.file, &mut byte, place));
        // When in doubt, the connection lives.
        matches!(read, Ok(Ok(1))) && byte[0] & (1 << (slot % 8)) == 0
    }

    /// Returns the key for stateless resets, the same for all processes of the listener: each can
    /// reset the connections of a dead one. An upgrade keeps it.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::QuicIds;
    ///
    /// fn key(ids: &QuicIds) -> &[u8] {
    ///     ids.reset_key()
    /// }
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn reset_key(&self) -> &[u8; 64] {
        &self.shared.secret.resets
    }

    /// Returns the key for address validation tokens (Retry and NEW_TOKEN), the same for all processes
    /// of the listener. An upgrade keeps it.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::QuicIds;
    ///
    /// fn key(ids: &QuicIds) -> &[u8] {
    ///     ids.token_key()
    /// }
    /// # let _ = key;
    /// ```
    #[must_use]
    pub fn token_key(&self) -> &[u8; 64] {
        &self.shared.secret.tokens
    }
}
