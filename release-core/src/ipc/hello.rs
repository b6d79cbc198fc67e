//! The greeting: the first frame of a connection in call mode, from the master to its worker.

use serde::{Deserialize, Serialize};

use crate::ipc::limits::Limits;
use crate::ipc::{Codec, Postcard};

mod types;

pub(crate) use types::{Exchange, Message, Types};

/// Changes whenever master and worker of two versions could misunderstand each other.
pub(crate) const PROTOCOL: u16 = 3;

/// Who a worker is and what it gets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u16,
    pub(crate) worker: u32,
    pub(crate) generation: u32,
    pub(crate) group: String,
    pub(crate) agreed: Agreed,
    /// The names of the listening sockets, which are descriptors 3, 4, ... of the new process.
    pub(crate) listeners: Vec<String>,
    /// Set when both are the same executable, whose types must agree.
    pub(crate) types: Option<Box<Types>>,
    pub(crate) context: Vec<u8>,
}

impl Hello {
    /// The version comes first: what follows it in another one is not known here.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, String> {
        match postcard::take_from_bytes::<u16>(body) {
            Ok((PROTOCOL, _)) => Postcard.decode(body).map_err(|error| error.to_string()),
            Ok((theirs, _)) => Err(format!("it speaks protocol {theirs}, this worker {PROTOCOL}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The settings of a connection that both sides must have alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Agreed {
    frame_limit: u32,
    descriptors: usize,
}

impl Agreed {
    pub(crate) fn of(limits: Limits) -> Self {
        Self { frame_limit: limits.frame, descriptors: limits.descriptors }
    }

    /// What differs, in words; `None` when nothing does.
    pub(crate) fn mismatch(&self, here: &Self) -> Option<String> {
        let pairs = [
            ("frame_limit", u64::from(self.frame_limit), u64::from(here.frame_limit)),
            ("descriptors", self.descriptors as u64, here.descriptors as u64),
        ];
        let (what, sent, here) = pairs.into_iter().find(|(_, sent, here)| sent != here)?;
        Some(format!(
            "`{what}`: the master has {sent} (`Workers::{what}`), this worker {here} \
             (`Worker::{what}`)"
        ))
    }
}
