//! What a user calls: master, workers, daemon, lock file, control socket.

mod attach;
mod connections;
mod control;
mod detach;
mod environment;
mod exit;
mod group;
mod handle;
mod hello;
mod listeners;
mod lock;
mod master;
mod options;
mod permit;
mod plan;
mod privileges;
mod stopping;
mod worker;
mod workers;

pub(crate) use attach::News;
pub use connections::Connections;
pub use control::{BoundControlSocket, ControlSocket};
pub use detach::{Daemon, Detached};
pub use environment::Environment;
pub use exit::Exit;
pub(crate) use group::{Group, Particulars};
pub(crate) use handle::Command;
pub use handle::{MasterHandle, WorkerState};
pub(crate) use hello::{Hello, PROTOCOL};
pub use master::Master;
pub use options::{Resource, WorkerOptions};
pub use permit::Permit;
pub use stopping::Stopping;
pub(crate) use stopping::{Stop, stop_channel};
pub use worker::{Me, PlainMe, Worker, is_worker, me};
pub use workers::{WorkerInfo, Workers};
