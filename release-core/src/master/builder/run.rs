//! From the settings to a running master.

use std::collections::HashSet;
use std::io;

use super::Master;
use crate::daemonize::detach::{refuse_threads, warn_of_threads};
use crate::daemonize::log_files::LogFiles;
use crate::master::channels;
use crate::master::group::Group;
use crate::master::health::STATUS_PAGE;
use crate::master::startup::Startup;
#[cfg(feature = "http")]
use crate::master::status_page;
use crate::master::upgrade::{self, HandOver, Invocation, UpgradeRole, roll_back, upgrade_role};
use crate::path::absolute;
use crate::rt::Driver;
use crate::streams::launcher;
use crate::supervise::GroupSpec;
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
    /// | USR1 | opens the log files again ([`MasterHandle::reopen_logs`]); ignored if there are none, unless your program handles it |
    /// | USR2 | upgrade to the new version of the program ([`MasterHandle::upgrade`]) |
    /// | TTIN, TTOU | one worker more or less in the first group, but not less than one |
    /// | WINCH | none |
    ///
    /// [`Master::signal`] sets other effects.
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
    /// # Threads of your own
    ///
    /// Start them in `driver`, such as the writer of a log library or the sender of a crash reporter: it
    /// runs after the last fork, and in a worker ([`Worker::run`](crate::Worker::run)) after the
    /// privileges were given up. Keep their guards outside, so that they outlive `run`:
    ///
    /// ```no_run
    /// use std::io::{self, Write};
    /// use std::sync::mpsc::{Sender, channel};
    /// use std::thread::JoinHandle;
    /// use release_core::rt::local::Local;
    /// use release_core::{Exit, Master, Workers};
    ///
    /// /// Writes lines in a thread. Dropping it writes the rest.
    /// struct Writer {
    ///     lines: Option<Sender<String>>,
    ///     thread: Option<JoinHandle<io::Result<()>>>,
    /// }
    ///
    /// fn start() -> Writer {
    ///     let (lines, received) = channel::<String>();
    ///     let write = move || received.iter().try_for_each(|line| writeln!(io::stderr(), "{line}"));
    ///     Writer { lines: Some(lines), thread: Some(std::thread::spawn(write)) }
    /// }
    ///
    /// impl Drop for Writer {
    ///     fn drop(&mut self) {
    ///         drop(self.lines.take());
    ///         let _ = self.thread.take().map(JoinHandle::join);
    ///     }
    /// }
    ///
    /// fn main() -> Exit {
    ///     let mut writer = None;
    ///     let workers = Workers::command("web", 4, "server", ["--port=8080"]).user("www-data");
    ///     let exit = Master::new().workers(workers).run(|| {
    ///         writer = Some(start());
    ///         Local::new()
    ///     });
    ///     drop(writer);
    ///     exit
    /// }
    /// ```
    ///
    /// An [upgrade](crate::MasterHandle::upgrade) also calls `driver` in its trial, and ends all threads
    /// when the new version takes over: flush in [`Master::hand_over`] what must not be lost.
    ///
    /// [`MasterHandle::stop`]: crate::MasterHandle::stop
    /// [`MasterHandle::reload`]: crate::MasterHandle::reload
    /// [`MasterHandle::upgrade`]: crate::MasterHandle::upgrade
    /// [`MasterHandle::reopen_logs`]: crate::MasterHandle::reopen_logs
    pub fn run<D: Driver>(self, driver: impl FnOnce() -> io::Result<D>) -> Exit {
        #[cfg(feature = "http")]
        if status_page::is_here() {
            return status_page::run(driver);
        }
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
        let (page, page_task) = self.page.unzip();
        let groups = self.groups.into_iter().chain(page);
        let groups = groups.map(|group| group.into_group(as_root));
        let mut groups = groups.collect::<Result<Vec<_>, _>>()?;
        refuse_own_name(&groups, page_task.is_some())?;
        refuse_namesakes(&groups)?;
        channels::connect(&mut groups, self.config.stop_deadline)?;
        check_order(&groups.iter().map(Group::spec).collect::<Vec<_>>())?;
        if !is_return {
            groups.iter().try_fold(0, |first, group| group.check_options(first))?;
        }
        let mut config = self.config;
        let [output, error] = &self.files;
        config.log_files = LogFiles::new(output.as_deref(), error.as_deref())?;
        if let Some(daemon) = self.background.as_ref().filter(|_| config.log_files.is_empty()) {
            config.log_files = daemon.log_files()?;
        }
        if config.rotation.is_some() && config.log_files.is_empty() {
            let message = "there are no log files to rotate: name one for `output` or `error`";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        // A version that comes back has served with these names.
        if let Some(rotation) = config.rotation.as_ref().filter(|_| !is_return) {
            let controls = self.controls.iter().map(|control| control.path.as_path());
            let others: Vec<_> = config.lock_file.as_deref().into_iter().chain(controls).collect();
            config.log_files.check_rotation(rotation.keep, &others)?;
        }
        config.hand_over.as_ref().map_or(Ok(()), HandOver::check)?;
        let settings = groups.iter().flat_map(|group| &group.settings);
        settings.for_each(|settings| config.hooks.add(settings));
        if self.systemd {
            config.systemd = Notifier::from_env()?;
        }
        config.lock_file = config.lock_file.map(|path| absolute(&path)).transpose()?;
        let (background, controls, main) = (self.background, self.controls, self.main);
        Ok(Startup { config, background, groups, controls, main, page: page_task })
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

/// Refuses a group with the name of the status page, which does not count for the health of the service.
fn refuse_own_name(groups: &[Group], has_page: bool) -> Result<(), Error> {
    let named = groups.iter().filter(|group| *group.name == *STATUS_PAGE).count();
    if named > usize::from(has_page) {
        let message =
            format!("the worker group `{STATUS_PAGE}` is the library's own; rename yours");
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

/// Refuses groups that would wait for each other, or for one that is not there.
fn check_order(groups: &[GroupSpec]) -> Result<(), Error> {
    let usage = |message| Err(Error::new(ErrorKind::Usage, message));
    let mut waiting: Vec<_> = groups.iter().collect();
    for (group, other) in groups.iter().flat_map(|it| it.after.iter().map(move |other| (it, other)))
    {
        if !groups.iter().any(|it| it.name == *other) {
            let message = format!(
                "worker group `{}` starts after `{other}`, and there is no group of that name",
                group.name
            );
            return usage(message);
        }
    }
    while !waiting.is_empty() {
        let waits: HashSet<_> = waiting.iter().map(|group| group.name.clone()).collect();
        let before = waiting.len();
        waiting.retain(|group| group.after.iter().any(|other| waits.contains(other)));
        if waiting.len() == before {
            let names: Vec<_> = waiting.iter().map(|group| format!("`{}`", group.name)).collect();
            let message = format!(
                "worker groups that start after each other never start: {}",
                names.join(", ")
            );
            return usage(message);
        }
    }
    Ok(())
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
    use crate::master::workers::IntoGroup;

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

    #[test]
    fn the_name_of_the_status_page_is_not_for_others() {
        let group = |name| Box::new(Workers::command(name, 1, "true", [""; 0])).into_group(false);
        let groups = [group("web").unwrap(), group(STATUS_PAGE).unwrap()];
        assert!(refuse_own_name(&groups, true).is_ok());
        assert!(refuse_own_name(&groups, false).is_err());
        assert!(refuse_own_name(&groups[..1], false).is_ok());
    }

    #[test]
    fn groups_start_in_an_order_that_exists() {
        let group = |(name, after): &(&str, &[&str])| {
            after.iter().fold(GroupSpec::new(*name, 1), |group, other| group.after(*other))
        };
        let check = |groups: &[(&str, &[&str])]| {
            check_order(&groups.iter().map(group).collect::<Vec<_>>()).map_err(|it| it.to_string())
        };
        assert_eq!(check(&[("web", &["db", "cache"]), ("cache", &["db"]), ("db", &[])]), Ok(()));
        let unknown = check(&[("web", &["bd"]), ("db", &[])]).unwrap_err();
        assert!(unknown.contains("`web`") && unknown.contains("`bd`"), "{unknown}");
        let circle = check(&[("a", &["b"]), ("b", &["a"]), ("c", &["a"]), ("d", &[])]).unwrap_err();
        assert!(circle.ends_with(": `a`, `b`, `c`"), "{circle}");
        assert!(check(&[("a", &["a"])]).is_err());
    }
}
