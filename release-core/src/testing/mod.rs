//! Tests of your daemon: real processes from plain blocking code, and workers without processes.
//!
//! [`Program`] starts your program in a directory of its own and waits until its workers are ready. With
//! the [`Running`] program you send signals and commands, kill workers, read the log and wait for lines.
//! When it is dropped, it is stopped, and the test fails if a process, a socket or a file is left behind.
//! [`Load`] proves that nothing is lost meanwhile. [`worker()`] runs a worker's function in the process of the
//! test, without a master. `docs/TESTING.md` has the tests that every daemon wants.
//!
//! Enable the feature `testing` in your `[dev-dependencies]` only:
//!
//! ```toml
//! [dev-dependencies]
//! release-rs = { version = "0.1", features = ["testing"] }
//! ```
//!
//! Only methods that say so panic; errors contain the log of the program.
//!
//! # How processes are found
//!
//! A process belongs to the program if its environment has the variable `RELEASE_TESTING` with the
//! directory of the test, if it works in this directory, if it is in the process group or the session of the
//! program, or if it is a descendant of such a process. A descendant that leaves all of these within a few
//! milliseconds and loses its parent is not found.

mod control;
mod directory;
mod exited;
mod failure;
mod listeners;
mod load;
mod notifications;
mod processes;
mod program;
mod running;
mod worker;

pub use exited::Exited;
pub use failure::TestFailure;
pub use load::{Load, Loaded};
pub use program::Program;
pub use running::Running;
pub use worker::{TestMaster, worker};
