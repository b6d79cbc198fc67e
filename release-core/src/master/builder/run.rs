//! From the settings to a running master.

use std::collections::HashSet;
use std::io;

use super::Master;
use crate::daemonize::detach::{refuse_threads, warn_of_threads};
use crate::daemonize::log_files::LogFiles;
use crate::master::group::Group;
use crate::master::startup::Startup;
use crate::master::upgrade::{self, HandOver, Invocation, UpgradeRole, roll_back, upgrade_role};
use crate::path::absolute;
use crate::rt::Driver;
use crate::streams::launcher;
use crate::systemd::Notifier;
use crate::worker::is_worker;
use crate::{Error, ErrorKind, Exit};

impl Master {
    /// Runs the master until a signal or [`MasterHandle::stop`] ends it.
    ///
    /// | signal | effect |
    /// |---|---|
    /// | TERM, INT | graceful stop; a second signal, at least a second later, stops at once |
    /// | QUIT | stops at once |
    /// | HUP | reload ([`MasterHandle::reload`]). In the foreground: graceful stop if the terminal has gone; ignored if it was ignored at the start, as by `nohup` |
    /// | TTIN, TTOU | one worker more or less in the first group, but not less than one |
    /// | USR1 | upgrade to the new version of the program ([`MasterHandle::upgrade`]) |
    /// | USR2 | opens the log files again ([`MasterHandle::reopen_logs`]); ignored if there are none, unless your program handles it |
    ///
    /// Call this method first in `main`. With [`background`](Master::background) no thread may exist yet,
    /// and in any case none of your own; `driver` builds the async runtime after the last fork. The
    /// [`Exit`] contains the reason of a failed start, which the launcher of a background process reports,
    /// too.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::rt::local::Local;
    /// use release_core::{Exit, Master, Workers};
    ///
    /// fn main() -> Exit {
    ///     let workers = Workers::command("web", 4, "server", ["--port=8080"]).user("www-data");
    ///     Master::new().workers(workers).run(Local::new)
    /// }
    /// ```
    ///
    /// [`MasterHandle::stop`]: crate::MasterHandle::stop
    /// [`MasterHandle::reload`]: crate::MasterHandle::reload
    /// [`MasterHandle::upgrade`]: crate::MasterHandle::upgrade
    /// [`MasterHandle::reopen_logs`]: crate::MasterHandle::reopen_logs
    pub fn run<D: Driver>(self, driver: impl FnOnce() -> io::Result<D>) -> Exit {
        #[cfg(feature = "log")]
        crate::unlogged::fall_back_to(crate::log::fallback);
        if cfg!(panic = "abort") {
            log_warning!("built with panic=abort: any panic ends the master and all workers");
        }
        let role = match upgrade_role() {
            Ok(role) => role,
            Err(error) => return roll_back(error, &[]).into(),
        };
        let invocation = Invocation::here(role.executable());
        let startup = self.check(role.has_returned());
        if let UpgradeRole::Trial(running, answer) = role {
            let outcome = startup.and_then(|startup| startup.validate_handover(driver, running));
            return upgrade::answer(answer, outcome);
        }
        let previous = role.take();
        let started = startup.and_then(|mut startup| {
            let launcher = startup.enter_background(previous.as_ref())?;
            Ok((startup, launcher))
        });
        let (startup, mut launcher) = match started {
            Ok(started) => started,
            Err(error) => return roll_back(error, &[]).into(),
        };
        let ended = startup.run(driver, &mut launcher, invocation, previous);
        if let (Some(launcher), Some(error)) = (launcher, ended.error()) {
            // The launcher prints the reason itself.
            launcher::leave();
            launcher.fail(error);
        }
        ended
    }

    /// Checks everything that can be wrong with the settings, before anything has happened. A version
    /// that is the master again has served with them: its workers get the same as before.
    fn check(self, is_return: bool) -> Result<Startup, Error> {
        refuse_worker()?;
        // In the foreground, each fork is followed by an exec.
        if self.background.is_some() {
            refuse_threads()?
        } else {
            warn_of_threads()
        }
        let as_root = nix::unistd::geteuid().is_root();
        check_privileged(self.privileged, as_root)?;
        let groups = self.groups.into_iter().map(|group| group.into_group(as_root));
        let groups = groups.collect::<Result<Vec<_>, _>>()?;
        refuse_namesakes(&groups)?;
        if !is_return {
            groups.iter().try_fold(0, |first, group| group.check_options(first))?;
        }
        let mut config = self.config;
        let [output, error] = &self.files;
        config.log_files = LogFiles::new(output.as_deref(), error.as_deref())?;
        if let Some(daemon) = self.background.as_ref().filter(|_| config.log_files.is_empty()) {
            config.log_files = daemon.log_files()?;
        }
        config.hand_over.as_ref().map_or(Ok(()), HandOver::check)?;
        let settings = groups.iter().flat_map(|group| &group.settings);
        settings.for_each(|settings| config.hooks.add(settings));
        if self.systemd {
            config.systemd = Notifier::from_env()?;
        }
        config.lock_file = config.lock_file.map(|path| absolute(&path)).transpose()?;
        let (background, controls, main) = (self.background, self.controls, self.main);
        Ok(Startup { config, background, groups, controls, main })
    }
}

/// Refuses to be a master in a worker, which would start workers that do the same, without end.
fn refuse_worker() -> Result<(), Error> {
    if is_worker() {
        let message = "this process was started as a worker and must not be a master: `main` asks \
                       `is_worker()` first, and runs `me()` then";
        return Err(Error::new(ErrorKind::Usage, message));
    }
    Ok(())
}

/// Refuses two groups of one name: commands, logs and upgrades tell groups apart by their names.
fn refuse_namesakes(groups: &[Group]) -> Result<(), Error> {
    let mut names = HashSet::new();
    match groups.iter().find(|group| !names.insert(&*group.name)) {
        Some(group) => {
            let message = format!("two worker groups are called `{}`; rename one", group.name);
            Err(Error::new(ErrorKind::Usage, message))
        }
        None => Ok(()),
    }
}

fn check_privileged(wanted: Option<bool>, as_root: bool) -> Result<(), Error> {
    let message = match (wanted, as_root) {
        (Some(true), false) => "this program must be started as root",
        (Some(false), true) => "this program refuses to run as root; start it as another user",
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::Privileges, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Workers;

    #[test]
    fn two_groups_have_two_names() {
        let check = |names: [&str; 2]| {
            let master = names.into_iter().fold(Master::new(), |master, name| {
                master.workers(Workers::command(name, 1, "true", [""; 0]))
            });
            let groups = master.groups.into_iter().map(|group| group.into_group(false).unwrap());
            refuse_namesakes(&groups.collect::<Vec<_>>())
        };
        assert!(check(["web", "mail"]).is_ok());
        assert_eq!(
            check(["web", "web"]).unwrap_err().to_string(),
            "two worker groups are called `web`; rename one"
        );
    }
}
