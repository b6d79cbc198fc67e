//! The heartbeat of a worker: it is asked again and again how its work goes, and found to hang.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::ipc::link::Link;
use crate::ipc::{Header, Heartbeat, HeartbeatReply, SendError};
use crate::worker_types::Hung;

/// The latest answer, until it is looked at.
#[derive(Debug, Default)]
pub(crate) struct LatestReply(Mutex<Option<HeartbeatReply>>);

impl LatestReply {
    pub(crate) fn heard(&self, beat: HeartbeatReply) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(beat);
    }

    fn take(&self) -> Option<HeartbeatReply> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// An answer that tells of a unit of work that takes too long. It needs another one to be believed: a
/// peer that stood still, alone or with this process, finishes what it has in hand when it goes on.
#[derive(Debug, Default)]
struct Suspicion(Option<Duration>);

impl Suspicion {
    /// The age of a unit that is too old, if it was too old in the answer before: one that is as much
    /// younger as time has `passed` is another unit. No age means no suspicion.
    fn confirmed(&mut self, age: Option<Duration>, passed: Duration) -> Option<Duration> {
        let before = std::mem::replace(&mut self.0, age)?;
        age.filter(|age| *age >= before + passed / 2)
    }
}

/// Asks for as long as it is polled, and says when the peer is found to hang.
pub(crate) async fn ask(pulse: Heartbeat, link: &Link, latest: &LatestReply, hangs: impl Fn(Hung)) {
    let (mut misses, mut suspicion) = (0, Suspicion::default());
    loop {
        if misses == 0 {
            // When the connection has ended, others say so.
            let _ = link.queue(Some(Header::Heartbeat), |_| Ok::<(), SendError>(()));
            link.flush_now();
        }
        let asked_at = link.rt().now();
        link.rt().sleep(pulse.every).await;
        let passed = link.rt().now().saturating_duration_since(asked_at);
        let beat = latest.take();
        // What it answers to a link that stands still is not heard.
        misses = if beat.is_some() || link.is_paused() { 0 } else { misses + 1 };
        let Some(timeout) = pulse.timeout else { continue };
        if let Some(beat) = beat {
            let age = beat.oldest.filter(|age| *age >= timeout && passed < pulse.every * 2);
            if let Some(age) = suspicion.confirmed(age, passed) {
                hangs(Hung::Stuck(age));
            }
        } else if pulse.every * misses >= timeout {
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
        // After two pauses: each time another unit, the second one even older than the first.
        for second in [4800, 5100, 5300] {
            let mut suspicion = Suspicion::default();
            assert_eq!(suspicion.confirmed(Some(millis(5100)), every), None);
            assert_eq!(suspicion.confirmed(Some(millis(second)), every), None, "{second}");
        }
        // One that was finished meanwhile is forgotten.
        let mut suspicion = Suspicion::default();
        assert_eq!(suspicion.confirmed(Some(millis(5100)), every), None);
        assert_eq!(suspicion.confirmed(None, every), None);
        assert_eq!(suspicion.confirmed(Some(millis(9000)), every), None);
    }

    /// Asks a peer for an hour, which answers so; how often, after how long, it was found to hang.
    fn asked(
        answers: impl Fn(u32) -> Option<HeartbeatReply> + Send + 'static,
    ) -> Vec<(Duration, Hung)> {
        let (here, there) = UnixStream::pair().unwrap();
        let driver = Local::with_virtual_time().unwrap();
        let (rt, pulse) = (driver.handle(), Heartbeat::new(Some(TIMEOUT), false).unwrap());
        let link = |socket: UnixStream| Link::new(&rt, socket.into(), Mode::Calls, Limits::IPC);
        let (link, peer) = (link(here).unwrap(), link(there).unwrap());
        let (beats, found) = (LatestReply::default(), Mutex::new(Vec::new()));
        let start = rt.now();
        run(&driver, async {
            let hangs = |hung| found.lock().unwrap().push((rt.now() - start, hung));
            let asking = ask(pulse, &link, &beats, hangs);
            let answering = async {
                for number in 0.. {
                    let heard =
                        |incoming: Incoming<'_>| matches!(incoming.header, Header::Heartbeat);
                    let heard = poll_fn(|cx| peer.poll_incoming(cx, 0, &mut { heard })).await;
                    assert_eq!(heard.ok(), Some(true), "it is asked how it goes");
                    answers(number).into_iter().for_each(|beat| beats.heard(beat));
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
        // A unit of work may take as long as there is time for it.
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
        // One that answers three times falls silent later.
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
