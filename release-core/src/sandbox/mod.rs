//! `Sandbox`: restrictions of workers, enforced by the kernel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::sys::process;
use crate::{Error, ErrorKind};

mod attempts;
mod calls;
mod capability;
mod checked;
mod kernel;
#[cfg(test)]
mod tests;

pub use attempts::{Victims, attempt_all};
use calls::CallSet;
pub(crate) use checked::{CheckedSandbox, Surroundings};

/// Access to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Execute,
}

/// Restrictions of the workers of a group, for [`Workers::sandbox`](crate::Workers::sandbox), or of this
/// process, for [`Sandbox::apply`]. The kernel enforces them, also for all processes that a worker starts.
///
/// A sandbox has these parts:
///
/// | part | restricts | kernel | methods |
/// |---|---|---|---|
/// | (always) | core dumps, capabilities, set-user-id programs | any | [`keep_capability`](Self::keep_capability) |
/// | `calls` | system calls (seccomp) | Linux 3.17 | [`basic`](Self::basic), [`strict`](Self::strict) |
/// | `files` | paths (Landlock) | Linux 6.2 | [`read`](Self::read), [`write`](Self::write), [`execute`](Self::execute) |
/// | `ports` | TCP ports (Landlock) | Linux 6.7 | [`connect_tcp`](Self::connect_tcp), [`bind_tcp`](Self::bind_tcp) |
/// | `isolation` | signals to, and abstract sockets of, other processes (Landlock) | Linux 6.12 | [`isolated`](Self::isolated) |
/// | `private /tmp` | the files of others in `/tmp` and `/var/tmp` (a mount namespace) | any, with `CAP_SYS_ADMIN` | [`private_tmp`](Self::private_tmp) |
///
/// A sandbox with any Landlock part also keeps a worker from tracing processes outside and from reading their
/// memory and environment.
///
/// If the kernel cannot enforce a part, the master does not start, and an upgrade is refused; see
/// [`best_effort`](Self::best_effort). Open descriptors, such as the listening sockets from the master and
/// the worker's connection to it, work as before.
///
/// # Examples
///
/// ```
/// use release_core::{Sandbox, Workers};
///
/// // Serves files, asks a database at port 5432, and nothing else.
/// let sandbox = Sandbox::strict().read("/srv/www").connect_tcp(5432);
/// let workers = Workers::same_executable("http", 4).user("www-data").sandbox(sandbox);
/// # let _ = workers;
/// ```
#[derive(Clone, Debug, Default)]
#[doc(alias = "seccomp")]
#[doc(alias = "landlock")]
pub struct Sandbox {
    calls: CallSet,
    kills: bool,
    best_effort: bool,
    is_isolated: bool,
    has_private_tmp: bool,
    files: Option<Vec<(PathBuf, Access)>>,
    connect: Option<BTreeSet<u16>>,
    bind: Option<BTreeSet<u16>>,
    capabilities: Vec<String>,
}

impl Sandbox {
    /// Creates a sandbox without core dumps, capabilities, and rights from set-user-id programs. It also
    /// restricts workers that run as root.
    ///
    /// # Examples
    ///
    /// ```
    /// let sandbox = release_core::Sandbox::new().read("/srv/www");
    /// # let _ = sandbox;
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a sandbox that also forbids the system calls that no worker needs, such as `ptrace`, `mount`,
    /// `unshare`, `bpf`, `keyctl`, `io_uring_setup`, `userfaultfd` and `perf_event_open`, and input into
    /// terminals. Almost all programs run in it.
    ///
    /// A forbidden call fails with `EPERM`. System calls that are newer than this library do not exist there
    /// (`ENOSYS`).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Sandbox, Workers};
    ///
    /// let workers = Workers::command("web", 4, "/usr/bin/server", [""; 0]).sandbox(Sandbox::basic());
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn basic() -> Self {
        Self { calls: CallSet::Basic, ..Self::default() }
    }

    /// Creates a sandbox that allows only what you add to it: no files but those of the system, no TCP ports,
    /// no signals to other processes, no program but the worker's own, and also no objects shared by name
    /// with other processes, and no sockets other than Unix, IPv4 and IPv6.
    ///
    /// The files of the system are readable: `/usr`, libraries, `/proc`, and files such as
    /// `/etc/resolv.conf`. Protocols other than TCP, and Unix sockets with a path, are not restricted.
    ///
    /// # Examples
    ///
    /// ```
    /// let sandbox = release_core::Sandbox::strict().write("/tmp").connect_tcp(443);
    /// # let _ = sandbox;
    /// ```
    #[must_use]
    pub fn strict() -> Self {
        Self {
            calls: CallSet::Strict,
            is_isolated: true,
            files: Some(Vec::new()),
            connect: Some(BTreeSet::new()),
            bind: Some(BTreeSet::new()),
            ..Self::default()
        }
    }

    /// Allows to read a file, or all files in a directory. After the first path, all others are forbidden but
    /// for the files of the system, see [`strict`](Self::strict).
    ///
    /// A relative path begins at the worker's directory. It must exist when the master starts, and is
    /// resolved again for each process.
    ///
    /// # Examples
    ///
    /// ```
    /// let sandbox = release_core::Sandbox::basic().read("/srv/www").read("/etc/service.conf");
    /// # let _ = sandbox;
    /// ```
    #[must_use]
    pub fn read(self, path: impl Into<PathBuf>) -> Self {
        self.path(path.into(), Access::Read)
    }

    /// Allows to read, write, create and remove a file, or all files in a directory; see
    /// [`read`](Self::read).
    ///
    /// # Examples
    ///
    /// ```
    /// let sandbox = release_core::Sandbox::strict().write("/var/lib/service");
    /// # let _ = sandbox;
    /// ```
    #[must_use]
    pub fn write(self, path: impl Into<PathBuf>) -> Self {
        self.path(path.into(), Access::Write)
    }

    /// Allows to run a program, or all programs in a directory; see [`read`](Self::read). The program of the
    /// worker itself is always allowed, but not the interpreter in the first line of a script.
    ///
    /// # Examples
    ///
    /// ```
    /// let sandbox = release_core::Sandbox::strict().execute("/usr/bin/python3");
    /// # let _ = sandbox;
    /// ```
    #[must_use]
    pub fn execute(self, path: impl Into<PathBuf>) -> Self {
        self.path(path.into(), Access::Execute)
    }

    fn path(mut self, path: PathBuf, access: Access) -> Self {
        self.files.get_or_insert_default().push((path, access));
        self
    }

    /// Allows TCP connections to this port of any host. After the first port, all others are forbidden.
    ///
    /// # Examples
    ///
    /// ```
    /// let sandbox = release_core::Sandbox::strict().connect_tcp(5432);
    /// # let _ = sandbox;
    /// ```
    #[must_use]
    pub fn connect_tcp(mut self, port: u16) -> Self {
        self.connect.get_or_insert_default().insert(port);
        self
    }

    /// Allows to listen at this TCP port. After the first port, all others are forbidden. The sockets from the
    /// master need no port here.
    ///
    /// # Examples
    ///
    /// ```
    /// let sandbox = release_core::Sandbox::strict().bind_tcp(9100);
    /// # let _ = sandbox;
    /// ```
    #[must_use]
    pub fn bind_tcp(mut self, port: u16) -> Self {
        self.bind.get_or_insert_default().insert(port);
        self
    }

    /// Forbids signals to processes outside, and connections to their abstract sockets. A worker and the
    /// processes that it starts are in one sandbox.
    ///
    /// # Examples
    ///
    /// ```
    /// let sandbox = release_core::Sandbox::basic().isolated();
    /// # let _ = sandbox;
    /// ```
    #[must_use]
    pub fn isolated(mut self) -> Self {
        self.is_isolated = true;
        self
    }

    /// Gives each process of a worker an empty `/tmp` and `/var/tmp` that no other process sees. What is in
    /// them takes memory, at most 10 % of the machine's each, and ends with the process.
    ///
    /// With [`strict`](Self::strict), the worker may write there. The mounts of the process are its own;
    /// later mounts of the system appear in it, too.
    ///
    /// The master needs `CAP_SYS_ADMIN`, as root has it; otherwise it does not start. It is also an error if
    /// the worker's program, its working directory or one of the paths here is in the `/tmp` that it does not
    /// see, and if a process asks for it itself, by [`apply`](Self::apply).
    ///
    /// # Examples
    ///
    /// ```
    /// let sandbox = release_core::Sandbox::strict().private_tmp();
    /// # let _ = sandbox;
    /// ```
    #[must_use]
    pub fn private_tmp(mut self) -> Self {
        self.has_private_tmp = true;
        self
    }

    /// Keeps a capability that the master has, such as `NET_BIND_SERVICE`. All others are removed from the
    /// permitted, the ambient and, if the master may, the bounding set.
    ///
    /// # Examples
    ///
    /// ```
    /// let sandbox = release_core::Sandbox::strict().keep_capability("NET_BIND_SERVICE");
    /// # let _ = sandbox;
    /// ```
    #[must_use]
    pub fn keep_capability(mut self, name: impl Into<String>) -> Self {
        self.capabilities.push(name.into());
        self
    }

    /// Kills a process that makes a forbidden system call, with `SIGSYS`.
    ///
    /// The worker's exit names the call, such as `272 (unshare)`, if the master may read the kernel's log: it needs
    /// `CAP_SYSLOG`, as root has it, outside of containers. Otherwise the exit says where to find it.
    ///
    /// # Examples
    ///
    /// ```
    /// let sandbox = release_core::Sandbox::strict().kill_on_violation();
    /// # let _ = sandbox;
    /// ```
    #[must_use]
    pub fn kill_on_violation(mut self) -> Self {
        self.kills = true;
        self
    }

    /// Leaves out the parts that the kernel cannot enforce, instead of an error. The status of a worker names
    /// them: see [`WorkerReport::sandbox`](crate::WorkerReport::sandbox).
    ///
    /// # Examples
    ///
    /// ```
    /// let sandbox = release_core::Sandbox::strict().best_effort();
    /// # let _ = sandbox;
    /// ```
    #[must_use]
    pub fn best_effort(mut self) -> Self {
        self.best_effort = true;
        self
    }

    /// Checks that this kernel can enforce the sandbox, that this process has the capabilities to keep, and
    /// that the paths exist, of which the relative ones begin at this directory. The master does the same when
    /// it starts.
    ///
    /// # Errors
    ///
    /// Returns an error that names the missing part, capability or path.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Sandbox;
    ///
    /// assert!(Sandbox::new().check("/").is_ok());
    /// ```
    pub fn check(&self, directory: impl AsRef<Path>) -> Result<(), Error> {
        let (start, root) = (directory.as_ref(), None);
        self.clone().checked(Surroundings { start, root, enters_root: false }).map(drop)
    }

    /// Restricts this process, for good: in a worker, for example, that needs a file or a port only until it
    /// is ready. Everything that a sandbox of the master forbids stays forbidden.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel cannot enforce a part, if a path does not exist, if this process has
    /// several threads and the sandbox restricts more than `calls`, and if it has capabilities that the
    /// sandbox does not keep: the master removes them.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::{Error, Me, Sandbox};
    ///
    /// async fn worker(me: Me) -> Result<(), Error> {
    ///     let _words = std::fs::read("/srv/words");
    ///     Sandbox::strict().apply()?;
    ///     let _ = me.ready();
    ///     me.stopping().await;
    ///     Ok(())
    /// }
    /// # let _ = worker;
    /// ```
    pub fn apply(self) -> Result<(), Error> {
        let start = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let root: Option<&Path> = None;
        let checked = self.checked(Surroundings { start: &start, root, enters_root: false })?;
        let confinement = checked.for_this_process()?;
        let threads = process::thread_count()
            .map_err(|error| Error::system("cannot count the threads of this process", error))?;
        if confinement.rules.is_some() && threads > 1 {
            let message = format!(
                "only a process with one thread can restrict its files, ports and signals, and this \
                 one has {threads}: apply the sandbox before the others start, or at the master \
                 (`Workers::sandbox`)"
            );
            return Err(Error::new(ErrorKind::Usage, message));
        }
        checked.check_capabilities_here()?;
        let failed = |failed: crate::sys::Failed| {
            Error::new(ErrorKind::Privileges, "cannot enter the sandbox").caused_by(failed)
        };
        process::forbid_new_privileges().map_err(failed)?;
        process::forbid_tracing().map_err(failed)?;
        let rules = confinement.prepare(None).map_err(failed)?;
        confinement.enforce(rules).map_err(failed)
    }
}
