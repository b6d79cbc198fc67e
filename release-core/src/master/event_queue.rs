//! The latest events of the service, and their followers.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::events::{EventKind, ServiceEvent};
use super::journal::since_1970;
use crate::guard::wake_all;

/// Maximum number of events that are kept for slow readers.
const MOST_EVENTS: usize = 1000;

/// Maximum number of events in one answer.
const MOST_AT_ONCE: usize = 100;

/// Events that follow each other.
///
/// # Examples
///
/// ```
/// use release_core::EventBatch;
///
/// let batch: EventBatch = serde_json::from_str(r#"{"next":10,"lost":0,"events":[{"seq":10}]}"#)?;
/// assert_eq!((batch.next, batch.events.len()), (10, 1));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EventBatch {
    /// Number to ask for the next events with.
    pub next: u64,
    /// Number of events before these that the reader was too slow for.
    pub lost: u64,
    /// The events, the oldest first.
    pub events: Vec<ServiceEvent>,
}

impl EventBatch {
    /// Returns what is after this event as long as nothing has happened.
    pub(crate) fn none(after: u64) -> Self {
        Self { next: after, ..Self::default() }
    }
}

/// Receives the events of a service: see [`MasterHandle::events`](crate::MasterHandle::events).
///
/// # Examples
///
/// ```
/// use release_core::{Error, EventKind, Master};
///
/// let master = Master::new().main(|master| {
///     let mut events = master.events();
///     async move {
///         loop {
///             let event = events.next().await;
///             if event.event == EventKind::WorkerDied {
///                 println!("{event}");
///             }
///         }
///         # #[allow(unreachable_code)]
///         Ok::<(), Error>(())
///     }
/// });
/// # let _ = master;
/// ```
#[derive(Debug)]
pub struct Events {
    queue: EventQueue,
    next: u64,
    received: VecDeque<ServiceEvent>,
}

impl Events {
    /// Waits for the next event.
    ///
    /// At most 1000 events wait. After that, the oldest are dropped, and an event of the kind
    /// [`EventKind::Dropped`] tells their number.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no event.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Events, MasterHandle};
    ///
    /// async fn print_ten(master: &MasterHandle) {
    ///     let mut events: Events = master.events();
    ///     for _ in 0..10 {
    ///         println!("{}", events.next().await);
    ///     }
    /// }
    /// ```
    pub async fn next(&mut self) -> ServiceEvent {
        loop {
            if let Some(event) = self.received.pop_front() {
                return event;
            }
            let batch = self.queue.after(self.next).await;
            self.next = batch.next;
            self.received.extend(batch.events);
            if batch.lost > 0 {
                return ServiceEvent {
                    at: since_1970(SystemTime::now()),
                    event: EventKind::Dropped,
                    count: Some(batch.lost),
                    ..ServiceEvent::default()
                };
            }
        }
    }
}

/// The latest events. Cheap to clone; a clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct EventQueue(Arc<Mutex<QueueState>>);

#[derive(Debug)]
struct QueueState {
    kept: VecDeque<ServiceEvent>,
    /// Number of the first event of this version.
    first: u64,
    /// Number of the next event.
    next: u64,
    /// The readers that wait, by their numbers.
    waiting: BTreeMap<u64, Waker>,
    last_reader: u64,
    /// The events that followers have had lately, by the number of the latest, until they ask again.
    followers: VecDeque<(u64, Instant)>,
    /// Waits for the followers, at the end.
    last: Option<Waker>,
}

impl EventQueue {
    /// Creates a queue of a version of the program that starts now.
    pub(crate) fn new(now: SystemTime) -> Self {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        // Larger than the numbers of the version before.
        let first = u64::try_from(now.as_micros()).unwrap_or_default();
        Self(Arc::new(Mutex::new(QueueState {
            kept: VecDeque::new(),
            first,
            next: first,
            waiting: BTreeMap::new(),
            last_reader: 0,
            followers: VecDeque::new(),
            last: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event, and numbers it.
    pub(crate) fn add(&self, mut event: ServiceEvent) {
        let waiting = {
            let mut queue = self.lock();
            event.seq = queue.next;
            queue.next += 1;
            if queue.kept.len() == MOST_EVENTS {
                queue.kept.pop_front();
            }
            queue.kept.push_back(event);
            std::mem::take(&mut queue.waiting)
        };
        wake_all(waiting.into_values());
    }

    /// Returns a receiver of the events from now on.
    pub(crate) fn follow(&self) -> Events {
        let next = self.lock().next - 1;
        Events { queue: self.clone(), next, received: VecDeque::new() }
    }

    /// Waits for events after this number. Dropping the future loses nothing.
    pub(crate) fn after(&self, after: u64) -> impl Future<Output = EventBatch> + Send + use<> {
        let events = self.clone();
        let reader = {
            let mut queue = events.lock();
            queue.last_reader += 1;
            queue.last_reader
        };
        async move {
            let waiting = WaitingReader { events: &events, reader };
            poll_fn(|cx| {
                let mut queue = waiting.events.lock();
                match queue.batch(after) {
                    Some(batch) => Poll::Ready(batch),
                    None => {
                        queue.waiting.insert(waiting.reader, cx.waker().clone());
                        Poll::Pending
                    }
                }
            })
            .await
        }
    }
}

/// How long a follower may take to ask again, and how many of them are known.
const ABSENCE: Duration = Duration::from_secs(5);
const MOST_FOLLOWERS: usize = 100;

/// Followers that ask again and again, on a control socket.
impl EventQueue {
    /// Notes that a follower asks for what comes after this number.
    pub(crate) fn asked(&self, after: u64) {
        let mut queue = self.lock();
        let known = queue.followers.iter().position(|(told, _)| *told == after);
        known.map(|known| queue.followers.remove(known));
        let last = queue.last.take();
        drop(queue);
        wake_all(last);
    }

    /// Notes that a follower has had everything up to this number.
    pub(crate) fn told(&self, until: u64, now: Instant) {
        let mut queue = self.lock();
        if queue.followers.len() == MOST_FOLLOWERS {
            queue.followers.pop_front();
        }
        queue.followers.push_back((until, now));
    }

    /// Waits until each follower that was there lately has had all events. One task at a time may wait.
    pub(crate) async fn all_told(&self, now: Instant) {
        poll_fn(|cx| {
            let mut queue = self.lock();
            let last = queue.next - 1;
            let is_late = |(told, at): &(u64, Instant)| {
                *told < last && now.saturating_duration_since(*at) <= ABSENCE
            };
            if !queue.followers.iter().any(is_late) {
                return Poll::Ready(());
            }
            queue.last = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl QueueState {
    fn batch(&self, after: u64) -> Option<EventBatch> {
        // A number of another version, whose clock was ahead.
        let after = if after >= self.next { self.first.saturating_sub(1) } else { after };
        let oldest = self.kept.front()?.seq;
        let events: Vec<_> = self
            .kept
            .iter()
            .filter(|event| event.seq > after)
            .take(MOST_AT_ONCE)
            .cloned()
            .collect();
        let next = events.last()?.seq;
        // Nobody knows how many events another version had. A reader that begins has lost none.
        let expected = after.saturating_add(1).max(self.first);
        let lost = if after == 0 { 0 } else { oldest.saturating_sub(expected) };
        Some(EventBatch { next, lost, events })
    }
}

/// A reader, until it does not wait any more.
struct WaitingReader<'a> {
    events: &'a EventQueue,
    reader: u64,
}

impl Drop for WaitingReader<'_> {
    fn drop(&mut self) {
        self.events.lock().waiting.remove(&self.reader);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::supervise::Report;

    fn queue(events: u32) -> EventQueue {
        let queue = EventQueue::new(UNIX_EPOCH + Duration::from_micros(1000));
        add(&queue, events);
        queue
    }

    fn add(queue: &EventQueue, events: u32) {
        for generation in 0..events {
            let report = Report::Reloaded { generation };
            queue.add(ServiceEvent::of(&report, "", None).unwrap());
        }
    }

    #[test]
    fn a_slow_reader_hears_how_many_it_has_lost() {
        let queue = queue(10);
        let batch = queue.after(0).now_or_never().unwrap();
        assert_eq!((batch.events.len(), batch.lost, batch.next), (10, 0, 1009));
        assert_eq!(queue.after(batch.next).now_or_never(), None);
        add(&queue, 1500);
        let batch = queue.after(batch.next).now_or_never().unwrap();
        assert_eq!((batch.events.len(), batch.lost), (MOST_AT_ONCE, 500));
        assert_eq!((batch.events[0].seq, batch.next), (1510, 1609));
        // The next ones follow without a gap.
        let batch = queue.after(batch.next).now_or_never().unwrap();
        assert_eq!((batch.events[0].seq, batch.lost), (1610, 0));
        // A reader that comes from the version before, and a liar.
        assert_eq!(queue.after(7).now_or_never().unwrap().lost, 510);
        // A reader of a version whose clock was ahead.
        assert_eq!(queue.after(u64::MAX).now_or_never().unwrap().events[0].seq, 1510);
    }

    #[test]
    fn readers_that_wait_are_woken_or_forgotten() {
        let queue = queue(1);
        let mut one = Box::pin(queue.after(1000));
        for _ in 0..100 {
            assert_eq!(one.as_mut().now_or_never(), None);
            assert_eq!(queue.after(1000).now_or_never(), None);
        }
        assert_eq!(queue.lock().waiting.len(), 1);
        add(&queue, 1);
        assert_eq!(one.now_or_never().unwrap().events[0].seq, 1001);
        assert!(queue.lock().waiting.is_empty());
    }

    #[test]
    fn the_end_waits_for_followers_that_were_there_lately() {
        let (queue, now) = (queue(2), Instant::now());
        queue.asked(0);
        queue.told(1000, now);
        queue.told(1001, now);
        // One that has gone long ago.
        queue.told(1000, now - ABSENCE * 2);
        let mut end = Box::pin(queue.all_told(now));
        assert_eq!(end.as_mut().now_or_never(), None);
        queue.asked(1000);
        assert_eq!(end.now_or_never(), Some(()));
        for _ in 0..1000 {
            queue.told(7, now);
        }
        assert_eq!(queue.lock().followers.len(), MOST_FOLLOWERS);
    }

    #[test]
    fn a_receiver_gets_the_events_from_now_on_and_hears_of_dropped_ones() {
        let queue = queue(5);
        let mut events = queue.follow();
        assert_eq!(events.next().now_or_never(), None);
        add(&queue, 1200);
        let dropped = events.next().now_or_never().unwrap();
        assert_eq!((dropped.event, dropped.count), (EventKind::Dropped, Some(200)));
        for seq in 1205..2205 {
            assert_eq!(events.next().now_or_never().unwrap().seq, seq);
        }
        assert_eq!(events.next().now_or_never(), None);
    }
}
