//! The greeting: the first frame of a connection in call mode, from the master to its worker.

use std::any::type_name;

use serde::{Deserialize, Serialize};

/// Changes whenever master and worker of two versions could misunderstand each other.
pub(crate) const PROTOCOL: u16 = 2;

/// Who a worker is and what it gets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u16,
    pub(crate) worker: u32,
    pub(crate) group: String,
    /// The names of the listening sockets, which are descriptors 3, 4, ... of the new process.
    pub(crate) listeners: Vec<String>,
    /// Set when both are the same executable, whose types must agree.
    pub(crate) types: Option<Types>,
    pub(crate) context: Vec<u8>,
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
    pub(crate) fn of<Context, ToMaster, ToWorker>() -> Self {
        Self {
            context: type_name::<Context>().to_owned(),
            to_master: type_name::<ToMaster>().to_owned(),
            to_worker: type_name::<ToWorker>().to_owned(),
        }
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
