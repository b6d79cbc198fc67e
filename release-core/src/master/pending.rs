//! Changes of the running master: who waits for them, and what happens before a reload.

use std::collections::HashMap;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::BoxFuture;

use crate::guard::Guard;
use crate::rt::Rt;
use crate::supervise::{Event, Operation, Report, RequestId};
use crate::{Error, ErrorKind};

/// Tells whoever asked for a change how it ended.
pub(crate) type Caller = oneshot::Sender<Result<(), Error>>;

const ON_RELOAD: Guard = Guard::new("on_reload");
const ON_ROLLBACK: Guard = Guard::new("on_rollback");
const OBSERVE: Guard = Guard::new("observe");

/// Reads a new configuration.
type Read = Box<dyn Fn() -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

/// Is told of all that happens.
type Observe = Box<dyn Fn(&Report) + Send + Sync>;

/// What the program does before and after its workers are reloaded.
pub(crate) struct Hooks {
    /// Reads the configuration of a new generation.
    pub(crate) reload: Option<Read>,
    /// Puts the configuration of the generation before back.
    pub(crate) rollback: Option<Box<dyn Fn() + Send + Sync>>,
    /// How long the configuration may take to be read.
    pub(crate) reload_timeout: Duration,
    /// Sees all that is reported.
    pub(crate) observe: Option<Observe>,
}

impl Default for Hooks {
    fn default() -> Self {
        let reload_timeout = Duration::from_secs(30);
        Self { reload: None, rollback: None, reload_timeout, observe: None }
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

impl Hooks {
    /// The answer to the pool's wish to begin a reload.
    pub(crate) fn prepare(&self, rt: &Rt) -> impl Future<Output = Event> + Send + 'static {
        let reading = self.reload.as_ref().map(|reload| {
            let reading = reload();
            // The words of the program's error are its own, too.
            ON_RELOAD.run(|| async { reading.await.map_err(|error| error.report()) })
        });
        let (rt, time) = (rt.clone(), self.reload_timeout);
        async move {
            Event::Prepared(match reading {
                None => Ok(()),
                Some(reading) => match rt.timeout(time, reading).await {
                    Ok(Ok(outcome)) => outcome,
                    Ok(Err(panicked)) => Err(format!("its preparation failed: {panicked}")),
                    Err(_) => Err(format!("its preparation was not done within {time:?}")),
                },
            })
        }
    }

    /// An observer that panics is no reason to lose the workers.
    pub(crate) fn observed(&self, report: &Report) {
        let Some(observe) = &self.observe else { return };
        if let Err(panicked) = OBSERVE.call(|| observe(report)) {
            tracing::error!(panic = panicked.message(), ?report, "the observer panicked");
        }
    }

    /// The reload is taken back in any case.
    pub(crate) fn rolled_back(&self) {
        let Some(rollback) = &self.rollback else { return };
        if let Err(panicked) = ON_ROLLBACK.call(rollback) {
            tracing::error!(reason = %panicked, "the program did not put its configuration back");
        }
    }
}

/// Those who wait for a change.
#[derive(Debug, Default)]
pub(crate) struct PendingRequests {
    waiting: HashMap<RequestId, Caller>,
    last: u64,
    /// Whether a signal has asked for a reload that has not begun.
    hangup: bool,
}

impl PendingRequests {
    pub(crate) fn enter(&mut self, change: Operation, caller: Caller) -> Event {
        self.last += 1;
        let request = RequestId(self.last);
        self.waiting.insert(request, caller);
        Event::Change { request, change }
    }

    /// Somebody waits for a change that was asked for in the version before.
    pub(crate) fn rejoin(&mut self, caller: Caller) -> Event {
        self.last += 1;
        let request = RequestId(self.last);
        self.waiting.insert(request, caller);
        Event::Rejoin { request }
    }

    /// Nobody waits for what a signal asks for.
    pub(crate) fn enter_signal(&mut self, change: Operation) -> Event {
        self.last += 1;
        Event::Change { request: RequestId(self.last), change }
    }

    /// Signals that come while one waits for its turn ask for nothing more.
    pub(crate) fn hangup(&mut self) -> Event {
        match std::mem::replace(&mut self.hangup, true) {
            true => Event::Tick,
            false => self.enter_signal(Operation::Reload),
        }
    }

    pub(crate) fn reload_begins(&mut self) {
        self.hangup = false;
    }

    pub(crate) fn answer(&mut self, request: RequestId, outcome: Result<(), String>) {
        if let Some(caller) = self.waiting.remove(&request) {
            // Whoever has gone meanwhile does not want to know.
            let _ = caller.send(outcome.map_err(|why| Error::new(ErrorKind::Change, why)));
        }
    }
}
