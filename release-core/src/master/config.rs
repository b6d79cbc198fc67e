//! `MasterConfig`: the settings of a master, one value from the builder to the supervisor.

use std::path::PathBuf;
use std::time::Duration;

use super::pending::Hooks;
use super::signals::SignalActions;
use super::upgrade::HandOver;
use crate::daemonize::log_files::LogFiles;
use crate::daemonize::rotation::Rotation;
use crate::systemd::Notifier;

/// Settings of a master beside its groups and sockets.
pub(crate) struct MasterConfig {
    pub(crate) log_files: LogFiles,
    pub(crate) rotation: Option<Rotation>,
    pub(crate) systemd: Option<Notifier>,
    pub(crate) lock_file: Option<PathBuf>,
    pub(crate) hooks: Hooks,
    pub(crate) stop_deadline: Duration,
    pub(crate) signals: SignalActions,
    pub(crate) exit_with_signal: bool,
    /// Whether workers are stopped by the signal that stops the master.
    pub(crate) forward_signals: bool,
    pub(crate) hand_over: Option<HandOver>,
}

impl Default for MasterConfig {
    fn default() -> Self {
        Self {
            log_files: LogFiles::default(),
            rotation: None,
            systemd: None,
            lock_file: None,
            hooks: Hooks::default(),
            stop_deadline: Duration::from_secs(10),
            signals: SignalActions::default(),
            exit_with_signal: false,
            forward_signals: false,
            hand_over: None,
        }
    }
}
