//! Leaving the terminal and root: the daemon, its lock file, its log files, and the program that it
//! becomes.

pub(crate) mod detach;
mod exec;
pub(crate) mod launcher;
pub(crate) mod lock;
pub(crate) mod log_files;
pub(crate) mod rotation;

pub use detach::Daemon;
pub use exec::Exec;
pub use launcher::Detached;
