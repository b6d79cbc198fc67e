//! Looks up and checks the settings of a group.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Workers;
use crate::accounts;
use crate::ipc::limits::Limits;
use crate::ipc::{Codec, Heartbeat, Request};
use crate::master::group::{Contact, FIRST, Group, configured_size};
use crate::master::upgrade::working_directory;
use crate::path::absolute;
use crate::path::c_string;
use crate::process::listeners::Listener;
use crate::process::privileges;
use crate::process::privileges::ROOT;
use crate::process::readiness::{Foreign, Readiness, of_the_master};
use crate::start_files::looked_up;
use crate::supervise::{GroupSpec, Ready};
use crate::sys::creds::Credentials;
use crate::{Error, ErrorKind};

/// The time without new connections before a program is told to stop: in it the program accepts and
/// reads the connections that are on their way.
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
    /// Looks up and checks everything that can be wrong, while there is a terminal to say so.
    fn into_group(mut self: Box<Self>, as_root: bool) -> Result<Group, Error> {
        let name = self.name;
        let about = |message: &str| {
            Error::new(ErrorKind::Usage, format!("worker group `{name}`: {message}"))
        };
        if self.readiness.is_some() && !self.is_command {
            return Err(about("`readiness` is for commands; these workers tell their master"));
        }
        // Commands have another way to show that they live.
        let heartbeat = self.heartbeat.filter(|_| !self.is_command);
        let pulse = Heartbeat::new(heartbeat, self.life.counts_requests());
        let is_plain = self.attach.as_ref().is_none_or(|attach| !attach.says_ready());
        if pulse.is_some() && is_plain {
            let message = "a heartbeat and a limit of requests need call mode; workers in plain mode \
                           have no way to answer, and commands do not count what they finish: leave \
                           `heartbeat` and `max_requests` out";
            return Err(about(message));
        }
        let mut credentials = match (&self.user, as_root) {
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
                // A name that does not exist is a mistake, whoever starts the master.
                as_root.then_some(credentials)
            }
            (None, _) => None,
        };
        if let Some(group) = &self.primary_group {
            credentials = replace_group(credentials, group, as_root).map_err(|error| {
                let message = format!("worker group `{name}` cannot run as its group");
                Error::new(error.kind(), message).caused_by(error)
            })?;
        }
        for listener in &mut self.listeners {
            listener
                .settle(self.has_blocking_listeners, self.is_command)
                .map_err(|error| about("a listener").caused_by(error))?;
        }
        for (of_processes, of_workers) in self.listeners.iter().map(Listener::steers) {
            self.reload = if of_processes { self.reload.leaving(LEAVING) } else { self.reload };
            self.reload = if of_workers { self.reload.removal(LEAVING) } else { self.reload };
        }
        let (contact, ready) = match (self.is_command, self.attach) {
            (true, None) => {
                let readiness = self.readiness.unwrap_or_default();
                let count = self.listeners.len();
                let foreign = Foreign::new(readiness, self.heartbeat, count, credentials.as_ref())
                    .map_err(|error| about("its readiness").caused_by(error))?;
                (Contact::Foreign(foreign), ready_by(readiness))
            }
            (true, Some(_)) => return Err(about("a command has no requests to be answered")),
            (false, Some(attach)) => {
                let ready = if attach.says_ready() { Ready::Message } else { Ready::AtOnce };
                (Contact::Connection(attach), ready)
            }
            (false, None) => {
                return Err(about("nothing answers its requests; call `answer` or `plain`"));
            }
        };
        let place = Place::of(self.directory, self.root, self.is_command, credentials.is_some())
            .map_err(|error| {
                Error::new(error.kind(), format!("worker group `{name}`")).caused_by(error)
            })?;
        let enters_itself = self.program.is_this() && place.root.is_some();
        if enters_itself {
            credentials = credentials.map(Credentials::and_change_root);
        }
        let is_private = |name: &OsStr| self.is_command && of_the_master(name);
        if let Contact::Connection(attach) = &contact {
            let types = attach.types().with_context(self.context.message());
            types.check().map_err(|error| about("its messages").caused_by(error))?;
            types.tell_gaps();
        }
        let environment = match (&place.directory, &place.root) {
            (_, Some(root)) if enters_itself => self.environment.set(ROOT, root),
            (Some(directory), _) => self.environment.in_directory(directory),
            _ => self.environment,
        };
        let environment = environment.block(is_private, credentials.as_ref())?;
        let root = place.root.as_deref().unwrap_or_else(|| Path::new("/"));
        let program = if self.is_command { self.program.find(root)? } else { self.program };
        let program = program.resolve(&place.start)?;
        let c_path = |path: PathBuf| c_string(path.into_os_string());
        let size = configured_size(self.sizes.as_ref(), FIRST).map(|its| its.unwrap_or(self.size));
        Ok(Group {
            directory: place.directory.map(c_path).transpose()?,
            root: place.root.filter(|_| !enters_itself).map(c_path).transpose()?,
            spec: GroupSpec {
                name: name.clone(),
                size: size.map_err(|error| about("its size").caused_by(error))?,
                restart: self.restart,
                reload: self.reload,
                life: self.life,
                ready,
            },
            name: name.into(),
            contact,
            stop_signal: self.stop_signal,
            output: self.output.unless_inherited(),
            limits: Limits { pulse, ..self.limits },
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
}

/// The place of workers in the file system.
struct Place {
    /// Start of relative paths.
    start: PathBuf,
    directory: Option<PathBuf>,
    root: Option<PathBuf>,
}

impl Place {
    fn of(
        directory: Option<PathBuf>,
        root: Option<PathBuf>,
        is_command: bool,
        is_other: bool,
    ) -> Result<Self, Error> {
        if let Some(root) = &root {
            if !is_other {
                let message = "only workers that a root master gives another account, by `user`, can \
                               have another root directory";
                return Err(Error::new(ErrorKind::Privileges, message));
            }
            let question = format!("root:{}", root.display());
            looked_up(&question, || privileges::check_root(root))?;
            let start = Path::new("/").join(directory.as_deref().unwrap_or_else(|| Path::new("")));
            return Ok(Self {
                directory: directory.map(|_| start.clone()),
                start,
                root: Some(root.clone()),
            });
        }
        let here = working_directory();
        let Some(directory) = directory else {
            // A directory that has been removed is one all the same.
            let Ok(start) = here else {
                return Ok(Self { start: PathBuf::new(), directory: None, root });
            };
            // By the name of the shell only: the one of the kernel is where they are anyway.
            let is_link = is_command && std::env::current_dir().is_ok_and(|path| path != start);
            return Ok(Self { directory: is_link.then(|| start.clone()), start, root });
        };
        let start =
            if directory.is_absolute() { directory } else { absolute(&here?.join(directory))? };
        Ok(Self { directory: Some(start.clone()), start, root })
    }
}

/// How the pool learns that a program is ready.
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
