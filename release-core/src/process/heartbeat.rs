//! The heartbeat of a worker: sends it periodically and detects workers that hang.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::ipc::link::Link;
use crate::ipc::{Header, Heartbeat, HeartbeatReply, SendError};
use crate::worker_types::Hung;

/// The latest reply, until it is evaluated.
#[derive(Debug, Default)]
pub(crate) struct LatestReply(Mutex<Option<HeartbeatReply>>);

impl LatestReply {
    pub(crate) fn heard(&self, reply: HeartbeatReply) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reply);
    }

    fn take(&self) -> Option<HeartbeatReply> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A reply that reports an overdue unit of work. A second reply must confirm it: a peer that was
/// suspended, alone or with this process, finishes its units soon after it continues.
#[derive(Debug, Default)]
struct Suspicion(Option<Duration>);

impl Suspicion {
    /// Returns the age of an overdue unit if it was overdue in the previous reply as well. A unit
    /// that is about `passed` younger than expected is another one. Without an age there is no
    /// suspicion.
    fn confirmed(&mut self, age: Option<Duration>, passed: Duration) -> Option<Duration> {
        let before = std::mem::replace(&mut self.0, age)?;
        age.filter(|age| *age >= before + passed / 2)
    }
}

/// Sends heartbeats until the future is dropped, and calls `hangs` whenever the peer hangs.
pub(crate) async fn ask(
    heartbeat: Heartbeat,
    link: &Link,
    latest: &LatestReply,
    hangs: impl Fn(Hung),
) {
    let (mut misses, mut suspicion) = (0, Suspicion::default());
    loop {
        if misses == 0 {
            // The end of a connection is reported elsewhere.
            let _ = link.queue(Some(Header::Heartbeat), |_| Ok::<(), SendError>(()));
            link.flush_now();
        }
        let asked_at = link.rt().now();
        link.rt().sleep(heartbeat.every).await;
        let passed = link.rt().now().saturating_duration_since(asked_at);
        let reply = latest.take();
        // Replies to a paused link are not received.
        misses = if reply.is_some() || link.is_paused() { 0 } else { misses + 1 };
        let Some(timeout) = heartbeat.timeout else { continue };
        if let Some(reply) = reply {
            let age = reply.oldest.filter(|age| *age >= timeout && passed < heartbeat.every * 2);
            if let Some(age) = suspicion.confirmed(age, passed) {
                hangs(Hung::Stuck(age));
            }
        } else if heartbeat.every * misses >= timeout {
            misses = 0;
            hangs(Hung::Silent(timeout));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::ipc::limits::Limits;
    use crate::ipc::link::{Incoming, Mode};
    use crate::rt::local::Local;
    use crate::rt::{Driver, run};

    #[test]
    fn only_the_same_unit_of_work_is_stuck() {
        let millis = Duration::from_millis;
        let every = millis(1000);
        let mut suspicion = Suspicion::default();
        assert_eq!(suspicion.confirmed(Some(millis(5100)), every), None);
        assert_eq!(suspicion.confirmed(Some(millis(6090)), every), Some(millis(6090)));
        // After two pauses, each time another unit, even if the second one is older.
        for second in [4800, 5100, 5300] {
            let mut suspicion = Suspicion::default();
            assert_eq!(suspicion.confirmed(Some(millis(5100)), every), None);
            assert_eq!(suspicion.confirmed(Some(millis(second)), every), None, "{second}");
        }
        // A unit that was finished in the meantime is forgotten.
        let mut suspicion = Suspicion::default();
        assert_eq!(suspicion.confirmed(Some(millis(5100)), every), None);
        assert_eq!(suspicion.confirmed(None, every), None);
        assert_eq!(suspicion.confirmed(Some(millis(9000)), every), None);
    }

    /// Sends heartbeats for an hour to a peer with these answers. Returns each time at which it was
    /// found to hang, and how.
    fn asked(
        answers: impl Fn(u32) -> Option<HeartbeatReply> + Send + 'static,
    ) -> Vec<(Duration, Hung)> {
        let (here, there) = UnixStream::pair().unwrap();
        let driver = Local::with_virtual_time().unwrap();
        let (rt, heartbeat) = (driver.handle(), Heartbeat::new(Some(TIMEOUT), false).unwrap());
        let link = |socket: UnixStream| Link::new(&rt, socket.into(), Mode::Calls, Limits::IPC);
        let (link, peer) = (link(here).unwrap(), link(there).unwrap());
        let (replies, found) = (LatestReply::default(), Mutex::new(Vec::new()));
        let start = rt.now();
        run(&driver, async {
            let hangs = |hung| found.lock().unwrap().push((rt.now() - start, hung));
            let asking = ask(heartbeat, &link, &replies, hangs);
            let answering = async {
                for number in 0.. {
                    let heard =
                        |incoming: Incoming<'_>| matches!(incoming.header, Header::Heartbeat);
                    let heard = poll_fn(|cx| peer.poll_incoming(cx, 0, &mut { heard })).await;
                    assert_eq!(heard.ok(), Some(true), "it is asked how it goes");
                    answers(number).into_iter().for_each(|reply| replies.heard(reply));
                }
            };
            let both = futures_util::future::join(asking, answering);
            assert!(rt.timeout(Duration::from_secs(3600), both).await.is_err(), "neither ends");
        });
        found.into_inner().unwrap()
    }

    const TIMEOUT: Duration = Duration::from_secs(8);

    #[test]
    fn a_peer_that_answers_is_not_found_to_hang_in_an_hour() {
        assert!(asked(|_| Some(HeartbeatReply::default())).is_empty());
        // A unit of work may take almost as long as the timeout.
        let busy = HeartbeatReply { finished: 1, oldest: Some(TIMEOUT - Duration::from_millis(1)) };
        assert!(asked(move |_| Some(busy)).is_empty());
    }

    #[test]
    fn a_silent_peer_is_found_after_its_time_and_not_before() {
        let found = asked(|_| None);
        assert!(
            matches!(found[0], (after, Hung::Silent(TIMEOUT)) if after == TIMEOUT),
            "{found:?}"
        );
        // A peer that answers three times falls silent later.
        let found = asked(|number| (number < 3).then(HeartbeatReply::default));
        let expected = TIMEOUT + 3 * (TIMEOUT / 4);
        assert!(matches!(found[0], (after, Hung::Silent(_)) if after == expected), "{found:?}");
    }

    #[test]
    fn a_unit_that_takes_too_long_is_found_with_the_second_answer_that_says_so() {
        let every = TIMEOUT / 4;
        let found =
            asked(move |number| Some(HeartbeatReply { finished: 0, oldest: Some(every * number) }));
        let (after, hung) = &found[0];
        assert!(matches!(hung, Hung::Stuck(age) if *age == every * 5), "{hung:?}");
        assert_eq!(*after, every * 6);
    }
}
