//! A child beside the workers.

use serde::{Deserialize, Serialize};

/// A child that runs, or whose exit the program does not know yet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Child {
    pub(crate) name: String,
    pub(crate) pid: i32,
    /// Whether it was told to end.
    pub(crate) is_told: bool,
    /// How it has ended, if the program does not know yet.
    pub(crate) exit: Option<Exit>,
    /// Whether it was about to run its program: nobody has heard of it.
    pub(crate) is_starting: bool,
}

/// How a child has ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Exit {
    Code(i32),
    Signal { number: i32, core: bool },
}
