//! `release run --check`: what can be known before a start.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Group, User, access, geteuid};
use release_core::{Error, ErrorKind, Master};

use super::program::Program;
use super::{Options, access_levels, file, log_files, reload};

/// Checks all options, and says so on standard output. Starts, binds and writes nothing, so that it can
/// be used beside the running service.
pub(super) fn run(options: Options) -> Result<(), Error> {
    let (options, programs, _) = reload::load(options)?;
    access_levels(&options)?;
    log_files(Master::new(), &options)?;
    file::check_order(&programs)?;
    if let Some(hook) = &options.on_event {
        find(hook.as_os_str(), None)?;
    }
    for program in programs.values() {
        let path = check(program)?;
        // A full disk does not make the settings wrong.
        let _ = writeln!(io::stdout(), "ok: {}", path.display());
    }
    Ok(())
}

/// Returns the path of the program.
fn check(program: &Program) -> Result<PathBuf, Error> {
    let path = find(program.executable()?, program.chdir.as_deref())?;
    program.check_account()?;
    program.check_watchdog()?;
    if let Some(login) = &program.user {
        exists("user", login.split(':').next().unwrap_or_default(), |name| {
            User::from_name(name).map(|user| user.is_some())
        })?;
    }
    let least = program.workers.unwrap_or(1);
    if let Some(most) = program.max_workers.filter(|most| *most < least) {
        let message = format!("`--max-workers`: it cannot grow from {least} to {most} workers");
        return Err(Error::new(ErrorKind::Usage, message));
    }
    if let Some(group) = &program.group {
        exists("group", group, |name| Group::from_name(name).map(|group| group.is_some()))?;
        if program.user.is_none() && geteuid().is_root() {
            let message = "a group is named, but no user: name an account with `--user`";
            return Err(Error::new(ErrorKind::Privileges, message));
        }
    }
    if let Some(sandbox) = program.restrictions.sandbox() {
        sandbox.check(program.chdir.as_deref().unwrap_or_else(|| Path::new("")))?;
    }
    Ok(path)
}

/// Numbers need no account.
fn exists(
    kind: &str,
    name: &str,
    look_up: impl FnOnce(&str) -> nix::Result<bool>,
) -> Result<(), Error> {
    if name.parse::<u32>().is_ok() {
        return Ok(());
    }
    let found = look_up(name);
    if found == Ok(true) {
        return Ok(());
    }
    let why = found.err().map_or("it does not exist", nix::errno::Errno::desc);
    let message = format!("the {kind} `{}`: {why}", name.escape_debug());
    Err(Error::new(ErrorKind::Usage, message))
}

/// Finds a program as its start does: by its path, from the directory of the workers, or by `PATH`.
fn find(program: &OsStr, directory: Option<&Path>) -> Result<PathBuf, Error> {
    if program.as_bytes().contains(&b'/') {
        let path = directory.unwrap_or_else(|| Path::new("")).join(program);
        return match access(&path, AccessFlags::X_OK) {
            Ok(()) => Ok(path),
            Err(error) => {
                let message = format!("cannot execute `{}`: {}", path.display(), error.desc());
                Err(Error::new(ErrorKind::Usage, message))
            }
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/bin:/usr/bin".into());
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file() && access(path, AccessFlags::X_OK).is_ok());
    found.ok_or_else(|| {
        let message =
            format!("there is no program `{}` in the directories of $PATH", program.display());
        Error::new(ErrorKind::Usage, message)
    })
}
