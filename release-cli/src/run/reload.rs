//! Settings that HUP changes, beside the workers' processes.

use std::ffi::OsString;

use release_core::config::Live;
use release_core::{Error, Settings, WorkerOptions};

use super::{Options, file, program};

/// Settings that a reload puts in force.
pub(super) struct Reloaded {
    workers: u32,
    command: Vec<OsString>,
    variables: Vec<(String, OsString)>,
}

impl Reloaded {
    fn of(options: &Options) -> Result<Self, Error> {
        let variables = options.variables.pairs()?;
        let (workers, command) = (options.workers.unwrap_or(1), options.command.clone());
        Ok(Self { workers, command, variables })
    }

    pub(super) fn workers(&self) -> u32 {
        self.workers
    }

    /// Returns the options of a worker of this generation.
    pub(super) fn worker_options(&self) -> WorkerOptions {
        let arguments = self.command.iter().skip(1);
        let options = arguments.fold(WorkerOptions::default(), WorkerOptions::argument);
        self.variables.iter().fold(options, |options, (name, value)| options.variable(name, value))
    }
}

/// The options in force at the start, and the settings that change with each reload.
pub(super) fn load(command_line: Options) -> Result<(Options, Settings<Reloaded>), Error> {
    let file = command_line.config.as_ref().map(|path| Live::load(path, file::spec()));
    let file = file.transpose()?;
    let first = merged(&command_line, file.as_ref());
    let reloaded = Reloaded::of(&first)?;
    let reload = move |now: &Reloaded| read(&command_line, file.as_ref(), now);
    Ok((first, Settings::new(reloaded, reload)))
}

/// Reads the files again. Logs changes that need a restart.
fn read(command_line: &Options, file: Option<&Live>, now: &Reloaded) -> Result<Reloaded, Error> {
    for change in file.map(Live::reload).transpose()?.into_iter().flatten() {
        if !["workers", "env", "env-file", "command"].contains(&change.key.as_str()) {
            tracing::warn!(key = change.key, "changed; in force after a new start");
        }
    }
    let options = merged(command_line, file);
    let mut next = Reloaded::of(&options)?;
    if Some(program(&options)?) != now.command.first() {
        tracing::warn!("another program; in force after a new start");
        // Its arguments are for nobody else.
        next.command.clone_from(&now.command);
    }
    Ok(next)
}

fn merged(command_line: &Options, file: Option<&Live>) -> Options {
    file.map_or_else(|| command_line.clone(), |file| file::merge(command_line, &file.current()))
}
