//! Answers the calls of other workers.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::join_all;
use futures_util::task::AtomicWaker;
use serde::{Serialize, de::DeserializeOwned};

use crate::WorkerInfo;
use crate::ipc::channel::{ChannelCall, answering};
use crate::ipc::service::WorkerKey;
use crate::ipc::{Ended, Refused, Request};
use crate::log_throttle::LogThrottle;
use crate::rt::{Rt, Task};
use crate::stopping::Stopping;

/// Time for callers to close their channels before the calls of the others are declined.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// Time for the calls in hand of a worker that ends by itself: nobody else ends it.
const FINISHING_TIME: Duration = Duration::from_secs(5);

/// Time to send the last answers.
const LAST_ANSWERS_TIME: Duration = Duration::from_secs(1);

type ServedChannel = Pin<Box<dyn Future<Output = Option<Ended>> + Send>>;

/// Serves a channel until the receiver completes, whatever the type of its requests.
type Accept = Box<
    dyn Fn(WorkerInfo, OwnedFd, oneshot::Receiver<()>) -> io::Result<ServedChannel> + Send + Sync,
>;

/// A channel of a caller.
struct AnsweredChannel {
    number: u64,
    serving: Task<()>,
    /// Dropped to let it end with the answers of finished handlers.
    finish: oneshot::Sender<()>,
}

/// The callers of this process.
pub(super) struct Answerer {
    types: Vec<u8>,
    accept: Accept,
    callers: Arc<Callers>,
}

#[derive(Default)]
struct Callers {
    state: Mutex<CallersState>,
    /// The task that waits for the end of all calls.
    finishing: AtomicWaker,
}

#[derive(Default)]
struct CallersState {
    /// Channels by their callers.
    channels: BTreeMap<WorkerKey, AnsweredChannel>,
    next: u64,
    /// Number of calls in hand.
    in_hand: usize,
    declines: bool,
    violations: LogThrottle,
}

/// A call in hand.
struct CallInHand(Arc<Callers>);

impl Drop for CallInHand {
    fn drop(&mut self) {
        self.0.lock().in_hand -= 1;
        self.0.finishing.wake();
    }
}

impl Callers {
    /// Begins a call, unless this process is about to end.
    fn begin(self: &Arc<Self>) -> Option<CallInHand> {
        let mut state = self.lock();
        if state.declines {
            return None;
        }
        state.in_hand += 1;
        Some(CallInHand(Arc::clone(self)))
    }

    fn ended(&self, caller: WorkerKey, number: u64) {
        let mut state = self.lock();
        let is_it = state.channels.get(&caller).is_some_and(|its| its.number == number);
        let removed = is_it.then(|| state.channels.remove(&caller));
        drop(state);
        drop(removed);
        self.finishing.wake();
    }

    /// Waits until no call is in hand, and no caller is left if they must all have left.
    async fn finished(&self, and_closed: bool) {
        poll_fn(|cx| {
            self.finishing.register(cx.waker());
            let state = self.lock();
            let is_closed = !and_closed || state.channels.is_empty();
            if state.in_hand == 0 && is_closed { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, CallersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answerer {
    pub(super) fn new<R, H, F>(rt: &Rt, types: Vec<u8>, handler: H) -> Self
    where
        R: Request + Serialize + DeserializeOwned,
        R::Response: Serialize + DeserializeOwned,
        H: Fn(WorkerInfo, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        let (rt, handler, callers) = (rt.clone(), Arc::new(handler), Arc::<Callers>::default());
        let begins = Arc::clone(&callers);
        let accept = move |caller: WorkerInfo, socket, finishing| -> io::Result<ServedChannel> {
            let (handler, callers) = (Arc::clone(&handler), Arc::clone(&begins));
            let handle = move |ChannelCall(request): ChannelCall<R>| {
                let (handler, callers) = (Arc::clone(&handler), Arc::clone(&callers));
                let caller = caller.clone();
                async move {
                    let Some(_in_hand) = callers.begin() else { return Ok(None) };
                    handler(caller, request).await.map(Some)
                }
            };
            Ok(Box::pin(answering(&rt, socket, handle, finishing)?))
        };
        Self { types, accept: Box::new(accept), callers }
    }

    pub(super) fn types(&self) -> Vec<u8> {
        self.types.clone()
    }

    /// The master has made a channel for this caller. An earlier one of the same process has ended.
    pub(super) fn accepted(&self, caller: WorkerInfo, socket: OwnedFd) {
        let (key, rt) = ((caller.id, caller.pid), caller.rt.clone());
        let (finish, finishing) = oneshot::channel();
        let serving = match (self.accept)(caller, socket, finishing) {
            Ok(serving) => serving,
            Err(error) => {
                // The caller notices that it is closed.
                log_error!(worker = key.0, %error, "a channel of a worker is lost");
                return;
            }
        };
        let mut state = self.callers.lock();
        let number = state.next;
        state.next += 1;
        let (callers, clock) = (Arc::clone(&self.callers), rt.clone());
        let serving = rt.spawn(async move {
            let ended = serving.await;
            let is_in_order = |ended: &Ended| matches!(ended, Ended::Closed | Ended::Here);
            let is_said = || callers.lock().violations.now(clock.now());
            if let Some(ended) = ended.filter(|ended| !is_in_order(ended))
                && let Some(unsaid) = is_said()
            {
                let (worker, pid) = key;
                let reason = crate::error::chain(&ended);
                log_warning!(worker, pid, reason, unsaid, "the channel of a caller has ended");
            }
            callers.ended(key, number);
        });
        let channel = AnsweredChannel { number, serving, finish };
        let former = state.channels.insert(key, channel);
        drop(state);
        drop(former);
    }

    /// Finishes the calls in hand. Callers that do not leave are sent to other workers.
    pub(super) async fn finish(&self, rt: &Rt, stopping: &Stopping) {
        let callers = &self.callers;
        if rt.timeout(CLOSING_TIME, callers.finished(true)).await.is_ok() {
            return;
        }
        callers.lock().declines = true;
        match stopping.is_stopping() {
            // Its master ends it after the stop deadline.
            true => callers.finished(false).await,
            false => drop(rt.timeout(FINISHING_TIME, callers.finished(false)).await),
        }
        // A call is no longer in hand when its answer is about to be sent.
        let channels = std::mem::take(&mut callers.lock().channels);
        let sent =
            join_all(channels.into_values().map(|AnsweredChannel { serving, finish, .. }| {
                drop(finish);
                serving
            }));
        let _ = rt.timeout(LAST_ANSWERS_TIME, sent).await;
    }
}
