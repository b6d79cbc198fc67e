//! Hooks of the program: settings at a reload, and an observer of all events.

use std::time::Duration;

use super::Master;
use crate::Settings;
use crate::supervise::Report;

impl Master {
    /// Makes a new value of these settings at each reload, see [`Settings`]. This is only needed when no
    /// group of workers is made from them: groups bring their settings along.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Master, Settings};
    ///
    /// // A reload is refused when there is no such file; the control socket tells what is in it.
    /// let settings = Settings::new(String::new(), |_| std::fs::read_to_string("/etc/motto"));
    /// let master = Master::new().settings(&settings);
    /// # let _ = master;
    /// ```
    #[must_use]
    #[doc(alias = "on_reload")]
    #[doc(alias = "onUpdateConfig")]
    pub fn settings<T: Send + Sync + 'static>(mut self, settings: &Settings<T>) -> Self {
        self.config.hooks.add(&settings.shared());
        self
    }

    /// Sets how long the new values of all [`Settings`] may take; 30 s by default. Then the reload is
    /// refused, with that reason, and the next one can have its turn.
    #[must_use]
    pub fn reload_timeout(mut self, time: Duration) -> Self {
        self.config.hooks.reload_timeout = time;
        self
    }

    /// Sees all that happens to the master and its workers, in order, after the line in the log.
    ///
    /// It is called by the supervisor itself, which waits for it: it must be quick, and leave what
    /// takes time to a task. It may ask a [`MasterHandle`](crate::MasterHandle). A panic in it is logged.
    ///
    /// The hooks of other libraries, and their counterparts:
    ///
    /// | hook | here |
    /// |---|---|
    /// | on start | [`Report::Starting`]; [`Report::AllReady`] when all workers serve |
    /// | on terminate | [`Report::Stopping`] with [`StopCause::Terminate`] |
    /// | on interrupt | [`Report::Stopping`] with [`StopCause::Interrupt`] |
    /// | on quit | [`Report::Stopping`] with [`StopCause::Quit`] |
    /// | on finish | [`Report::Finished`] |
    /// | on child finished, clean up child | [`Report::Died`], with what follows |
    /// | update config | [`Settings`] |
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
        self.config.hooks.observe = Some(Box::new(observer));
        self
    }
}
