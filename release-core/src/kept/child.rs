//! A child beside the workers.

use serde::{Deserialize, Serialize};

/// A child that runs, or whose exit the program does not know yet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Child<D> {
    pub(crate) name: String,
    pub(crate) pid: i32,
    /// Whether it was told to end.
    pub(crate) is_told: bool,
    /// How it has ended, if the program does not know yet.
    pub(crate) exit: Option<Exit>,
    /// Whether it was about to run its program: nobody has heard of it.
    pub(crate) is_starting: bool,
    pub(crate) ending: Option<Ending<D>>,
}

/// How far the end of a child process has come.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ending<D> {
    /// The signal that told it to end, which the processes that it leaves behind receive, too.
    pub(crate) told: Option<i32>,
    /// How it has ended, and its pidfd, if it was reaped and its process group is still waited for.
    pub(crate) reaped: Option<(Exit, D)>,
}

/// How a child has ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Exit {
    Code(i32),
    Signal { number: i32, core: bool },
}
