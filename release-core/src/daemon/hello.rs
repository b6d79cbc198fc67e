//! The greeting: the first frame of a connection in call mode, from the master to its worker.

use std::any::type_name;

use serde::{Deserialize, Serialize};

use crate::ipc::limits::Limits;
use crate::ipc::{Codec, Postcard};

/// Changes whenever master and worker of two versions could misunderstand each other.
pub(crate) const PROTOCOL: u16 = 2;

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
    pub(crate) types: Option<Types>,
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

/// The message types of a connection by name, so that a mix-up is an error at the start and not a
/// misunderstanding later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Types {
    pub(crate) context: String,
    pub(crate) to_master: String,
    pub(crate) to_worker: String,
}

impl Types {
    /// Those of a worker with such a context; the connection knows the others.
    pub(crate) fn of_context(context: String) -> Self {
        Self { context, ..Self::of::<(), (), ()>() }
    }

    pub(crate) fn of<Context, ToMaster, ToWorker>() -> Self {
        Self {
            context: type_name::<Context>().to_owned(),
            to_master: type_name::<ToMaster>().to_owned(),
            to_worker: type_name::<ToWorker>().to_owned(),
        }
    }

    /// What the new version of a master and its running workers do not call by the same name.
    pub(crate) fn difference(&self, running: &Self) -> Option<String> {
        let pairs = [
            ("requests to the master", &self.to_master, &running.to_master),
            ("requests to the worker", &self.to_worker, &running.to_worker),
        ];
        let (what, new, old) = pairs.into_iter().find(|(_, new, old)| new != old)?;
        Some(format!("{what}: running workers have `{old}`, the new version `{new}`"))
    }

    /// What differs, in words; `None` when nothing does.
    pub(crate) fn mismatch(&self, expected: &Self) -> Option<String> {
        let pairs = [
            ("the context", &self.context, &expected.context),
            ("requests to the master", &self.to_master, &expected.to_master),
            ("requests to the worker", &self.to_worker, &expected.to_worker),
        ];
        let (what, sent, expected) = pairs.into_iter().find(|(_, sent, here)| sent != here)?;
        Some(format!("{what}: the master has `{sent}`, this worker expects `{expected}`"))
    }
}
