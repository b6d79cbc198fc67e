//! What the program does when the master reloads, and what it sees of everything that happens.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::Master;
use crate::supervise::Report;
use crate::{Error, ErrorKind};

impl Master {
    /// What comes before a reload: the program reads its configuration, checks it, and keeps it for
    /// the contexts of the workers to come. An error refuses the reload, with its reason for whoever
    /// asked; nothing has changed then. It has the [`reload_timeout`](Master::reload_timeout).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use release_core::{Master, Workers};
    ///
    /// let greeting = Arc::new(Mutex::new("hello".to_owned()));
    /// let (read, tell) = (Arc::clone(&greeting), greeting);
    /// let workers = Workers::same_executable("greeter", 2)
    ///     .context(move |_| tell.lock().map(|text| text.clone()).unwrap_or_default());
    /// let master = Master::new().on_reload(move || {
    ///     let read = Arc::clone(&read);
    ///     async move {
    ///         let text = std::fs::read_to_string("/etc/greeting")?;
    ///         if let Ok(mut greeting) = read.lock() {
    ///             *greeting = text;
    ///         }
    ///         Ok::<(), std::io::Error>(())
    ///     }
    /// });
    /// # let _ = (workers, master);
    /// ```
    #[must_use]
    #[doc(alias = "onUpdateConfig")]
    pub fn on_reload<F, E>(mut self, read: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let read = Arc::new(read);
        self.hooks.reload = Some(Box::new(move || {
            let read = Arc::clone(&read);
            Box::pin(async move {
                read().await.map_err(|error| {
                    Error::new(ErrorKind::Program, "no new configuration").caused_by(error)
                })
            })
        }));
        self
    }

    /// What follows the failure of a reload that [`on_reload`](Master::on_reload) has allowed: the
    /// program puts the configuration back that it had before. Workers that are started again get
    /// the context that they had in any case; this one is for workers that are new.
    #[must_use]
    pub fn on_rollback(mut self, restore: impl Fn() + Send + Sync + 'static) -> Self {
        self.hooks.rollback = Some(Box::new(restore));
        self
    }

    /// How long [`on_reload`](Master::on_reload) may take; 30 s by default. Then the reload is refused,
    /// with that reason, and the next one can have its turn.
    #[must_use]
    pub fn reload_timeout(mut self, time: Duration) -> Self {
        self.hooks.reload_timeout = time;
        self
    }

    /// Sees all that happens to the master and its workers, in order, after the line in the log.
    ///
    /// It is called by the supervisor itself, which waits for it: it must be quick, and leave what
    /// takes time to a task. It may ask a [`MasterHandle`](crate::MasterHandle). A panic in it is logged.
    ///
    /// The hooks of other libraries, and what they are here:
    ///
    /// | hook | here |
    /// |---|---|
    /// | on start | [`Report::Starting`]; [`Report::AllReady`] when all workers serve |
    /// | on terminate | [`Report::Stopping`] with [`StopCause::Terminate`] |
    /// | on interrupt | [`Report::Stopping`] with [`StopCause::Interrupt`] |
    /// | on quit | [`Report::Stopping`] with [`StopCause::Quit`] |
    /// | on finish | [`Report::Finished`] |
    /// | on child finished, clean up child | [`Report::Died`], with what follows |
    /// | update config | [`on_reload`](Master::on_reload), and [`on_rollback`](Master::on_rollback) |
    /// | update server | [`Report::Reloading`], then [`Report::Reloaded`] or [`Report::RolledBack`] |
    ///
    /// [`StopCause::Terminate`]: crate::supervise::StopCause::Terminate
    /// [`StopCause::Interrupt`]: crate::supervise::StopCause::Interrupt
    /// [`StopCause::Quit`]: crate::supervise::StopCause::Quit
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Master;
    /// use release_core::supervise::Report;
    ///
    /// let master = Master::new().observe(|report| {
    ///     if let Report::Died { id, pid, exit, .. } = report {
    ///         let _ = std::fs::remove_file(format!("/run/service/{pid}"));
    ///         eprintln!("worker {id}: {exit}");
    ///     }
    /// });
    /// # let _ = master;
    /// ```
    #[must_use]
    #[doc(alias = "onTerminate")]
    #[doc(alias = "onInterrupt")]
    #[doc(alias = "onQuit")]
    #[doc(alias = "onChildFinished")]
    #[doc(alias = "onStart")]
    #[doc(alias = "onFinish")]
    #[doc(alias = "onUpdateServer")]
    #[doc(alias = "onCleanupChild")]
    pub fn observe(mut self, observer: impl Fn(&Report) + Send + Sync + 'static) -> Self {
        self.hooks.observe = Some(Box::new(observer));
        self
    }
}
