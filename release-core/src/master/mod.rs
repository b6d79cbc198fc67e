//! The master: its settings, the loop that carries out what the pool decides, its control sockets and
//! its replacement in place.

mod builder;
pub(crate) mod clock;
mod config;
pub(crate) mod control;
pub(crate) mod event_log;
pub(crate) mod group;
pub(crate) mod handle;
pub(crate) mod pending;
pub(crate) mod reaper;
pub(crate) mod settings;
mod startup;
pub(crate) mod supervisor;
pub(crate) mod systemd_notifier;
pub(crate) mod upgrade;
pub(crate) mod workers;

pub use builder::Master;
pub use control::{
    BoundControlSocket, CommandError, ControlCommand, ControlSocket, StatusReport, WorkerReport,
};
pub use handle::{MasterHandle, WorkerState};
pub use reaper::{ClaimedChild, claim_child};
pub use settings::Settings;
pub use upgrade::handed_over;
pub use workers::Workers;
