//! What their processes start with: as whom, and with which environment, context and options.

use serde::{Serialize, de::DeserializeOwned};

use super::Workers;
use crate::daemon::group::Context;
use crate::{Environment, WorkerOptions};

impl<W, C> Workers<W, C> {
    /// The login name that workers run as when the master is root. A master that is not root can
    /// give away nothing: its workers run as itself.
    ///
    /// Groups are those of that user, exactly; root cannot be regained, and that is verified.
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

    /// What is in the workers' environment: [`Environment::default`] unless this is said, and what the
    /// master has for a [`command`](Workers::command).
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// The typed context that each worker is sent at its start, made from its identity.
    ///
    /// It is made once for each worker and generation, at the first start: a worker that dies comes
    /// back as it was, and one of a new generation sees what has changed, such as a configuration
    /// that [`Master::on_reload`](crate::Master::on_reload) has read.
    #[must_use]
    pub fn context<T: Serialize + DeserializeOwned>(
        mut self,
        context: impl Fn(u32) -> T + Send + Sync + 'static,
    ) -> Self {
        self.context = Context::new(context);
        self
    }

    /// What is different from worker to worker: arguments, environment, processors, priority and
    /// limits, made from a worker's identity (rows P2, P8). By default no worker has any.
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
    /// let workers = Workers::same_executable("http", 4).each(|id| {
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
    pub fn each(mut self, options: impl Fn(u32) -> WorkerOptions + Send + Sync + 'static) -> Self {
        self.options = Some(Box::new(options));
        self
    }
}
