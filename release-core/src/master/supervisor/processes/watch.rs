//! Messages and the end of a worker's process, as events of the pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_channel::mpsc::UnboundedSender;
use futures_channel::oneshot;

use super::{EXIT_TIME, MasterEvent, Processes};
use crate::guard::Guard;
use crate::process::attach::WorkerEvent;
use crate::process::child::Child;
use crate::process::output::Output;
use crate::rt::Task;
use crate::supervise::{Event, WorkerId};
use crate::sys::exit_status::ExitStatus;

/// How long the connection of a process that has ended may take to be read to its end: something
/// else may still hold the other end.
const LAST_WORDS_TIME: Duration = Duration::from_millis(100);

/// How long the application may take for the last that a process has written.
const PASS_ON_TIME: Duration = Duration::from_secs(5);

const OUTPUT: Guard = Guard::new("output");

/// Done when a connection's listener is dropped.
pub(super) type Silence = oneshot::Receiver<()>;

impl Processes {
    /// Turns what a worker's connection says into events of that very process; and what is done when
    /// it will say nothing more.
    pub(super) fn listen(
        &self,
        id: WorkerId,
        pid: i32,
        finished: Arc<AtomicU64>,
    ) -> (Box<dyn Fn(WorkerEvent) + Send + Sync>, Silence) {
        let (heard, silence) = oneshot::channel();
        let (sender, rt) = (self.sender.clone(), self.rt.clone());
        let send = move |sender: &UnboundedSender<MasterEvent>, event| {
            let _ = sender.unbounded_send(MasterEvent::Pool(event));
        };
        let master = self.master.clone();
        let listener = move |news| match news {
            WorkerEvent::Ready => send(&sender, Event::Ready { id, pid }),
            WorkerEvent::Finished(count) => finished.store(count, Ordering::Relaxed),
            WorkerEvent::Hung(how) => send(&sender, Event::Hung { id, pid, how }),
            WorkerEvent::Extend(time) => send(&sender, Event::Extend { id, pid, time }),
            WorkerEvent::Stops => send(&sender, Event::Stops { id, pid }),
            WorkerEvent::Status(text) => send(&sender, Event::Status { id, pid, text }),
            WorkerEvent::Violation(reason) => {
                let reason = one_line(&reason);
                send(&sender, Event::Violation { id, pid, reason });
            }
            WorkerEvent::Closed(what) => {
                let (sender, later, master) = (sender.clone(), rt.clone(), master.clone());
                rt.spawn(async move {
                    later.sleep(EXIT_TIME).await;
                    // One that was asked to stop has its deadline for what is left to do.
                    if master.pool().relies_on(id, pid) {
                        let reason = format!("it closed {what} and lived on");
                        send(&sender, Event::Violation { id, pid, reason });
                    }
                })
                .detach();
            }
        };
        let listener = move |news| {
            let _until_dropped: &oneshot::Sender<()> = &heard;
            listener(news);
        };
        (Box::new(listener), silence)
    }

    /// Notices the end of a process, after everything that it has said.
    pub(super) fn watch(
        &self,
        id: WorkerId,
        child: Arc<Child>,
        output: Option<Output>,
        silence: Option<Silence>,
    ) -> Task<()> {
        let (sender, pid, rt) = (self.sender.clone(), child.pid().as_raw(), self.rt.clone());
        // A task of its own: this one runs nothing of the application's, which could hold it up.
        let (tell_end, end) = oneshot::channel::<()>();
        let passing = output.map(|output| self.rt.spawn(output.pass_on_until(end)));
        self.rt.spawn(async move {
            let exit = child.exit().await;
            drop(tell_end);
            if let Some(passing) = passing
                && !matches!(rt.timeout(PASS_ON_TIME, OUTPUT.run(|| passing)).await, Ok(Ok(_)))
            {
                log_error!(pid, "the last words of a worker are lost: `output` did not take them");
            }
            let exit = match exit {
                Ok(exit) => exit,
                // Somebody else has reaped it: it has ended, and nobody knows how.
                Err(error) => {
                    log_warning!(pid, %error, "the exit status of a worker was lost");
                    ExitStatus::Code(-1)
                }
            };
            if let Some(silence) = silence {
                let _ = rt.timeout(LAST_WORDS_TIME, silence).await;
            }
            let _ = sender.unbounded_send(MasterEvent::Pool(Event::Exited { id, pid, exit }));
        })
    }
}

/// Words that a worker may have chosen, fit for a log: one line of them, and no more than that.
fn one_line(words: &str) -> String {
    let escaped = |letter: char| match letter.is_control() {
        true => letter.escape_debug().to_string(),
        false => letter.to_string(),
    };
    words.chars().take(200).map(escaped).collect()
}
