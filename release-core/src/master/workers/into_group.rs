//! Looks up and checks the settings of a group.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Spec, Workers};
use crate::accounts;
use crate::ipc::limits::Limits;
use crate::ipc::{Codec, Heartbeat, Request};
use crate::master::group::{Contact, FIRST, Group, configured_size};
use crate::master::upgrade::working_directory;
use crate::path::absolute;
use crate::path::c_string;
use crate::process::attach::Attach;
use crate::process::listeners::Listener;
use crate::process::privileges;
use crate::process::privileges::ROOT;
use crate::process::readiness::{GroupReadiness, Readiness, of_the_master};
use crate::start_files::looked_up;
use crate::supervise::{GroupSpec, Ready};
use crate::sys::creds::Credentials;
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

impl Spec {
    /// Looks up and checks everything that can be wrong, while a terminal can show the reason.
    fn into_group(
        mut self,
        attach: Option<Arc<dyn Attach>>,
        as_root: bool,
    ) -> Result<Group, Error> {
        let heartbeat = self.checked_heartbeat(attach.as_deref())?;
        let mut credentials = self.credentials(as_root)?;
        self.settle_listeners()?;
        let (contact, ready) = self.contact(attach, credentials.as_ref())?;
        let place = Place::of(&self, credentials.is_some()).map_err(|error| {
            Error::new(error.kind(), format!("worker group `{}`", self.name)).caused_by(error)
        })?;
        let enters_itself = self.program.is_this() && place.root.is_some();
        if enters_itself {
            credentials = credentials.map(Credentials::and_change_root);
        }
        self.check_messages(&contact)?;
        let environment = match (&place.directory, &place.root) {
            (_, Some(root)) if enters_itself => self.environment.set(ROOT, root),
            (Some(directory), _) => self.environment.in_directory(directory),
            _ => self.environment,
        };
        let is_private = |name: &OsStr| self.is_command && of_the_master(name);
        let environment = environment.block(is_private, credentials.as_ref())?;
        let root = place.root.as_deref().unwrap_or_else(|| Path::new("/"));
        let program = if self.is_command { self.program.find(root)? } else { self.program };
        let program = program.resolve(&place.start)?;
        let c_path = |path: PathBuf| c_string(path.into_os_string());
        let size = configured_size(self.sizes.as_ref(), FIRST);
        let size = size.map_err(|error| about(&self.name, "its size").caused_by(error))?;
        Ok(Group {
            directory: place.directory.map(c_path).transpose()?,
            root: place.root.filter(|_| !enters_itself).map(c_path).transpose()?,
            name: self.name.as_str().into(),
            spec: GroupSpec {
                name: self.name,
                size: size.unwrap_or(self.size),
                restart: self.restart,
                reload: self.reload,
                life: self.life,
                ready,
            },
            contact,
            stop_signal: self.stop_signal,
            output: self.output.unless_inherited(),
            limits: Limits { pulse: heartbeat, ..self.limits },
            environment,
            program,
            credentials,
            listeners: self.listeners,
            sizes: self.sizes,
            settings: self.settings,
            context: self.context,
            options: self.options,
            jobs: self.jobs,
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
        Ok(heartbeat)
    }

    /// Returns the account and group of the workers of a root master. For other masters, only checks
    /// that they exist.
    fn credentials(&self, as_root: bool) -> Result<Option<Credentials>, Error> {
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

    fn settle_listeners(&mut self) -> Result<(), Error> {
        for listener in &mut self.listeners {
            listener
                .settle(self.has_blocking_listeners, self.is_command)
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
        credentials: Option<&Credentials>,
    ) -> Result<(Contact, Ready), Error> {
        match (self.is_command, attach) {
            (true, None) => {
                let readiness = self.readiness.unwrap_or_default();
                let count = self.listeners.len();
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

/// The place of workers in the file system.
struct Place {
    /// Start of relative paths.
    start: PathBuf,
    directory: Option<PathBuf>,
    root: Option<PathBuf>,
}

impl Place {
    /// Returns the place of workers of this group, which have another account if `is_other`.
    fn of(group: &Spec, is_other: bool) -> Result<Self, Error> {
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

/// Replaces the primary group of a root master's workers; other masters have that group already, or
/// fail.
fn replace_group(
    credentials: Option<Credentials>,
    name: &str,
    as_root: bool,
) -> Result<Option<Credentials>, Error> {
    let gid = privileges::group(name)?;
    let refuse = |message: &str| Err(Error::new(ErrorKind::Privileges, message));
    match credentials {
        Some(_) if [0, u32::MAX].contains(&gid.as_raw()) => {
            refuse(&format!("`{name}` has gid {gid}; name a group without privileges"))
        }
        Some(credentials) => Ok(Some(credentials.with_group(gid))),
        None if as_root => refuse("a group is named, but no user: name an account with `user`"),
        None if nix::unistd::getegid() == gid => Ok(None),
        None => refuse("only root can give workers another group"),
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
