//! The tasks of the program beside the supervisor.

use std::convert::identity;
use std::pin::pin;

use futures_channel::mpsc::UnboundedSender;
use futures_channel::oneshot;

use super::event::MasterEvent;
use crate::guard::Guard;
use crate::master::handle::MasterHandle;
use crate::rt::{Rt, Task};
use crate::{Error, ErrorKind};

/// Guards a task. A panic in it is a failure of the master, which then stops in order.
const MAIN: Guard = Guard::new("main");

/// Function that makes a task of the program.
pub(super) type Start<F> = Box<dyn FnOnce(Rt, MasterHandle) -> F>;

/// Starts a task, whose failure becomes an event. The receiver ends when the task has had its first
/// turn, or has ended.
pub(super) fn start<F>(
    start: Start<F>,
    master: MasterHandle,
    sender: UnboundedSender<MasterEvent>,
) -> (Task<()>, oneshot::Receiver<()>)
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let rt = master.rt().clone();
    let task = MAIN.call(|| start(rt.clone(), master));
    let (begun, has_begun) = oneshot::channel();
    let running = rt.spawn(async move {
        let mut begun = Some(begun);
        let mut running = pin!(async move {
            match task {
                Ok(task) => MAIN.run(|| task).await,
                Err(panicked) => Err(panicked),
            }
        });
        let ended = std::future::poll_fn(|cx| {
            let polled = running.as_mut().poll(cx);
            // Its failure is queued before the receiver ends.
            if polled.is_pending() {
                begun = None;
            }
            polled
        });
        let ended = ended.await;
        let failed = |panicked| {
            let message = "a task of the master panicked";
            Error::new(ErrorKind::Program, message).caused_by(panicked)
        };
        if let Err(error) = ended.map_err(failed).and_then(identity) {
            // Formatting the program's error runs code of the program, too.
            let said = MAIN.call(|| error.report());
            let error = said.map_or_else(failed, |_| error);
            let _ = sender.unbounded_send(MasterEvent::TaskFailed(error));
        }
    });
    (running, has_begun)
}
