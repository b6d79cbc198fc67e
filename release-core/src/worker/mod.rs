//! `me`: the entry point of a worker, and its settings.

use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use super::exit::program_name;
use crate::ipc::Postcard;
use crate::ipc::limits::Limits;
use crate::process::privileges::Privileges;
use crate::sandbox::Sandbox;
use crate::sys::socket::is_worker_s;
use crate::worker_types::WorkerId;

mod channels;
mod enter;
mod greeting;
pub(crate) mod hand_on;
mod in_flight;
mod live;
mod relay;
#[cfg(feature = "http")]
pub(crate) use relay::ConnectionRelay;
mod me;
pub(crate) mod panics;
mod run;

pub use channels::Channel;
#[cfg(feature = "testing")]
pub(crate) use channels::WorkerChannels;
pub use hand_on::{HandOnError, NotHandedOn};
#[cfg(any(feature = "http", feature = "testing"))]
pub(crate) use in_flight::InFlight;
pub use in_flight::Work;
#[cfg(feature = "testing")]
pub(crate) use me::WorkerData;
pub use me::{Me, PlainMe};

/// The word on a worker's command line between the program and its id.
const ROLE: &str = ": worker ";

/// Returns the full command line of a worker, as shown by `ps`: `service: worker http id=2`.
pub(crate) fn argument(group: &str, id: WorkerId) -> String {
    format!("{}{ROLE}{group} id={id}", program_name())
}

/// Returns whether this process was started as a worker by a master of the same executable.
///
/// The command line tells, or, if it was changed in between, the standard input.
///
/// Call it first in your `main`:
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

/// Returns this process as a worker of the master at its standard input. Continue with
/// [`run`](Worker::run).
///
/// # Examples
///
/// ```no_run
/// use release_core::rt::local::Local;
/// use release_core::{Exit, Me, me};
///
/// fn worker() -> Exit {
///     me().run(Local::new, |worker: Me| async move {
///         worker.ready()?;
///         worker.stopping().await;
///         Ok::<(), release_core::ipc::SendError>(())
///     })
/// }
/// # worker();
/// ```
#[must_use]
pub fn me() -> Worker {
    Worker {
        privileges: Privileges::default(),
        sandbox: None,
        limits: Limits::IPC,
        codec: Postcard,
        requests: PhantomData,
    }
}

/// The settings of a worker process: its user, and its communication with the master.
///
/// # Examples
///
/// ```
/// use release_core::{Worker, me};
///
/// fn settings() -> Worker {
///     me().user("www-data").frame_limit(64 * 1024)
/// }
/// # let _ = settings();
/// ```
#[derive(Clone, Debug)]
#[doc(alias = "me")]
pub struct Worker<C = Postcard> {
    privileges: Privileges,
    sandbox: Option<Sandbox>,
    limits: Limits,
    codec: C,
    requests: PhantomData<fn()>,
}

impl<C> Worker<C> {
    /// Sets the login name for this process if it runs as root. It takes on the groups, then the
    /// user, checks each, and cannot regain root. A process that does not run as root must already
    /// be this user.
    ///
    /// Not needed if the master's [`Workers::user`](crate::Workers::user) changed the user before
    /// this program began.
    ///
    /// # Examples
    ///
    /// ```
    /// let worker = release_core::me().user("www-data");
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn user(mut self, login: impl Into<String>) -> Self {
        self.privileges.user = Some(login.into());
        self
    }

    /// Limits the user's groups to these. An empty list leaves only the primary group.
    ///
    /// # Examples
    ///
    /// ```
    /// // Not in `docker` or `adm`, even if the account is.
    /// let worker = release_core::me().user("www-data").groups(["www-data"]);
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn groups<G: Into<String>>(mut self, groups: impl IntoIterator<Item = G>) -> Self {
        self.privileges.groups = Some(groups.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the root directory of this process. Requires [`user`](Worker::user).
    ///
    /// The directory and all directories above it must belong to root and be writable by no other
    /// user.
    ///
    /// # Examples
    ///
    /// ```
    /// let worker = release_core::me().user("www-data").chroot("/var/empty");
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn chroot(mut self, directory: impl Into<PathBuf>) -> Self {
        self.privileges.root = Some(directory.into());
        self
    }

    /// Sets the root directory to the user's home, like the OCaml library; see
    /// [`chroot`](Worker::chroot).
    ///
    /// # Examples
    ///
    /// ```
    /// let worker = release_core::me().user("mail").chroot_home();
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn chroot_home(mut self) -> Self {
        self.privileges.root_is_home = true;
        self
    }

    /// Restricts this process by a sandbox before its runtime starts, after the change of its user: for
    /// workers whose master does not know the sandbox, and in addition to the master's
    /// [`Workers::sandbox`](crate::Workers::sandbox). For restrictions from a later time on, see
    /// [`Sandbox::apply`].
    ///
    /// A worker that cannot enter the sandbox ends with the reason, like one that cannot have its user.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Sandbox, me};
    ///
    /// let worker = me().user("www-data").sandbox(Sandbox::strict().read("/srv/www"));
    /// # let _ = worker;
    /// ```
    #[must_use]
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = Some(sandbox);
        self
    }

    /// Sets the maximum message length to and from the master, in bytes. The default is 16 MiB. The
    /// master's group must have the same limit
    /// ([`Workers::frame_limit`](crate::Workers::frame_limit)): a worker with another limit reports
    /// that and exits.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Workers, me};
    ///
    /// const LIMIT: u32 = 64 * 1024;
    ///
    /// let at_the_master = Workers::same_executable("http", 4).user("nobody").frame_limit(LIMIT);
    /// let in_the_worker = me().frame_limit(LIMIT);
    /// # let _ = (at_the_master, in_the_worker);
    /// ```
    #[must_use]
    pub fn frame_limit(mut self, bytes: u32) -> Self {
        self.limits = self.limits.with_frame(bytes);
        self
    }

    /// Sets how long a call to the master polls for its response before it sleeps: at most a
    /// millisecond, and not at all by default.
    ///
    /// Other tasks of the thread wait meanwhile, and the processor is busy. Use it for workers that
    /// make many calls, have little else to do until the response arrives, and run on a different
    /// processor than the master. Where polling does not help, such as on a shared or busy processor,
    /// it is tried for at most a tenth of the time.
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

    /// Allows descriptors in messages to and from the master: a maximum per message, and a total
    /// for all unanswered requests of one side. The master's group must have the same values; see
    /// [`Workers::descriptors`](crate::Workers::descriptors).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Workers, me};
    ///
    /// let at_the_master = Workers::same_executable("http", 4).user("nobody").descriptors(1);
    /// let in_the_worker = me().descriptors(1);
    /// # let _ = (at_the_master, in_the_worker);
    /// ```
    #[must_use]
    pub fn descriptors(mut self, most: u8) -> Self {
        self.limits = self.limits.with_descriptors(most);
        self
    }

    /// Sends messages to and from the master through rings in shared memory, if the master's group asks
    /// for them too; see [`Workers::ring`](crate::Workers::ring). Of two sizes, the smaller one is used.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Workers, me};
    ///
    /// let at_the_master = Workers::same_executable("http", 4).user("nobody").ring(64 * 1024);
    /// let in_the_worker = me().ring(64 * 1024);
    /// # let _ = (at_the_master, in_the_worker);
    /// ```
    #[must_use]
    pub fn ring(mut self, bytes: u32) -> Self {
        self.limits = self.limits.with_ring(bytes);
        self
    }

    /// Sets a codec other than postcard. The master's group must use the same codec.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::Text;
    /// use release_core::me;
    ///
    /// let worker = me().codec(Text);
    /// # let _ = worker;
    /// ```
    pub fn codec<D>(self, codec: D) -> Worker<D> {
        let Self { privileges, sandbox, limits, requests, .. } = self;
        Worker { privileges, sandbox, limits, codec, requests }
    }
}
