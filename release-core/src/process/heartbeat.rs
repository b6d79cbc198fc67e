//! The heartbeat of a worker: it is asked again and again how its work goes, and found to hang.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::ipc::link::Link;
use crate::ipc::{Beat, Header, Pulse, SendError};
use crate::supervise::Hung;

/// The latest answer, until it is looked at.
#[derive(Debug, Default)]
pub(crate) struct Beats(Mutex<Option<Beat>>);

impl Beats {
    pub(crate) fn heard(&self, beat: Beat) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(beat);
    }

    fn take(&self) -> Option<Beat> {
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
pub(crate) async fn ask(pulse: Pulse, link: &Link, beats: &Beats, hangs: impl Fn(Hung)) {
    let (mut misses, mut suspicion) = (0, Suspicion::default());
    loop {
        if misses == 0 {
            // When the connection has ended, others say so.
            let _ = link.queue(Some(Header::Pulse), |_| Ok::<(), SendError>(()));
            link.flush_now();
        }
        let asked_at = link.rt().now();
        link.rt().sleep(pulse.every).await;
        let passed = link.rt().now().saturating_duration_since(asked_at);
        let beat = beats.take();
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
    use super::*;

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
}
