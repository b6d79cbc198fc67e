//! Meaningless frames, such as answers for which no call waits. Each is dropped, and a peer that
//! sends too many is disconnected.

use std::time::{Duration, Instant};

use crate::ipc::Ended;
use crate::ipc::limits::Limits;
use crate::ipc::wire::header::Header;

/// Maximum number of meaningless frames at once. Frames of 64 bytes and more count as several.
const MOST: u32 = 100_000;

/// Time after which one frame is forgotten. An honest peer sends one only if two frames cross.
const EVERY: Duration = Duration::from_micros(100);

/// Maximum count of one large frame.
const LARGEST: u32 = MOST / 2;

const ANSWERS: Ended = Ended::Violation("answers to nothing, again and again");
const CANCELS: Ended = Ended::Violation("the end of requests that there are not, again and again");
const UNASKED: Ended = Ended::Violation("words that nobody asked for, again and again");
const SIGNALS: Ended = Ended::Violation("signals of an empty ring, again and again");
const NOTICES: Ended = Ended::Violation("notices that mean nothing, again and again");

/// The frames that are expected from the peer, and the count of meaningless ones.
#[derive(Debug, Default)]
pub(super) struct Expectations {
    /// Number of cancelled requests, whose answers may still arrive.
    late: u64,
    /// Number of unanswered heartbeats.
    heartbeats: u64,
    /// Number of requests of the peer, each of which it may cancel.
    requests: u64,
    was_ready: bool,
    meaningless: u32,
    since: Option<Instant>,
}

impl Expectations {
    /// Creates expectations for a connection of an earlier process image, whose requests are
    /// unknown.
    pub(super) fn unknown() -> Self {
        let many = u64::from(u16::MAX);
        Self { late: many, heartbeats: many, requests: many, ..Self::default() }
    }

    /// Expects a late answer to a cancelled request.
    pub(super) fn cancelled(&mut self) {
        self.late += 1;
    }

    pub(super) fn heartbeat_sent(&mut self) {
        self.heartbeats += 1;
    }

    /// Counts an answer for which no call waits, unless it is late.
    pub(super) fn unawaited(
        &mut self,
        size: usize,
        now: impl FnOnce() -> Instant,
    ) -> Result<(), Ended> {
        if take_one(&mut self.late) { Ok(()) } else { self.count(size, now(), ANSWERS) }
    }

    /// Counts a notice that does not decode.
    pub(super) fn undecodable(&mut self, size: usize, now: Instant) -> Result<(), Ended> {
        self.count(size, now, NOTICES)
    }

    /// Counts a signal of a ring without bytes.
    pub(super) fn needless_signal(&mut self, now: Instant) -> Result<(), Ended> {
        self.count(0, now, SIGNALS)
    }

    /// Counts a frame that is not an answer, unless it is expected.
    #[inline]
    pub(super) fn check(
        &mut self,
        header: Header,
        limits: &Limits,
        now: impl FnOnce() -> Instant,
    ) -> Result<(), Ended> {
        let (is_meant, why) = match header {
            Header::Request { .. } | Header::Service { .. } => {
                self.requests += 1;
                return Ok(());
            }
            Header::Cancel { .. } => (take_one(&mut self.requests), CANCELS),
            Header::HeartbeatReply { .. } => (take_one(&mut self.heartbeats), UNASKED),
            Header::Ready => (!std::mem::replace(&mut self.was_ready, true), UNASKED),
            // Only a master sends heartbeats.
            Header::Heartbeat => (limits.takes_outputs, UNASKED),
            // These end the connection if they are unexpected, or are counted after decoding.
            Header::Hello | Header::Notice | Header::Outputs | Header::Ring => return Ok(()),
            Header::Answer { .. }
            | Header::Refusal { .. }
            | Header::NotUnderstood { .. }
            | Header::ServiceAnswer { .. } => return Ok(()),
        };
        if is_meant { Ok(()) } else { self.count(0, now(), why) }
    }

    fn count(&mut self, size: usize, now: Instant, why: Ended) -> Result<(), Ended> {
        let since = self.since.get_or_insert(now);
        let forgotten = now.saturating_duration_since(*since).as_nanos() / EVERY.as_nanos();
        if forgotten > 0 {
            let forgotten = u32::try_from(forgotten).unwrap_or(u32::MAX);
            self.meaningless = self.meaningless.saturating_sub(forgotten);
            *since = now;
        }
        let cost = 1 + u32::try_from(size / 64).unwrap_or(LARGEST).min(LARGEST);
        self.meaningless += cost;
        if self.meaningless > MOST { Err(why) } else { Ok(()) }
    }
}

fn take_one(count: &mut u64) -> bool {
    let is_there = *count > 0;
    *count = count.saturating_sub(1);
    is_there
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_answers_cost_nothing_and_others_are_forgotten_in_time() {
        let (mut expected, now) = (Expectations::default(), Instant::now());
        for _ in 0..100_000 {
            expected.cancelled();
        }
        for _ in 0..100_000 + MOST {
            expected.unawaited(0, || now).unwrap();
        }
        assert!(matches!(expected.unawaited(0, || now), Err(Ended::Violation(_))));
        let mut expected = Expectations::default();
        for number in 0..100_000 {
            expected.unawaited(0, || now + number * EVERY).unwrap();
        }
    }

    #[test]
    fn large_frames_cost_more() {
        let (mut expected, now) = (Expectations::default(), Instant::now());
        let count = (0..).take_while(|_| expected.undecodable(16 << 20, now).is_ok()).count();
        assert_eq!(count, 1);
    }

    #[test]
    fn each_request_is_given_up_once_and_each_heartbeat_answered_once() {
        let (mut expected, now, limits) = (Expectations::default(), Instant::now(), &Limits::IPC);
        expected.heartbeat_sent();
        let reply = Header::HeartbeatReply { reply: crate::ipc::HeartbeatReply::default() };
        let mut say = |header| {
            let before = expected.meaningless;
            expected.check(header, limits, || now).unwrap();
            expected.meaningless > before
        };
        assert!(!say(reply) && say(reply));
        assert!(!say(Header::Ready) && say(Header::Ready));
        assert!(say(Header::Cancel { number: 1 }) && say(Header::Heartbeat));
    }
}
