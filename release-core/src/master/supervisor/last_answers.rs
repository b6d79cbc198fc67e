//! The end of the control sockets, which comes after that of the workers.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::Supervisor;
use crate::master::control::Served;

/// How long handlers and their peers have when everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Lets handlers that have waited for the end of the workers say so, and their peers read it.
    pub(super) async fn send_last_answers(&self) {
        let controls = &self.estate.controls;
        controls.iter().for_each(|control| control.pause(self.rt.now()));
        let at_rest = poll_fn(|cx| {
            // Each is asked, or it would not wake this task.
            let busy = controls.iter().filter(|control| control.poll_at_rest(cx).is_pending());
            if busy.count() == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        if self.rt.timeout(LAST_ANSWERS, at_rest).await.is_err() {
            let requests: usize = controls.iter().map(Served::unfinished).sum();
            log_warning!(requests, "control sockets are closed before the answer");
        }
    }
}
