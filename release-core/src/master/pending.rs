//! Changes of the running master: the waiting callers, and the preparation of a reload.

use std::collections::HashMap;
use std::convert::identity;
use std::ptr::addr_eq;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;

use super::settings::{Generations, Made};
use crate::guard::Guard;
use crate::rt::Rt;
use crate::supervise::{Event, Operation, Report, RequestId};
use crate::{Error, ErrorKind};

/// Tells the caller of a change how it ended.
pub(crate) type Caller = oneshot::Sender<Result<(), Error>>;

const OBSERVE: Guard = Guard::new("observe");

/// Receives every report.
type Observe = Box<dyn Fn(&Report) + Send + Sync>;

/// Maximum number of preparations that may hang at a time.
const MOST_HUNG: usize = 3;

/// Hooks of the program before and after a reload.
pub(crate) struct Hooks {
    /// Settings of which each generation has a value.
    pub(crate) settings: Vec<Arc<dyn Generations>>,
    /// Time limit for their next values.
    pub(crate) reload_timeout: Duration,
    /// A clone for each preparation that has not ended, in time or not.
    pub(super) unfinished: Arc<()>,
    /// Function that receives every report.
    pub(crate) observe: Option<Observe>,
}

impl Default for Hooks {
    fn default() -> Self {
        let reload_timeout = Duration::from_secs(30);
        Self { settings: Vec::new(), reload_timeout, unfinished: Arc::default(), observe: None }
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

impl Hooks {
    /// Adds settings, unless they are known.
    pub(crate) fn add(&mut self, settings: &Arc<dyn Generations>) {
        if !self.settings.iter().any(|known| addr_eq(Arc::as_ptr(known), Arc::as_ptr(settings))) {
            self.settings.push(Arc::clone(settings));
        }
    }

    /// Makes the values of this generation: all of them, or none.
    pub(crate) fn prepare(
        &self,
        rt: &Rt,
        generation: u32,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let (rt, time, settings) = (rt.clone(), self.reload_timeout, self.settings.clone());
        let (hung, this) = (Arc::strong_count(&self.unfinished) - 1, Arc::clone(&self.unfinished));
        async move {
            if settings.is_empty() {
                return Ok(());
            }
            // Each may occupy a thread for ever.
            if hung >= MOST_HUNG {
                return Err(format!(
                    "{hung} earlier preparations still hang, for example in a file on a file system \
                     that does not answer: once that answers, ask again"
                ));
            }
            let making = rt.unblock(move || {
                let made = settings.into_iter().map(make).collect();
                drop(this);
                made
            });
            let made: Result<Vec<Made>, _> = match rt.timeout(time, making).await {
                Ok(made) => made.map_err(|error| error.report()).and_then(identity),
                Err(_) => Err(format!("its preparation was not done within {time:?}")),
            };
            made?.into_iter().for_each(|made| made(generation));
            Ok(())
        }
    }

    /// Commits the values of the generation that serves. No other generation is being tried.
    pub(crate) fn settle(&self, serving: u32) {
        self.settings.iter().for_each(|settings| settings.settle(serving));
    }

    /// Calls the observer. Its panic is logged, and the workers continue.
    pub(crate) fn observed(&self, report: &Report) {
        let Some(observe) = &self.observe else { return };
        if let Err(panicked) = OBSERVE.call(|| observe(report)) {
            log_error!(panic = panicked.message(), ?report, "the observer panicked");
        }
    }
}

fn make(settings: Arc<dyn Generations>) -> Result<Made, String> {
    // Formatting the program's error runs code of the program, too.
    let made = Guard::SETTINGS.call(|| settings.make().map_err(|error| error.report()));
    made.map_err(|panicked| format!("its preparation failed: {panicked}"))?
}

/// The callers that wait for a change.
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

    /// Enters a caller that waits for a change requested in the previous version.
    pub(crate) fn rejoin(&mut self, caller: Caller) -> Event {
        self.last += 1;
        let request = RequestId(self.last);
        self.waiting.insert(request, caller);
        Event::Rejoin { request }
    }

    /// Enters a change that a signal requests, without a caller.
    pub(crate) fn enter_signal(&mut self, change: Operation) -> Event {
        self.last += 1;
        Event::Change { request: RequestId(self.last), change }
    }

    /// Enters a reload for SIGHUP, unless one is waiting for its turn.
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
            // The caller may have gone.
            let _ = caller.send(outcome.map_err(|why| Error::new(ErrorKind::Change, why)));
        }
    }
}
