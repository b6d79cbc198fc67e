//! Messages without an answer: those that follow each other closely are sent in one system call.

use std::time::{Duration, Instant};

use super::{Link, Mode};
use crate::ipc::SendError;
use crate::ipc::wire::body::Draft;

/// A notice within this time of the last one is left to the background task.
const BURST_TIME: Duration = Duration::from_micros(200);

/// As soon as this much is queued, it is sent at once.
const BURST_BYTES: usize = 64 * 1024;

impl Link {
    /// Queues a message without an answer. A single one is sent immediately.
    pub(crate) fn notify(
        &self,
        encode: impl FnOnce(&mut Draft<'_>) -> Result<(), SendError>,
    ) -> Result<(), SendError> {
        self.with(|state| {
            if let Some(ended) = &state.ended {
                return Err(ended.clone().into());
            }
            if self.is_full(state) {
                return Err(SendError::Full);
            }
            self.push(state, self.notice(), encode)?;
            // Not the runtime's clock, which a test may have stopped.
            let now = Instant::now();
            let last = state.last_notice.replace(now);
            let is_burst =
                self.mode == Mode::Calls && last.is_some_and(|last| now - last < BURST_TIME);
            if is_burst && state.outbox.unsent().len() < BURST_BYTES {
                state.wake_background();
            } else {
                self.flush(state);
            }
            Ok(())
        })
    }
}
