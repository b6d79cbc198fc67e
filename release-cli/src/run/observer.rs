//! What becomes of what happens: systemd is told, and `status` knows how processes ended.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use release_core::MasterHandle;
use release_core::supervise::{Report, State};
use release_core::systemd::{Notifier, watchdog_time};

/// Beyond the time that workers have to stop.
const GRACE: Duration = Duration::from_secs(5);

/// A clone is the same.
#[derive(Clone, Debug)]
pub(super) struct Observer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    systemd: Option<Notifier>,
    stop_timeout: Duration,
    /// How the latest process of each worker ended.
    ends: Mutex<HashMap<u32, String>>,
}

impl Observer {
    pub(super) fn new(systemd: Option<Notifier>, stop_timeout: Duration) -> Self {
        Self(Arc::new(Inner { systemd, stop_timeout, ends: Mutex::default() }))
    }

    pub(super) fn see(&self, report: &Report) {
        if let Report::Died { id, exit, .. } = report {
            let mut ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
            ends.insert(id.0, exit.to_string());
        }
        self.tell(|systemd| match report {
            Report::AllReady => {
                // In the background it is another one than systemd has started.
                systemd.main_pid(std::process::id())?;
                systemd.ready()?;
                systemd.status("all workers are ready")
            }
            Report::Reloading { .. } | Report::Upgrading => systemd.reloading(),
            Report::Reloaded { generation } | Report::Upgraded { generation } => {
                systemd.ready()?;
                systemd.status(&format!("generation {generation} serves"))
            }
            Report::RolledBack { reason, .. } | Report::UpgradeRolledBack { reason, .. } => {
                systemd.ready()?;
                systemd.status(&format!("the last reload failed: {reason}"))
            }
            // It has not begun, but systemd waits for its begin as well as for its end.
            Report::ReloadRefused { reason } | Report::UpgradeRefused { reason } => {
                systemd.reloading()?;
                systemd.ready()?;
                systemd.status(&format!("the last reload was refused: {reason}"))
            }
            Report::TooFast { .. } => systemd.status("workers die too fast"),
            Report::Stopping { .. } => {
                systemd.stopping()?;
                systemd.extend_timeout(self.0.stop_timeout.saturating_add(GRACE))
            }
            _ => Ok(()),
        });
    }

    pub(super) fn last_exit(&self, worker: u32) -> Option<String> {
        self.0.ends.lock().unwrap_or_else(PoisonError::into_inner).get(&worker).cloned()
    }

    /// Tells systemd's watchdog that the pool is well, as long as it is: this runs, and a worker is
    /// ready or about to be.
    pub(super) async fn keep_watch(&self, master: MasterHandle) {
        let Some(time) = watchdog_time() else { return };
        loop {
            let status = master.status();
            let is_well = |state| matches!(state, State::Ready | State::Starting);
            if status.is_empty() || status.iter().any(|worker| is_well(worker.state)) {
                self.tell(Notifier::watchdog);
            }
            master.rt().sleep(time / 2).await;
        }
    }

    fn tell(&self, say: impl FnOnce(&Notifier) -> io::Result<()>) {
        let Some(systemd) = &self.0.systemd else { return };
        if let Err(error) = say(systemd) {
            tracing::warn!(%error, "systemd cannot be told");
        }
    }
}
