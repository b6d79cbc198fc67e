//! Runtime-agnostic framework for multi-process daemons on Unix.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod buffer;
pub mod bytes;
mod child;
pub mod config;
mod daemon;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod ipc;
#[cfg(feature = "log")]
pub mod log;
pub mod net;
pub mod rt;
mod seldom;
mod signals;
pub mod supervise;
mod sys;
pub mod systemd;

pub use daemon::{
    BoundControlSocket, Connections, ControlSocket, Daemon, Detached, Environment, Exec, Exit,
    Master, MasterHandle, Me, OutputStream, Permit, PlainMe, Readiness, Resource, StopSignal,
    Stopping, Work, Worker, WorkerInfo, WorkerOptions, WorkerState, Workers, handed_over,
    is_worker, me,
};
pub use error::{Error, ErrorKind};
pub use net::Credentials;
