//! `me`: the worker's entry, and what a worker knows.

use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use super::exit::program_name;
use crate::ipc::Postcard;
use crate::ipc::limits::Limits;
use crate::process::privileges::Privileges;
use crate::sys::socket::is_worker_s;
use crate::worker_types::WorkerId;

mod enter;
mod greeting;
mod in_flight;
mod me;
pub(crate) mod panics;
mod run;

pub use in_flight::Work;
pub use me::{Me, PlainMe};

/// What the command line of a worker says between the program and its identity.
const ROLE: &str = ": worker ";

/// The whole command line of a worker, as `ps` shows it: `service: worker http id=2`.
pub(crate) fn argument(group: &str, id: WorkerId) -> String {
    format!("{}{ROLE}{group} id={id}", program_name())
}

/// Whether this process was started as a worker by a master that is the same executable.
///
/// Its command line says so, and, should something in between have changed that, its standard input.
///
/// The first thing that `main` asks:
///
/// ```no_run
/// # use release_core::{Exit, Master};
/// # fn worker() -> Exit { Exit::success() }
/// # fn master() -> Exit { Exit::success() }
/// fn main() -> Exit {
///     if release_core::is_worker() { worker() } else { master() }
/// }
/// ```
#[must_use]
pub fn is_worker() -> bool {
    is_worker_s(&std::io::stdin())
        || std::env::args_os().next().is_some_and(|name| name.to_string_lossy().contains(ROLE))
}

/// This process as a worker of the master at its standard input; [`run`](Worker::run) goes on from
/// there.
#[must_use]
pub fn me() -> Worker {
    Worker {
        privileges: Privileges::default(),
        limits: Limits::IPC,
        codec: Postcard,
        requests: PhantomData,
    }
}

/// The settings of a worker process: whom it becomes, and how it talks to its master.
#[derive(Clone, Debug)]
#[doc(alias = "me")]
pub struct Worker<C = Postcard> {
    privileges: Privileges,
    limits: Limits,
    codec: C,
    requests: PhantomData<fn()>,
}

impl<C> Worker<C> {
    /// The login name this process becomes when it runs as root: its groups, then its user, each
    /// checked, and with no way back. A process that does not run as root must be this user already.
    ///
    /// Not needed when the master's [`Workers::user`](crate::Workers::user) has done it before this
    /// program began.
    #[must_use]
    pub fn user(mut self, login: impl Into<String>) -> Self {
        self.privileges.user = Some(login.into());
        self
    }

    /// Only these groups instead of all that the user has: an empty list leaves the primary group.
    #[must_use]
    pub fn groups<G: Into<String>>(mut self, groups: impl IntoIterator<Item = G>) -> Self {
        self.privileges.groups = Some(groups.into_iter().map(Into::into).collect());
        self
    }

    /// Makes a directory the root of the file system for this process. Needs [`user`](Worker::user).
    ///
    /// The directory and all above it must belong to root and be writable by nobody else.
    #[must_use]
    pub fn chroot(mut self, directory: impl Into<PathBuf>) -> Self {
        self.privileges.root = Some(directory.into());
        self
    }

    /// [`chroot`](Worker::chroot) to the user's home, as the OCaml library does.
    #[must_use]
    pub fn chroot_home(mut self) -> Self {
        self.privileges.root_is_home = true;
        self
    }

    /// The longest message to and from the master, in bytes; 16 MiB by default. The master's group
    /// must say the same ([`Workers::frame_limit`](crate::Workers::frame_limit)): a worker that
    /// differs says so and ends.
    #[must_use]
    pub fn frame_limit(mut self, bytes: u32) -> Self {
        self.limits = self.limits.with_frame(bytes);
        self
    }

    /// How long a call to the master looks for its answer before it sleeps: at most a millisecond,
    /// and not at all by default.
    ///
    /// Other tasks of the thread wait meanwhile, and the processor is busy: for workers that ask much,
    /// have little else to do until they are answered, and a processor beside the master's. Where
    /// both share one, it makes calls slower.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use release_core::{Exit, Me, me};
    /// use release_core::rt::local::Local;
    ///
    /// fn main() -> Exit {
    ///     me().spin(Duration::from_micros(20)).run(Local::new, |worker: Me| async move {
    ///         worker.stopping().await;
    ///         Ok::<(), std::io::Error>(())
    ///     })
    /// }
    /// ```
    #[must_use]
    pub fn spin(mut self, time: Duration) -> Self {
        self.limits = self.limits.with_spin(time);
        self
    }

    /// Messages to and from the master may hold descriptors: so many each, and so many in all
    /// unanswered requests of one side together. The master's group must say the same; see
    /// [`Workers::descriptors`](crate::Workers::descriptors).
    #[must_use]
    pub fn descriptors(mut self, most: u8) -> Self {
        self.limits = self.limits.with_descriptors(most);
        self
    }

    /// Another codec than postcard; the master's group must have the same.
    pub fn codec<D>(self, codec: D) -> Worker<D> {
        Worker { privileges: self.privileges, limits: self.limits, codec, requests: PhantomData }
    }
}
