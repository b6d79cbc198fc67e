//! One worker process: program, environment, privileges, sockets, readiness, output, and connection
//! to the master.

use std::time::Duration;

pub(crate) mod attach;
pub(crate) mod channels;
pub(crate) mod child;
pub(crate) mod connections;
pub(crate) mod environment;
pub(crate) mod hand_on;
mod heartbeat;
pub(crate) mod listeners;
pub(crate) mod options;
pub(crate) mod output;
pub(crate) mod privileges;
pub(crate) mod readiness;
pub(crate) mod services;
pub(crate) mod stop_signal;
pub(crate) mod unexecutable;
pub(crate) mod worker_info;
pub(crate) mod worker_signal;

pub use attach::Decision;
pub use connections::Connections;
pub use environment::Environment;
pub use options::{Resource, WorkerOptions};
pub use output::{OutputFormat, OutputStream};
pub use readiness::Readiness;
pub use stop_signal::StopSignal;
pub use worker_info::WorkerInfo;
pub use worker_signal::{Recipients, WorkerSignal};

/// A master that runs notices every event within this time.
pub(crate) const HELD_UP: Duration = Duration::from_millis(100);
