//! The master: its settings, the loop that carries out what the pool decides, its control sockets and
//! its replacement in place.

mod builder;
mod channels;
mod child_command;
pub(crate) mod children;
pub(crate) mod clock;
mod config;
pub(crate) mod control;
pub(crate) mod event_log;
mod event_queue;
pub(crate) mod events;
pub(crate) mod figures;
pub(crate) mod group;
pub(crate) mod handle;
pub(crate) mod health;
pub(crate) mod journal;
pub(crate) mod memory_kills;
pub(crate) mod pending;
pub(crate) mod reaper;
pub(crate) mod settings;
mod signals;
mod startup;
#[cfg(feature = "http")]
pub(crate) mod status_page;
pub(crate) mod supervisor;
pub(crate) mod systemd_notifier;
pub(crate) mod upgrade;
pub(crate) mod worker_state;
pub(crate) mod workers;

pub use builder::Master;
pub use child_command::ChildCommand;
pub use children::ChildHandle;
pub use control::{
    BoundControlSocket, CommandError, ControlCommand, ControlSocket, StatusReport, WorkerReport,
};
pub use event_queue::{EventBatch, Events};
pub use events::{EventKind, ServiceEvent};
pub use handle::MasterHandle;
pub use journal::DeathReport;
pub use reaper::{ClaimedChild, claim_child};
pub use settings::Settings;
pub use signals::{MasterSignal, SignalAction};
pub use upgrade::handed_over;
pub use worker_state::WorkerState;
pub use workers::Workers;
