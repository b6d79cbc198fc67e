//! What HUP changes beside the workers' processes.

use std::ffi::OsString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_util::StreamExt;
use release_core::config::Live;
use release_core::supervise::Report;
use release_core::{Error, MasterHandle, WorkerOptions};

use super::{GROUP, Options, file, program};

/// The options that a reload puts in force, and puts back when it fails.
#[derive(Clone)]
pub(super) struct Reloads {
    command_line: Arc<Options>,
    file: Option<Arc<Live>>,
    values: Arc<Mutex<Values>>,
    sizes: UnboundedSender<u32>,
}

struct Values {
    now: Options,
    before: Options,
    /// What the latest reload has asked for that succeeded.
    workers: u32,
    /// The environment of either.
    variables: [Vec<(String, OsString)>; 2],
}

impl Reloads {
    /// And the numbers of workers that reloads ask for.
    pub(super) fn new(command_line: Options) -> Result<(Self, UnboundedReceiver<u32>), Error> {
        let file = command_line.config.as_ref().map(|path| Live::load(path, file::spec()));
        let file = file.transpose()?.map(Arc::new);
        let now = merged(&command_line, file.as_deref());
        let variables = [now.variables.pairs()?, Vec::new()];
        let workers = now.workers.unwrap_or(1);
        let values = Values { before: now.clone(), now, workers, variables };
        let values = Arc::new(Mutex::new(values));
        let (sizes, asked) = unbounded();
        Ok((Self { command_line: Arc::new(command_line), file, values, sizes }, asked))
    }

    /// What is in force.
    pub(super) fn options(&self) -> Options {
        self.values().now.clone()
    }

    /// What a worker that starts now gets.
    pub(super) fn worker_options(&self) -> WorkerOptions {
        let values = self.values();
        let arguments = values.now.command.iter().skip(1);
        let options = arguments.fold(WorkerOptions::default(), WorkerOptions::argument);
        let [variables, _] = &values.variables;
        variables.iter().fold(options, |options, (name, value)| options.variable(name, value))
    }

    /// Reads the files again. What cannot change while this runs is said to wait.
    pub(super) fn read(&self) -> Result<(), Error> {
        let changes = self.file.as_ref().map(|file| file.reload()).transpose()?;
        for change in changes.into_iter().flatten() {
            if !["workers", "env", "env-file", "command"].contains(&change.key.as_str()) {
                tracing::warn!(key = change.key, "changed; in force after a new start");
            }
        }
        let mut now = merged(&self.command_line, self.file.as_deref());
        let variables = now.variables.pairs()?;
        let values = &mut *self.values();
        let before = std::mem::replace(&mut values.variables[0], variables);
        values.variables[1] = before;
        if program(&now)? != program(&values.now)? {
            tracing::warn!("another program; in force after a new start");
            // Its arguments are for nobody else.
            now.command.clone_from(&values.now.command);
        }
        values.before = std::mem::replace(&mut values.now, now);
        Ok(())
    }

    pub(super) fn restore(&self) {
        let values = &mut *self.values();
        std::mem::swap(&mut values.now, &mut values.before);
        values.variables.swap(0, 1);
    }

    pub(super) fn see(&self, report: &Report) {
        if matches!(report, Report::Reloaded { .. }) {
            let values = &mut *self.values();
            values.workers = values.now.workers.unwrap_or(1);
            // Fails when the master ends.
            let _ = self.sizes.unbounded_send(values.workers);
        }
    }

    /// Reloads, and waits until there are as many workers as the options say.
    pub(super) async fn reload(&self, master: &MasterHandle) -> Result<(), Error> {
        master.reload().await?;
        let workers = self.values().workers;
        master.configure_size(GROUP, workers).await
    }

    fn values(&self) -> MutexGuard<'_, Values> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn merged(command_line: &Options, file: Option<&Live>) -> Options {
    file.map_or_else(|| command_line.clone(), |file| file::merge(command_line, &file.current()))
}

/// Gives the group the size that the options say, whenever that changes.
pub(super) async fn resize(
    master: MasterHandle,
    mut sizes: UnboundedReceiver<u32>,
) -> Result<(), Error> {
    while let Some(workers) = sizes.next().await {
        if let Err(error) = master.configure_size(GROUP, workers).await {
            tracing::error!(workers, reason = error.report(), "the number of workers stays");
        }
    }
    Ok(())
}
