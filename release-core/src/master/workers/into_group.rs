//! Looks up and checks the settings of a group.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{GroupOptions, Workers};
use crate::accounts;
use crate::ipc::limits::Limits;
use crate::ipc::{Codec, Heartbeat, Request};
use crate::master::group::{Contact, FIRST, Group, WorkerProgram, configured_size};
use crate::master::health::STATUS_PAGE;
use crate::master::upgrade::working_directory;
use crate::path::absolute;
use crate::path::c_string;
use crate::process::attach::Attach;
use crate::process::hand_on::{HandOn, HandOnLimits};
use crate::process::listeners::Listener;
use crate::process::privileges;
use crate::process::privileges::ROOT;
use crate::process::readiness::{GroupReadiness, Readiness, of_the_master};
use crate::process::services::GroupServices;
use crate::sandbox::{CheckedSandbox, Surroundings};
use crate::start_files::looked_up;
use crate::supervise::{Elastic, GroupSpec, Ready};
use crate::sys::creds::ProcessCredentials;
use crate::{Error, ErrorKind};

/// Time without new connections before a program is told to stop, in which it accepts and reads the
/// connections that are on their way.
const LEAVING: Duration = Duration::from_millis(250);

/// Accepted by [`Master::workers`](crate::Master::workers): [`Workers`] of any types.
pub(crate) trait IntoGroup {
    fn into_group(self: Box<Self>, as_root: bool) -> Result<Group, Error>;
}

impl<W, C> IntoGroup for Workers<W, C>
where
    W: Request,
    C: Codec<W> + Codec<W::Response>,
{
    fn into_group(self: Box<Self>, as_root: bool) -> Result<Group, Error> {
        if self.spec.has_lost_handler {
            let message = "`requests` or `codec` after `answer` or `plain` would forget the handler; \
                           call it before";
            return Err(about(&self.spec.name, message));
        }
        let needs_none = self.attach.is_some() || self.spec.is_command;
        let workers = match self.without_handler.filter(|_| !needs_none) {
            Some(set_handler) => set_handler(*self),
            None => *self,
        };
        workers.spec.into_group(workers.attach, as_root)
    }
}

/// Finds a program where its process will look for it.
fn find(
    program: WorkerProgram,
    is_command: bool,
    directories: &Directories,
) -> Result<WorkerProgram, Error> {
    let root = directories.root.as_deref().unwrap_or_else(|| Path::new("/"));
    let found = if is_command { program.find(root)? } else { program };
    found.resolve(&directories.start)
}

/// Returns the services of the master beside calls. The channels are connected when all groups are known.
fn services(hand_on: Option<HandOnLimits>) -> GroupServices {
    let hand_on = hand_on.map(|limits| Arc::new(HandOn::new(limits)));
    GroupServices { hand_on, channels: None }
}

impl GroupOptions {
    /// Looks up and checks everything that can be wrong, while a terminal can show the reason.
    fn into_group(
        mut self,
        attach: Option<Arc<dyn Attach>>,
        as_root: bool,
    ) -> Result<Group, Error> {
        let heartbeat = self.checked_heartbeat(attach.as_deref())?;
        let mut credentials = self.credentials(as_root)?;
        let size = self.checked_size()?;
        self.settle_listeners(size)?;
        let (contact, ready) = self.contact(attach, credentials.as_ref())?;
        let directories = self.directories(credentials.is_some())?;
        let enters_itself = self.program.is_this() && directories.root.is_some();
        if enters_itself {
            credentials = credentials.map(ProcessCredentials::and_change_root);
        }
        self.check_messages(&contact)?;
        let sandbox = self.checked_sandbox(&directories, enters_itself)?;
        let environment = match (&directories.directory, &directories.root) {
            (_, Some(root)) if enters_itself => self.environment.set(ROOT, root),
            (Some(directory), _) => self.environment.in_directory(directory),
            _ => self.environment,
        };
        let is_private = |name: &OsStr| self.is_command && of_the_master(name);
        let environment = environment.block(is_private, credentials.as_ref())?;
        let program = find(self.program, self.is_command, &directories)?;
        let c_path = |path: PathBuf| c_string(path.into_os_string());
        let limits = Limits { pulse: heartbeat, hands_on: self.hand_on.is_some(), ..self.limits };
        Ok(Group {
            directory: directories.directory.map(c_path).transpose()?,
            root: directories.root.filter(|_| !enters_itself).map(c_path).transpose()?,
            name: self.name.as_str().into(),
            spec: GroupSpec {
                auxiliary: self.name == STATUS_PAGE,
                name: self.name,
                size,
                restart: self.restart,
                reload: self.reload,
                life: self.life,
                ready,
                after: self.after,
            },
            contact,
            stop_signal: self.stop_signal,
            output: self.output.unless_inherited(),
            limits,
            environment,
            program,
            credentials,
            sandbox,
            listeners: self.listeners,
            has_metrics: self.has_metrics,
            sizes: self.sizes,
            settings: self.settings,
            context: self.context,
            options: self.options,
            jobs: self.jobs,
            elastic: self.grow_to.map(Elastic::new),
            channel_to: self.channel_to,
            services: services(self.hand_on),
        })
    }

    fn directories(&self, has_credentials: bool) -> Result<Directories, Error> {
        Directories::of(self, has_credentials).map_err(|error| {
            Error::new(error.kind(), format!("worker group `{}`", self.name)).caused_by(error)
        })
    }

    /// Returns the number of workers at the start.
    fn checked_size(&self) -> Result<u32, Error> {
        let size = configured_size(self.sizes.as_ref(), FIRST);
        let size = size.map_err(|error| about(&self.name, "its size").caused_by(error))?;
        let size = size.unwrap_or(self.size);
        match self.grow_to {
            Some(most) if most < size => {
                let message = format!("it cannot grow from {size} to {most} workers");
                Err(about(&self.name, &message))
            }
            Some(10_001..) => Err(about(&self.name, "more than 10000 workers are too many")),
            _ => Ok(size),
        }
    }

    fn checked_sandbox(
        &mut self,
        directories: &Directories,
        enters_root: bool,
    ) -> Result<Option<CheckedSandbox>, Error> {
        let (start, root) = (directories.start.as_path(), directories.root.as_deref());
        let sandbox = self.sandbox.take();
        let checked = sandbox.map(|it| it.checked(Surroundings { start, root, enters_root }));
        checked.transpose().map_err(|error| {
            Error::new(error.kind(), format!("worker group `{}`", self.name)).caused_by(error)
        })
    }

    /// Returns the heartbeat of a group in call mode; commands show in another way that they live.
    fn checked_heartbeat(&self, attach: Option<&dyn Attach>) -> Result<Option<Heartbeat>, Error> {
        if self.readiness.is_some() && !self.is_command {
            let message = "`readiness` is for commands; these workers tell their master";
            return Err(about(&self.name, message));
        }
        let timeout = self.heartbeat.filter(|_| !self.is_command);
        let heartbeat = Heartbeat::new(timeout, self.life.counts_requests());
        let is_plain = attach.is_none_or(|attach| !attach.says_ready());
        if heartbeat.is_some() && is_plain {
            let message = "a heartbeat and a limit of requests need call mode; workers in plain mode \
                           have no way to answer, and commands do not count what they finish: leave \
                           `heartbeat` and `max_requests` out";
            return Err(about(&self.name, message));
        }
        if self.hand_on.is_some() && is_plain {
            let message = "only workers in call mode hand connections on; leave `hand_on` out";
            return Err(about(&self.name, message));
        }
        Ok(heartbeat)
    }

    /// Returns the account and group of the workers of a root master. For other masters, only checks
    /// that they exist.
    fn credentials(&self, as_root: bool) -> Result<Option<ProcessCredentials>, Error> {
        let name = &self.name;
        let credentials = match (&self.user, as_root) {
            (None, true) if !self.is_command => {
                let message =
                    format!("worker group `{name}` would run as root; name an account with `user`");
                return Err(Error::new(ErrorKind::Privileges, message));
            }
            (Some(login), _) => {
                let credentials = accounts::credentials(login).map_err(|error| {
                    let message = format!("worker group `{name}` cannot run as its user");
                    Error::new(ErrorKind::Privileges, message).caused_by(error)
                })?;
                // A name that does not exist is a mistake for any user.
                as_root.then_some(credentials)
            }
            (None, _) => None,
        };
        let Some(group) = &self.primary_group else { return Ok(credentials) };
        replace_group(credentials, group, as_root).map_err(|error| {
            let message = format!("worker group `{name}` cannot run as its group");
            Error::new(error.kind(), message).caused_by(error)
        })
    }

    fn settle_listeners(&mut self, size: u32) -> Result<(), Error> {
        for listener in &mut self.listeners {
            listener
                .settle(self.has_blocking_listeners, self.is_command, size)
                .map_err(|error| about(&self.name, "a listener").caused_by(error))?;
        }
        let steered = || self.listeners.iter().map(Listener::steers);
        if steered().any(|(of_processes, _)| of_processes) {
            self.reload = std::mem::take(&mut self.reload).leaving(LEAVING);
        }
        if steered().any(|(_, of_workers)| of_workers) {
            self.reload = std::mem::take(&mut self.reload).removal(LEAVING);
        }
        Ok(())
    }

    /// Returns how master and workers communicate, and how the pool learns that a worker is ready.
    fn contact(
        &self,
        attach: Option<Arc<dyn Attach>>,
        credentials: Option<&ProcessCredentials>,
    ) -> Result<(Contact, Ready), Error> {
        match (self.is_command, attach) {
            (true, None) => {
                let readiness = self.readiness.unwrap_or_default();
                let count = self.listeners.iter().flat_map(Listener::names).count();
                let protocol =
                    GroupReadiness::new(readiness, self.heartbeat, count, credentials)
                        .map_err(|error| about(&self.name, "its readiness").caused_by(error))?;
                Ok((Contact::Command(protocol), ready_by(readiness)))
            }
            (true, Some(_)) => Err(about(&self.name, "a command has no requests to be answered")),
            (false, Some(attach)) => {
                let ready = if attach.says_ready() { Ready::Message } else { Ready::AtOnce };
                Ok((Contact::Connection(attach), ready))
            }
            (false, None) => {
                let message = "nothing answers its requests; call `answer` or `plain`";
                Err(about(&self.name, message))
            }
        }
    }

    fn check_messages(&self, contact: &Contact) -> Result<(), Error> {
        let speaks = matches!(contact, Contact::Connection(attach) if attach.says_ready());
        if self.has_metrics && !speaks {
            let message = "metrics need call mode; commands and workers in plain mode do not know their \
                           memory: leave `metrics` out, and let the program serve its own";
            return Err(about(&self.name, message));
        }
        if let Contact::Connection(attach) = contact {
            let types = attach.types().with_context(self.context.message());
            types.check().map_err(|error| about(&self.name, "its messages").caused_by(error))?;
            types.tell_gaps();
        }
        Ok(())
    }
}

fn about(group: &str, message: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("worker group `{group}`: {message}"))
}

/// The directories of workers.
struct Directories {
    /// Start of relative paths.
    start: PathBuf,
    directory: Option<PathBuf>,
    root: Option<PathBuf>,
}

impl Directories {
    /// Returns the directories of workers of this group, which have another account if `is_other`.
    fn of(group: &GroupOptions, is_other: bool) -> Result<Self, Error> {
        let (directory, root) = (group.directory.clone(), group.root.clone());
        if let Some(root) = root {
            if !is_other {
                let message = "only workers that a root master gives another account, by `user`, can \
                               have another root directory";
                return Err(Error::new(ErrorKind::Privileges, message));
            }
            let question = format!("root:{}", root.display());
            looked_up(&question, || privileges::check_root(&root))?;
            let start = Path::new("/").join(directory.as_deref().unwrap_or_else(|| Path::new("")));
            return Ok(Self {
                directory: directory.map(|_| start.clone()),
                start,
                root: Some(root),
            });
        }
        let here = working_directory();
        let Some(directory) = directory else {
            // The working directory may have been removed.
            let Ok(start) = here else {
                return Ok(Self { start: PathBuf::new(), directory: None, root: None });
            };
            // Only under the shell's name for it: workers are in the kernel's directory anyway.
            let is_link =
                group.is_command && std::env::current_dir().is_ok_and(|path| path != start);
            return Ok(Self { directory: is_link.then(|| start.clone()), start, root: None });
        };
        let start =
            if directory.is_absolute() { directory } else { absolute(&here?.join(directory))? };
        Ok(Self { directory: Some(start.clone()), start, root: None })
    }
}

/// Returns how the pool learns that a program is ready.
fn ready_by(readiness: Readiness) -> Ready {
    match readiness {
        Readiness::After(Duration::ZERO) => Ready::AtOnce,
        Readiness::After(time) => Ready::After(time),
        Readiness::Notify | Readiness::Acknowledge | Readiness::Newline(_) => Ready::Message,
    }
}

/// Replaces the primary group of a root master's workers or children; other masters have that group
/// already, or fail.
pub(in crate::master) fn replace_group(
    credentials: Option<ProcessCredentials>,
    name: &str,
    as_root: bool,
) -> Result<Option<ProcessCredentials>, Error> {
    let gid = privileges::group(name)?;
    let refuse = |message: &str| Err(Error::new(ErrorKind::Privileges, message));
    match credentials {
        Some(_) if [0, u32::MAX].contains(&gid.as_raw()) => {
            refuse(&format!("`{name}` has gid {gid}; name a group without privileges"))
        }
        Some(credentials) => Ok(Some(credentials.with_group(gid))),
        None if as_root => refuse("a group is named, but no user: name an account with `user`"),
        None if nix::unistd::getegid() == gid => Ok(None),
        None => refuse("only root can give processes another group"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::Postcard;
    use crate::jobs::Jobs;

    fn refusal<W, C>(workers: Workers<W, C>) -> Option<String>
    where
        Workers<W, C>: IntoGroup,
    {
        // As root the account comes first.
        Box::new(workers.user("nobody")).into_group(false).err().map(|error| error.report())
    }

    fn workers() -> Workers {
        Workers::same_executable("web", 1)
    }

    #[test]
    fn workers_without_messages_need_no_handler() {
        assert_eq!(refusal(workers()), None);
        assert_eq!(refusal(workers().heartbeat(Duration::from_secs(9))), None);
        assert_eq!(refusal(workers().requests::<String>().jobs(&Jobs::<_>::new())), None);
        assert_eq!(refusal(Workers::command("web", 1, "/bin/true", [""; 0])), None);
        let unknown = refusal(workers().requests::<String>());
        assert!(unknown.is_some_and(|message| message.contains("call `answer` or `plain`")));
    }

    #[test]
    fn a_handler_is_not_forgotten() {
        let answer = |_, text: String| async move { Ok(text) };
        for refusal in [
            refusal(workers().answer(answer).requests::<String>()),
            refusal(workers().plain(answer).requests::<String>()),
            refusal(workers().answer(answer).codec(Postcard)),
            refusal(workers().answer(answer).codec(Postcard).answer(answer)),
        ] {
            assert!(refusal.is_some_and(|message| message.contains("would forget the handler")));
        }
        assert_eq!(refusal(workers().requests::<String>().answer(answer)), None);
    }
}
