//! What their processes start with: as whom, and with which environment, context and options.

use std::path::PathBuf;

use serde::{Serialize, de::DeserializeOwned};

use super::Workers;
use crate::master::group::Context;
use crate::{Environment, Settings, WorkerOptions};

impl<W, C> Workers<W, C> {
    /// The login name that workers run as when the master is root. A master that is not root can
    /// give away nothing: its workers run as itself.
    ///
    /// Groups are those of that user, exactly; root cannot be regained, and that is verified.
    ///
    /// Numbers are accepted, too, for containers and images without accounts: `1000:1001` is that user
    /// and that group, in no other groups; `1000` is the account of that number with its groups, or else
    /// the user and the group 1000. Without an account the home is `/`, and the user has no name.
    ///
    /// A root master that has few capabilities needs `CAP_SETUID`, `CAP_SETGID` and `CAP_KILL` for workers
    /// of another user. That it can end them is found out before each of them runs its program.
    #[must_use]
    pub fn user(mut self, login: impl Into<String>) -> Self {
        self.user = Some(login.into());
        self
    }

    /// The group that workers run as instead of the primary one of their [`user`](Workers::user);
    /// they keep the others of that user.
    #[must_use]
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.primary_group = Some(name.into());
        self
    }

    /// Sets the working directory of the workers: by default that of the master, and for a
    /// [`command`](Workers::command) the one that it was started in, by the name that the shell had for
    /// it (`PWD`).
    ///
    /// The path is resolved anew for each process: where a part of it is a symbolic link that a
    /// deployment turns to another release, a reload starts workers there. Programs whose path is
    /// relative are looked for in this directory, in the same way. A relative path begins where the
    /// master was started.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    ///
    /// // `ln -sfn releases/2 /srv/app/current`, then a reload: the workers run that release.
    /// let workers = Workers::command("app", 4, "./server", ["--port=8080"])
    ///     .directory("/srv/app/current")
    ///     .user("www-data");
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// Makes a directory the root of the file system for the workers of a root master. Needs
    /// [`user`](Workers::user), whose account is looked up before, outside of it, as the time zone is.
    ///
    /// The directory and all above it must belong to root and be writable by nobody else. Other
    /// programs than the master's own must be inside, with all that they load: their path is one of
    /// the new root. Workers of the [same executable](Workers::same_executable) are started before they
    /// enter it, and need nothing there; they do so when they call [`me`](crate::me), and until
    /// then have the capability to do so.
    #[must_use]
    pub fn chroot(mut self, directory: impl Into<PathBuf>) -> Self {
        self.root = Some(directory.into());
        self
    }

    /// What is in the workers' environment: [`Environment::default`] unless this is said, and what the
    /// master has for a [`command`](Workers::command).
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Makes the number of workers a function of [`Settings`]; the number that the group was created with
    /// is not used then.
    ///
    /// The number is in force when the new generation serves, and the reload is answered when the group has
    /// it. Of the settings and [`MasterHandle::scale`](crate::MasterHandle::scale) (or TTIN, TTOU) the one
    /// that changed the number last holds, also after reloads and upgrades. A new worker that fails before
    /// it is ready fails the reload with that reason: the new generation serves then, with as many workers
    /// as before, and the next reload tries the number again. More than 10,000 workers refuse the reload.
    ///
    /// # Panics
    ///
    /// A panic in `size` refuses the reload, or the start of the master.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, Settings, Workers};
    ///
    /// let settings = Settings::new(4, |size| Ok::<u32, Error>(size + 1));
    /// let workers = Workers::same_executable("http", 4).size_from(&settings, |size| *size);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn size_from<S: Send + Sync + 'static>(
        mut self,
        settings: &Settings<S>,
        size: impl Fn(&S) -> u32 + Send + Sync + 'static,
    ) -> Self {
        self.settings.push(settings.shared());
        let settings = settings.clone();
        self.sizes = Some(Box::new(move |generation| size(&settings.of(generation))));
        self
    }

    /// Sets the typed context that each worker is sent at its start, made from its identity.
    ///
    /// It is made once for each worker and generation, at the first start: a worker that dies comes
    /// back as it was, and one of a new generation sees what has changed. A context that depends on the
    /// configuration of the program belongs into [`context_from`](Workers::context_from).
    #[must_use]
    pub fn context<T: Serialize + DeserializeOwned>(
        mut self,
        context: impl Fn(u32) -> T + Send + Sync + 'static,
    ) -> Self {
        self.context = Context::new(move |_, id| context(id));
        self
    }

    /// Sets the typed context that each worker is sent at its start, made from the [`Settings`] of its own
    /// generation and its identity.
    ///
    /// Like [`context`](Workers::context), it is made once for each worker and generation.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Settings, Workers};
    ///
    /// let settings = Settings::new(String::new(), |_| std::fs::read_to_string("/etc/motto"));
    /// let workers = Workers::same_executable("motto", 4)
    ///     .context_from(&settings, |motto, id| format!("{motto}, worker {id}"));
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn context_from<S: Send + Sync + 'static, T: Serialize + DeserializeOwned>(
        mut self,
        settings: &Settings<S>,
        context: impl Fn(&S, u32) -> T + Send + Sync + 'static,
    ) -> Self {
        self.settings.push(settings.shared());
        let settings = settings.clone();
        self.context = Context::new(move |generation, id| context(&settings.of(generation), id));
        self
    }

    /// Sets what is different from worker to worker: arguments, environment, processors, priority and
    /// limits, made from a worker's identity. By default no worker has any.
    ///
    /// Like the [`context`](Workers::context), they are made once for each worker and generation;
    /// those of the first workers once more before anything is started, to be checked. A worker
    /// whose options are wrong later on is not started, with the reason in the log.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Resource, WorkerOptions, Workers};
    ///
    /// let workers = Workers::same_executable("http", 4).worker_options(|id| {
    ///     WorkerOptions::default()
    ///         .argument(format!("--port={}", 8000 + id))
    ///         .variable("SHARD", id.to_string())
    ///         .processors([id])
    ///         .nice(5)
    ///         .limit(Resource::OpenFiles, 1024, 4096)
    /// });
    /// # let _ = workers;
    /// ```
    #[must_use]
    #[doc(alias = "rtsOptions")]
    #[doc(alias = "each")]
    pub fn worker_options(
        mut self,
        options: impl Fn(u32) -> WorkerOptions + Send + Sync + 'static,
    ) -> Self {
        self.options = Some(Box::new(move |_, id| options(id)));
        self
    }

    /// Sets what is different from worker to worker, made from the [`Settings`] of its own generation and
    /// its identity; see [`worker_options`](Workers::worker_options).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, Settings, WorkerOptions, Workers};
    ///
    /// let settings = Settings::new(5, |_| Ok::<i32, Error>(10));
    /// let workers = Workers::same_executable("batch", 4)
    ///     .worker_options_from(&settings, |nice, _| WorkerOptions::default().nice(*nice));
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn worker_options_from<S: Send + Sync + 'static>(
        mut self,
        settings: &Settings<S>,
        options: impl Fn(&S, u32) -> WorkerOptions + Send + Sync + 'static,
    ) -> Self {
        self.settings.push(settings.shared());
        let settings = settings.clone();
        self.options = Some(Box::new(move |generation, id| options(&settings.of(generation), id)));
        self
    }
}
