//! Settings that HUP changes, beside the workers' processes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use release_core::config::Config;
use release_core::{Error, Settings, WorkerOptions, log};

use super::Options;
use super::file::{self, Programs};
use super::program::{ONLY, Program};

/// Settings that a reload puts in force.
pub(super) struct Reloaded {
    programs: BTreeMap<String, ReloadedProgram>,
    log_level: Option<String>,
    /// The file that these settings come from. A refused one leaves no trace.
    file: Option<Config>,
}

#[derive(Clone)]
struct ReloadedProgram {
    workers: u32,
    command: Vec<OsString>,
    variables: Vec<(String, OsString)>,
}

impl Reloaded {
    fn of(options: &Options, programs: &Programs, file: Option<Config>) -> Result<Self, Error> {
        let of = |(name, program): (&String, &Program)| {
            let variables = program.variables.pairs()?;
            let (workers, command) = (program.workers.unwrap_or(1), program.command.clone());
            Ok((name.clone(), ReloadedProgram { workers, command, variables }))
        };
        let programs = programs.iter().map(of).collect::<Result<_, Error>>()?;
        Ok(Self { programs, log_level: options.log_level.clone(), file })
    }

    pub(super) fn workers(&self, program: &str) -> u32 {
        self.programs.get(program).map_or(0, |program| program.workers)
    }

    /// Gives the log these levels: those of `RUST_LOG`, unless the options say others.
    pub(super) fn set_log_level(&self) -> Result<(), Error> {
        let of_environment = || {
            let levels = std::env::var("RUST_LOG").ok()?;
            log::check_levels(&levels).is_ok().then_some(levels)
        };
        let levels = self.log_level.clone().or_else(of_environment);
        log::set_levels(levels.as_deref().unwrap_or("info"))
    }

    /// Returns the options of a worker of this generation.
    pub(super) fn worker_options(&self, program: &str) -> WorkerOptions {
        let options = WorkerOptions::default();
        let Some(program) = self.programs.get(program) else { return options };
        let options = program.command.iter().skip(1).fold(options, WorkerOptions::argument);
        let variables = program.variables.iter();
        variables.fold(options, |options, (name, value)| options.variable(name, value))
    }
}

/// The options in force at the start, the programs, and the settings that change with each reload.
/// Starts the log.
pub(super) fn load(
    command_line: Options,
) -> Result<(Options, Programs, Settings<Reloaded>), Error> {
    let place = command_line.config.as_ref();
    let file = place.map(|path| Config::load(path, &file::spec())).transpose()?;
    // In the background, this process is elsewhere.
    let place = place.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()));
    let (options, programs) = merged(&command_line, file.as_ref())?;
    let reloaded = Reloaded::of(&options, &programs, file)?;
    if options.syslog {
        log::syslog("release")?
    } else {
        log::stderr()?
    }
    reloaded.set_log_level()?;
    reloaded.file.iter().for_each(warn);
    let reload = move |now: &Reloaded| read(&command_line, place.as_deref(), now);
    Ok((options, programs, Settings::new(reloaded, reload)))
}

/// Reads the files again. Logs changes that need a restart.
fn read(command_line: &Options, place: Option<&Path>, now: &Reloaded) -> Result<Reloaded, Error> {
    let file = place.map(|path| Config::load(path, &file::spec())).transpose()?;
    let both = file.as_ref().zip(now.file.as_ref());
    for change in both.map(|(file, former)| file.changes_since(former)).into_iter().flatten() {
        if !["workers", "env", "env-file", "command", "log-level"].contains(&change.key.as_str()) {
            tracing::warn!(key = change.key, "changed; in force after a new start");
        }
    }
    file.iter().for_each(warn);
    let (options, programs) = merged(command_line, file.as_ref())?;
    programs.values().try_for_each(|program| program.executable().map(drop))?;
    let mut next = Reloaded::of(&options, &programs, file)?;
    for (name, now) in &now.programs {
        let Some(program) = next.programs.get_mut(name) else {
            tracing::warn!(
                program = name,
                "not in the file any more; it ends with an upgrade or a stop"
            );
            next.programs.insert(name.clone(), now.clone());
            continue;
        };
        if program.command.first() != now.command.first() {
            tracing::warn!("another program; in force after a new start");
            // Its arguments are for nobody else.
            program.command.clone_from(&now.command);
        }
    }
    for name in next.programs.keys().filter(|name| !now.programs.contains_key(*name)) {
        tracing::warn!(program = name, "a new program; it starts with an upgrade or a new start");
    }
    Ok(next)
}

fn warn(file: &Config) {
    file.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
}

fn merged(command_line: &Options, file: Option<&Config>) -> Result<(Options, Programs), Error> {
    match file {
        Some(file) => file::merge(command_line, file),
        None => {
            let only = (ONLY.to_owned(), command_line.program.clone());
            Ok((command_line.clone(), Programs::from([only])))
        }
    }
}
