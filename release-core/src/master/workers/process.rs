//! Start of the processes: user, environment, context and options.

use std::path::PathBuf;

use serde::{Serialize, de::DeserializeOwned};

use super::Workers;
use crate::master::group::Context;
use crate::{Environment, Settings, WorkerOptions};

impl<W, C> Workers<W, C> {
    /// Sets the account of the workers, by its login name, for a root master. The workers of a master
    /// that is not root run as the master's user.
    ///
    /// Groups are exactly those of the account. A worker cannot become root again, which is verified.
    ///
    /// Numbers are accepted, too, for containers and images without accounts: `1000:1001` is that user
    /// and that group, without other groups; `1000` is the account of that number with its groups, or
    /// else the user and the group 1000. Without an account the home is `/`, and the user has no name.
    ///
    /// A root master with few capabilities needs `CAP_SETUID`, `CAP_SETGID` and `CAP_KILL` for workers
    /// of another user. Before each of them runs its program, the master checks that it can end it.
    #[must_use]
    pub fn user(mut self, login: impl Into<String>) -> Self {
        self.user = Some(login.into());
        self
    }

    /// Replaces the primary group of the workers' [`user`](Workers::user); they keep the other groups
    /// of that account.
    #[must_use]
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.primary_group = Some(name.into());
        self
    }

    /// Sets the working directory of the workers. By default it is the master's, and for a
    /// [`command`](Workers::command) the directory that the master was started in, under its name in
    /// the shell (`PWD`).
    ///
    /// The path is resolved again for each process: if a deployment points a symbolic link in it to
    /// another release, a reload starts workers there. Relative paths of programs are resolved in this
    /// directory, in the same way. A relative directory begins at the directory that the master was
    /// started in.
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

    /// Makes a directory the root of the file system for the workers of a root master. Requires
    /// [`user`](Workers::user), whose account is looked up before, outside the directory, as is the
    /// time zone.
    ///
    /// The directory and all above it must belong to root and must not be writable by others. Programs
    /// other than the master's own must be inside, with all the files that they load: their path is a
    /// path in the new root. Workers of the [same executable](Workers::same_executable) start before
    /// they enter it, and need nothing there; they enter it when they call [`me`](crate::me), and have
    /// the capability for it until then.
    #[must_use]
    pub fn chroot(mut self, directory: impl Into<PathBuf>) -> Self {
        self.root = Some(directory.into());
        self
    }

    /// Sets the workers' environment. The default is [`Environment::default`], and the master's
    /// environment for a [`command`](Workers::command).
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Makes the number of workers a function of [`Settings`]; the number in the constructor of the
    /// group is not used then.
    ///
    /// The number is in force when the new generation serves, and the reload is answered when the group
    /// has it. Of the settings and [`MasterHandle::scale`](crate::MasterHandle::scale) (or TTIN, TTOU)
    /// the last change of the number wins, also after reloads and upgrades. A new worker that fails
    /// before it is ready fails the reload with that reason: the new generation serves then, with as
    /// many workers as before, and the next reload tries the number again. More than 10,000 workers
    /// refuse the reload.
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

    /// Sets the typed context that each worker receives at its start, made from its id.
    ///
    /// It is made once for each worker and generation, at the first start: a worker that dies is
    /// restarted with the same context, and a worker of a new generation receives a new one. Use
    /// [`context_from`](Workers::context_from) for a context that depends on the configuration of your
    /// program.
    #[must_use]
    pub fn context<T: Serialize + DeserializeOwned>(
        mut self,
        context: impl Fn(u32) -> T + Send + Sync + 'static,
    ) -> Self {
        self.context = Context::new(move |_, id| context(id));
        self
    }

    /// Sets the typed context that each worker receives at its start, made from the [`Settings`] of its
    /// own generation and its id.
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

    /// Sets the options of each worker: arguments, environment, processors, priority and limits, made
    /// from the worker's id. By default a worker has no options.
    ///
    /// Like the [`context`](Workers::context), options are made once for each worker and generation.
    /// The options of the first workers are made once more before anything is started, to be checked. A
    /// worker whose options are invalid later on is not started, and the log contains the reason.
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

    /// Sets the options of each worker, made from the [`Settings`] of its own generation and its id;
    /// see [`worker_options`](Workers::worker_options).
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
