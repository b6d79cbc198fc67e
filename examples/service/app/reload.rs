//! What a reload changes beside the workers' processes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_util::StreamExt;
use release::supervise::Report;
use release::{Error, MasterHandle};

use super::Told;
use super::options::{Configuration, Settings};

/// The settings that a reload puts in force, and puts back when it fails.
#[derive(Clone)]
pub(super) struct Reloads {
    configuration: Arc<Configuration>,
    values: Arc<Mutex<Values>>,
    sizes: UnboundedSender<u32>,
}

struct Values {
    now: (Told, u32),
    before: (Told, u32),
    /// What the latest reload has asked for that succeeded.
    workers: u32,
}

impl Reloads {
    /// And the numbers of workers that reloads ask for.
    pub(super) fn new(
        configuration: Configuration,
        settings: &Settings,
    ) -> (Self, UnboundedReceiver<u32>) {
        let (sizes, asked) = unbounded();
        let now = (told(settings), settings.workers);
        let values = Arc::new(Mutex::new(Values { now, before: now, workers: settings.workers }));
        (Self { configuration: Arc::new(configuration), values, sizes }, asked)
    }

    /// What a worker that starts now is told.
    pub(super) fn told(&self) -> Told {
        self.values().now.0
    }

    pub(super) fn read(&self) -> Result<(), Error> {
        let settings = self.configuration.reload()?;
        let mut values = self.values();
        values.before = values.now;
        values.now = (told(&settings), settings.workers);
        Ok(())
    }

    pub(super) fn restore(&self) {
        let mut values = self.values();
        (values.now, values.before) = (values.before, values.now);
    }

    /// Reloads, and waits until there are as many workers as the configuration says.
    pub(super) async fn reload(&self, master: &MasterHandle) -> Result<(), Error> {
        master.reload().await?;
        let workers = self.values().workers;
        master.configure_size(super::GROUP, workers).await
    }

    /// The number of workers changes when the reload has succeeded: one that fails leaves it alone.
    pub(super) fn see(&self, report: &Report) {
        if matches!(report, Report::Reloaded { .. }) {
            let mut values = self.values();
            values.workers = values.now.1;
            // Fails when the master ends.
            let _ = self.sizes.unbounded_send(values.workers);
        }
    }

    fn values(&self) -> MutexGuard<'_, Values> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(settings: &Settings) -> Told {
    Told { log: settings.log, has_access_log: settings.access_log.is_some() }
}

/// Gives the group the size that the configuration says, whenever that changes.
pub(super) async fn resize(master: MasterHandle, mut sizes: UnboundedReceiver<u32>) {
    while let Some(workers) = sizes.next().await {
        if let Err(error) = master.configure_size(super::GROUP, workers).await {
            tracing::error!(workers, reason = error.report(), "the number of workers stays");
        }
    }
}
