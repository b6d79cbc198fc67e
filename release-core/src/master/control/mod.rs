//! Control sockets: Unix sockets on which scripts and people send commands to a daemon.

mod accept_gate;
mod bound;
mod command;
mod connection;
mod file;
mod frozen;
mod handle;
mod limiter;
mod socket;
mod status;
#[cfg(test)]
mod tests;

pub use bound::BoundControlSocket;
pub use command::{CommandError, ControlCommand};
pub(crate) use frozen::{FrozenControl, successors};
pub(crate) use handle::ControlHandle;
pub(crate) use limiter::{ControlRequest, UpgradeWait};
pub use socket::ControlSocket;
pub use status::{StatusReport, WorkerReport};
