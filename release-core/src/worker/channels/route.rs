//! The way from a process to the workers of a group: chooses one for each call.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::Shared;

use crate::ipc::channel::calling;
use crate::ipc::hello::Exchange;
use crate::ipc::link::Link;
use crate::ipc::service::WorkerKey;
use crate::ipc::{CallError, Codec, Ended, Postcard};
use crate::rt::{Rt, Task};

/// The channels of this process to the workers of a group.
pub(super) struct Route {
    group: String,
    /// The name of the type of its requests.
    name: &'static str,
    types: Exchange,
    rt: Rt,
    /// Hears of each channel that has ended.
    on_end: OnEnd,
    state: Mutex<RouteState>,
}

pub(super) type OnEnd = Box<dyn Fn(WorkerKey) + Send + Sync>;

struct RouteState {
    lines: BTreeMap<u64, ChannelLine>,
    next: u64,
    /// Number of calls, by which workers take turns.
    turn: u64,
    /// The reason why no more channels are opened.
    closed: Option<CallError>,
    changed: Changed,
}

/// A channel to one worker.
struct ChannelLine {
    worker: WorkerKey,
    link: Arc<Link>,
    in_flight: usize,
    /// The turn of its latest call.
    turn: u64,
    /// Whether it gets no more calls. It is closed when none is in flight.
    is_leaving: bool,
    /// The first difference of the types, if that prevents calls.
    difference: Option<String>,
    _serving: Task<()>,
}

/// Completes when the channels have changed.
type ChannelChanged = Shared<oneshot::Receiver<()>>;

struct Changed(oneshot::Sender<()>, ChannelChanged);

impl Default for Changed {
    fn default() -> Self {
        let (sender, receiver) = oneshot::channel();
        Self(sender, receiver.shared())
    }
}

/// The right to make a call over a channel. Dropping it says that the call has ended.
pub(super) struct Lease {
    route: Arc<Route>,
    line: u64,
    link: Arc<Link>,
}

impl Lease {
    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Makes no more calls over this channel.
    pub(super) fn leave(self) {
        if let Some(line) = self.route.lock().lines.get_mut(&self.line) {
            line.is_leaving = true;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let is_last = {
            let mut state = self.route.lock();
            let line = state.lines.get_mut(&self.line);
            line.is_some_and(|line| {
                line.in_flight -= 1;
                line.is_leaving && line.in_flight == 0
            })
        };
        if is_last {
            self.link.end(Ended::Here);
        }
    }
}

impl Route {
    pub(super) fn new(
        (group, name): (&str, &'static str),
        types: Exchange,
        rt: Rt,
        on_end: OnEnd,
    ) -> Self {
        let state = RouteState {
            lines: BTreeMap::new(),
            next: 0,
            turn: 0,
            closed: None,
            changed: Changed::default(),
        };
        Self { group: group.to_owned(), name, types, rt, on_end, state: Mutex::new(state) }
    }

    pub(super) fn group(&self) -> &str {
        &self.group
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn rt(&self) -> &Rt {
        &self.rt
    }

    /// Returns the workers to which this process has channels.
    pub(super) fn held(&self) -> Vec<WorkerKey> {
        self.lock().lines.values().map(|line| line.worker).collect()
    }

    /// Waits for a worker that takes a call.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, CallError> {
        loop {
            let changed = {
                let mut state = self.lock();
                if let Some((line, link)) = state.choose() {
                    return Ok(Lease { route: Arc::clone(self), line, link });
                }
                state.check()?;
                state.changed.1.clone()
            };
            let _ = changed.await;
        }
    }

    /// The master has made a channel to this worker.
    pub(super) fn opened(self: &Arc<Self>, worker: WorkerKey, types: &[u8], socket: OwnedFd) {
        let difference = match Codec::<Exchange>::decode(&Postcard, types) {
            Ok(theirs) => self.types.mismatch(&theirs),
            Err(error) => Some(error.to_string()),
        };
        // The other worker may have chosen its words.
        let difference = difference.map(|words| words.chars().take(500).collect::<String>());
        if let Some(difference) = &difference {
            let (group, worker) = (&*self.group, worker.0);
            log_warning!(
                group,
                worker,
                difference,
                "this worker cannot be called: its types differ"
            );
        }
        let opened = calling(&self.rt, socket);
        let (link, serving) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                log_error!(group = self.group, %error, "a channel to a worker is lost");
                return (self.on_end)(worker);
            }
        };
        let mut state = self.lock();
        // The other worker has ended a former one; only the end of this one is news.
        let former = state.lines.iter().find(|(_, line)| line.worker == worker);
        let former = former.map(|(number, _)| *number);
        let former = former.and_then(|number| state.lines.remove(&number));
        let number = state.next;
        state.next += 1;
        let route = Arc::clone(self);
        let serving = self.rt.spawn(async move {
            let ended = serving.await;
            tracing::debug!(%ended, group = route.group, worker = worker.0, "a channel has ended");
            route.ended(number);
        });
        let line = ChannelLine {
            worker,
            link,
            in_flight: 0,
            turn: 0,
            is_leaving: false,
            difference,
            _serving: serving,
        };
        state.lines.insert(number, line);
        let changed = state.change();
        drop(state);
        drop((changed, former));
    }

    /// This worker gets no more calls. Its channel is closed as soon as no call is in flight.
    pub(super) fn leaving(&self, worker: WorkerKey) {
        let mut unused = Vec::new();
        let mut state = self.lock();
        for line in state.lines.values_mut().filter(|line| line.worker == worker) {
            line.is_leaving = true;
            if line.in_flight == 0 {
                unused.push(Arc::clone(&line.link));
            }
        }
        drop(state);
        unused.iter().for_each(|link| link.end(Ended::Here));
    }

    /// No more channels are opened, for this reason.
    pub(super) fn close(&self, why: CallError) {
        let mut state = self.lock();
        state.closed = Some(why);
        drop(state.change());
    }

    /// A channel has ended, for any reason.
    fn ended(&self, number: u64) {
        let mut state = self.lock();
        let line = state.lines.remove(&number);
        let changed = state.change();
        drop(state);
        drop(changed);
        if let Some(line) = line {
            (self.on_end)(line.worker);
        }
    }

    fn lock(&self) -> MutexGuard<'_, RouteState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RouteState {
    /// Chooses the worker with the fewest calls in flight; of several, the one that has waited longest.
    fn choose(&mut self) -> Option<(u64, Arc<Link>)> {
        let is_usable = |line: &ChannelLine| !line.is_leaving && line.difference.is_none();
        let usable = self.lines.iter_mut().filter(|(_, line)| is_usable(line));
        let (number, line) = usable.min_by_key(|(_, line)| (line.in_flight, line.turn))?;
        self.turn += 1;
        (line.in_flight, line.turn) = (line.in_flight + 1, self.turn);
        Some((*number, Arc::clone(&line.link)))
    }

    /// Returns the reason why no worker will take a call, if there is one.
    fn check(&self) -> Result<(), CallError> {
        let mut differences = self.lines.values().filter_map(|line| line.difference.as_ref());
        match (&self.closed, differences.next()) {
            (Some(why), _) => Err(why.clone()),
            (None, Some(difference)) => Err(CallError::NotUnderstood(difference.clone())),
            (None, None) => Ok(()),
        }
    }

    /// Returns the sender whose drop wakes all calls that wait.
    fn change(&mut self) -> oneshot::Sender<()> {
        std::mem::take(&mut self.changed).0
    }
}
