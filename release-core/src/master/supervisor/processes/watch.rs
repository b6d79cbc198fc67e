//! Messages and the end of a worker's process, as events of the pool.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_channel::mpsc::UnboundedSender;
use futures_channel::oneshot;

use crate::guard::Guard;
use crate::master::handle::MasterHandle;
use crate::master::supervisor::event::MasterEvent;
use crate::process::attach::{Notify, WorkerEvent};
use crate::process::child::Child;
use crate::process::listeners::Watch;
use crate::process::output::Output;
use crate::rt::Rt;
use crate::supervise::{Event, WorkerId};
use crate::sys::exit_status::ExitStatus;
use crate::sys::{kernel_log, stacks};

/// Time limit for the exit of a worker that has closed its connection.
pub(super) const EXIT_TIME: Duration = Duration::from_secs(1);

/// Time limit for reading the connection of an ended process to its end: another process may still
/// hold the other end.
const LAST_WORDS_TIME: Duration = Duration::from_millis(100);

/// Time limit for a look at a process that hangs, which is then killed without.
const STACKS_TIME: Duration = Duration::from_secs(1);

/// Time limit of the application for the last output of a process.
const PASS_ON_TIME: Duration = Duration::from_secs(5);

/// Pauses before the looks at the kernel's log, which the kernel writes after the death.
const LOG_PAUSES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(40),
    Duration::from_millis(150),
];

const OUTPUT: Guard = Guard::new("output");

/// Where the threads of a process were when it was found to hang.
pub(super) type Stacks = Arc<Mutex<Vec<String>>>;

/// Ends when a connection's listener is dropped.
pub(super) type Silence = oneshot::Receiver<()>;

/// Returns a listener that turns the messages of a connection into events of exactly this process,
/// and a receiver that ends with the listener.
pub(super) fn listener(
    master: MasterHandle,
    (id, pid): (WorkerId, i32),
    finished: Arc<AtomicU64>,
    hung: Stacks,
    send: impl Fn(Event) + Clone + Send + Sync + 'static,
) -> (Notify, Silence) {
    let (heard, silence) = oneshot::channel();
    let listener = move |news| match news {
        WorkerEvent::Ready => send(Event::Ready { id, pid }),
        WorkerEvent::Finished(count) => finished.store(count, Ordering::Relaxed),
        WorkerEvent::Hung(how) => {
            let (rt, hung, send) = (master.rt().clone(), Arc::clone(&hung), send.clone());
            master
                .rt()
                .spawn(async move {
                    note_stacks(&rt, (id, pid), &hung).await;
                    send(Event::Hung { id, pid, how });
                })
                .detach();
        }
        WorkerEvent::Extend(time) => send(Event::Extend { id, pid, time }),
        WorkerEvent::Stopping => send(Event::Stopping { id, pid }),
        WorkerEvent::Status(text) => send(Event::Status { id, pid, text }),
        WorkerEvent::Violation(reason) => {
            let reason = one_line(&reason);
            send(Event::Violation { id, pid, reason });
        }
        WorkerEvent::Closed(what) => {
            let (send, later) = (send.clone(), master.clone());
            master
                .rt()
                .spawn(async move {
                    later.rt().sleep(EXIT_TIME).await;
                    // A worker that was told to stop has its deadline.
                    if later.pool().relies_on(id, pid) {
                        let reason = format!("it closed {what} and lived on");
                        send(Event::Violation { id, pid, reason });
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

/// Says in the log where the threads of a process hang, and keeps it for the history.
async fn note_stacks(rt: &Rt, (id, pid): (WorkerId, i32), hung: &Stacks) {
    let looking = rt.unblock(move || stacks::stacks(pid));
    let Ok(Ok(lines)) = rt.timeout(STACKS_TIME, looking).await else { return };
    for line in &lines {
        log_warning!(worker = id.0, pid, "it hangs: {line}");
    }
    *hung.lock().unwrap_or_else(PoisonError::into_inner) = lines;
}

/// Waits for the end of a process, after all its messages. Returns the exit.
pub(super) async fn exited(
    rt: Rt,
    id: WorkerId,
    child: Arc<Child>,
    output: Option<Output>,
    silence: Option<Silence>,
) -> Event {
    let pid = child.pid().as_raw();
    // A task of its own: functions of the application could delay this one.
    let (tell_end, end) = oneshot::channel::<()>();
    let passing = output.map(|output| rt.spawn(output.pass_on_until(end)));
    let exit = child.exit().await;
    drop(tell_end);
    if let Some(passing) = passing
        && !matches!(rt.timeout(PASS_ON_TIME, OUTPUT.run(|| passing)).await, Ok(Ok(_)))
    {
        log_error!(pid, "the last words of a worker are lost: `output` did not take them");
    }
    let exit = match exit {
        Ok(exit) => with_its_call(&rt, pid, exit).await,
        // Other code has reaped it: its exit status is not known.
        Err(error) => {
            log_warning!(pid, %error, "the exit status of a worker was lost");
            ExitStatus::Code(-1)
        }
    };
    if let Some(silence) = silence {
        let _ = rt.timeout(LAST_WORDS_TIME, silence).await;
    }
    Event::Exited { id, pid, exit }
}

/// Returns the exit with the system call that a filter has killed the process for, if this process
/// may read the kernel's log.
async fn with_its_call(rt: &Rt, pid: i32, exit: ExitStatus) -> ExitStatus {
    if !matches!(exit, ExitStatus::Signal { number: libc::SIGSYS, .. }) {
        return exit;
    }
    for pause in LOG_PAUSES {
        rt.sleep(pause).await;
        match kernel_log::killed_for(pid) {
            Ok(Some(number)) => return ExitStatus::ForbiddenCall { number },
            Ok(None) => {}
            Err(_) => break,
        }
    }
    exit
}

/// Returns one line for the log from a text that a worker may have chosen.
fn one_line(words: &str) -> String {
    let escaped = |letter: char| match letter.is_control() {
        true => letter.escape_debug().to_string(),
        false => letter.to_string(),
    };
    words.chars().take(200).map(escaped).collect()
}

/// Notices listening sockets that are shut down.
pub(super) fn of_listeners(rt: &Rt, sender: &UnboundedSender<MasterEvent>) -> Option<Watch> {
    let sender = sender.clone();
    let shut = move |sockets| drop(sender.unbounded_send(MasterEvent::ShutDown(sockets)));
    let failed = |error: &io::Error| {
        log_warning!(%error, "listening sockets are only looked at when a worker starts");
    };
    Watch::new(rt, shut).inspect_err(failed).ok()
}
