//! The messages of a program at its `NOTIFY_SOCKET`, and the events that follow from them.

use std::time::{Duration, Instant};

use crate::kept;
use crate::process::HELD_UP;
use crate::process::attach::WorkerEvent;
use crate::systemd::status_line;
use crate::worker_types::Hung;

/// Minimum interval between events of messages that may repeat. Only the latest value is kept.
const INTERVAL: Duration = Duration::from_secs(1);

/// Minimum extension of a time limit, because the next extension may be reported this late.
const LEAST_TIME: Duration = Duration::from_secs(2);

/// The messages of one process, and the events that are not reported yet.
#[derive(Debug)]
pub(super) struct NotifyState {
    /// Interval within which the process must report that it is alive.
    watchdog: Option<Duration>,
    /// The end of that interval, once the process is ready.
    silent_at: Option<Instant>,
    is_ready: bool,
    is_stopping: bool,
    /// Events that are reported immediately, and only once.
    news: Vec<WorkerEvent>,
    /// The latest status, if it is not reported yet.
    status: Option<String>,
    needs_until: Option<Instant>,
    is_hung: bool,
    /// The latest status that was reported.
    told: String,
    /// Earliest time of the next event of a message that may repeat.
    tell_at: Instant,
    /// Whether the process has sent an invalid line.
    was_strange: bool,
}

impl NotifyState {
    pub(super) fn new(watchdog: Option<Duration>, now: Instant) -> Self {
        Self {
            watchdog,
            silent_at: None,
            is_ready: false,
            is_stopping: false,
            news: Vec::new(),
            status: None,
            needs_until: None,
            is_hung: false,
            told: String::new(),
            tell_at: now,
            was_strange: false,
        }
    }

    /// Goes on where an earlier version has left it. The time of silence begins anew.
    pub(super) fn resume(watchdog: Option<Duration>, heard: kept::Heard, now: Instant) -> Self {
        let kept::Heard { is_ready, is_stopping, is_hung, told, status, needs } = heard;
        Self {
            silent_at: watchdog.filter(|_| is_ready).map(|time| now + time),
            is_ready,
            is_stopping,
            is_hung,
            told,
            status,
            needs_until: needs.and_then(|time| now.checked_add(time)),
            ..Self::new(watchdog, now)
        }
    }

    /// Returns the state for the next version of the program. Events that are reported immediately are
    /// not among it: they have been.
    pub(super) fn keep(&self, now: Instant) -> kept::Heard {
        kept::Heard {
            is_ready: self.is_ready,
            is_stopping: self.is_stopping,
            is_hung: self.is_hung,
            told: self.told.clone(),
            status: self.status.clone(),
            needs: self.needs_until.map(|until| until.saturating_duration_since(now)),
        }
    }

    /// Reads a message: lines `NAME=VALUE`, in which unknown names are ignored. Returns an invalid
    /// line if it is the first of this process.
    pub(super) fn hear<'a>(&mut self, message: &'a str, now: Instant) -> Option<&'a str> {
        let mut strange = None;
        for line in message.lines() {
            match line.split_once('=') {
                Some(("READY", "1")) if !self.is_ready => {
                    self.is_ready = true;
                    self.news.push(WorkerEvent::Ready);
                    self.silent_at = self.watchdog.map(|time| now + time);
                }
                Some(("WATCHDOG", "1")) if self.is_ready => {
                    self.silent_at = self.watchdog.map(|time| now + time);
                }
                Some(("WATCHDOG", "trigger")) => self.is_hung = true,
                Some(("STOPPING", "1")) if !self.is_stopping => {
                    self.is_stopping = true;
                    self.news.push(WorkerEvent::Stopping);
                }
                Some(("STATUS", text)) => {
                    let text = status_line(text);
                    self.status = Some(text).filter(|text| *text != self.told);
                }
                Some(("EXTEND_TIMEOUT_USEC", number)) => match number.parse() {
                    Ok(micros) => {
                        let time = Duration::from_micros(micros).max(LEAST_TIME);
                        // The sum may exceed the range of an instant. The pool limits the extension
                        // anyway.
                        self.needs_until = now.checked_add(time);
                    }
                    Err(_) => strange = Some(line),
                },
                _ => {}
            }
        }
        strange.filter(|_| !std::mem::replace(&mut self.was_strange, true))
    }

    /// Returns the time at which [`due`](NotifyState::due) has events, if no message arrives
    /// before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.silent_at.into_iter().chain(self.has_more().then_some(self.tell_at)).min()
    }

    fn has_more(&self) -> bool {
        self.status.is_some() || self.needs_until.is_some() || self.is_hung
    }

    /// Returns the events to report now, in this order.
    pub(super) fn due(&mut self, now: Instant) -> Vec<WorkerEvent> {
        let mut news = std::mem::take(&mut self.news);
        if self.has_more() && self.tell_at <= now {
            let extension = self.needs_until.take();
            news.extend(
                extension.map(|until| WorkerEvent::Extend(until.saturating_duration_since(now))),
            );
            if let Some(text) = self.status.take() {
                self.told.clone_from(&text);
                news.push(WorkerEvent::Status(text));
            }
            if std::mem::take(&mut self.is_hung) {
                news.push(WorkerEvent::Hung(Hung::Admitted));
            }
            self.tell_at = now + INTERVAL;
        }
        if let (Some(at), Some(time)) = (self.silent_at, self.watchdog)
            && at <= now
        {
            // When the deadline is noticed late, this process was suspended, and perhaps the
            // worker, too.
            if now <= at + HELD_UP {
                news.push(WorkerEvent::Hung(Hung::Silent(time)));
            }
            self.silent_at = Some(now + time);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn told(state: &mut NotifyState, message: &str, now: Instant) -> Vec<String> {
        state.hear(message, now);
        due(state, now)
    }

    fn due(state: &mut NotifyState, now: Instant) -> Vec<String> {
        state.due(now).iter().map(|news| format!("{news:?}")).collect()
    }

    #[test]
    fn ready_and_stopping_are_told_at_once_and_once() {
        let now = Instant::now();
        let mut state = NotifyState::new(None, now);
        let expected = ["Ready", "Status(\"up\")"];
        assert_eq!(told(&mut state, "X_OTHER=7\nSTATUS=up\nREADY=1", now), expected);
        assert_eq!(told(&mut state, "STOPPING=1\nREADY=1", now), ["Stopping"]);
        assert!(told(&mut state, "READY=1\nSTOPPING=1\nREADY=0\n=\nREADY", now).is_empty());
        assert_eq!(state.deadline(), None);
    }

    #[test]
    fn what_is_said_again_and_again_is_told_once_a_second() {
        let start = Instant::now();
        let mut state = NotifyState::new(None, start);
        let mut told = 0;
        for step in 0..10_000 {
            let now = start + Duration::from_millis(step);
            state.hear(&format!("STATUS={step}\nEXTEND_TIMEOUT_USEC=3000000"), now);
            told += state.due(now).len();
        }
        assert_eq!(told, 20);
        let end = state.deadline().unwrap();
        assert_eq!(due(&mut state, end)[1], "Status(\"9999\")");
        state.hear("STATUS=9999", end);
        assert_eq!(state.deadline(), None, "nothing new");
    }

    #[test]
    fn a_status_is_one_short_line() {
        let now = Instant::now();
        let mut state = NotifyState::new(None, now);
        let heard = told(&mut state, &format!("STATUS=a\tb\x1b[2J{}", "\u{e9}".repeat(1000)), now);
        assert!(heard[0].starts_with("Status(\"a b [2J\u{e9}") && heard[0].len() <= 1034);
    }

    #[test]
    fn who_is_silent_once_it_is_ready_hangs() {
        let start = Instant::now();
        let mut state = NotifyState::new(Some(seconds(10)), start);
        state.hear("WATCHDOG=1", start);
        assert_eq!(state.deadline(), None, "not before it is ready");
        told(&mut state, "READY=1", start);
        told(&mut state, "WATCHDOG=1", start + seconds(9));
        assert_eq!(state.deadline(), Some(start + seconds(19)));
        told(&mut state, "STATUS=busy", start + seconds(18));
        assert_eq!(due(&mut state, start + seconds(19)), ["Hung(Silent(10s))"]);
        assert_eq!(told(&mut state, "WATCHDOG=trigger", start + seconds(20)), ["Hung(Admitted)"]);
        assert!(due(&mut state, start + seconds(60)).is_empty(), "it stood still as well");
        assert_eq!(due(&mut state, start + seconds(70)), ["Hung(Silent(10s))"]);
        let mut other = NotifyState::new(None, start);
        told(&mut other, "READY=1", start);
        assert_eq!(other.deadline(), None, "nobody asked for it");
    }

    #[test]
    fn another_version_goes_on_with_what_was_heard() {
        let start = Instant::now();
        let mut state = NotifyState::new(Some(seconds(10)), start);
        told(&mut state, "READY=1\nSTATUS=up", start);
        state.hear("STATUS=busy\nEXTEND_TIMEOUT_USEC=9000000", start);
        let mut next = NotifyState::resume(Some(seconds(10)), state.keep(start), start);
        assert_eq!(due(&mut next, start), ["Extend(9s)", "Status(\"busy\")"]);
        assert!(told(&mut next, "READY=1\nSTATUS=busy", start).is_empty());
        assert_eq!(due(&mut next, start + seconds(10)), ["Hung(Silent(10s))"]);
    }

    #[test]
    fn a_number_that_is_none_is_said_once() {
        let now = Instant::now();
        let mut state = NotifyState::new(None, now);
        for wrong in ["", "x", "-1", "1.5", "99999999999999999999"] {
            let line = format!("EXTEND_TIMEOUT_USEC={wrong}");
            let expected = (wrong.is_empty()).then_some(&*line);
            assert_eq!(state.hear(&line, now), expected, "{wrong}");
            assert!(state.due(now).is_empty());
        }
        let longest = format!("EXTEND_TIMEOUT_USEC={}", u64::MAX);
        assert_eq!(state.hear(&longest, now), None);
        assert!(
            matches!(state.due(now)[..], [WorkerEvent::Extend(time)] if time > seconds(1 << 40))
        );
        state.hear("EXTEND_TIMEOUT_USEC=1", now);
        let later = state.deadline().unwrap();
        assert!(matches!(state.due(later)[..], [WorkerEvent::Extend(time)] if time == seconds(1)));
    }
}
