//! Process 1 of a container: processes that lost their parent become its children, and are reaped.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::Error;
use crate::rt::{Rt, Task};
use crate::signals::Signals;
use crate::sys::pidfd;

/// How long a zombie is left to whoever started it. Orphans have nobody; a child that this program
/// started beside its workers is waited for by the code that started it. Workers are never taken
/// from who waits for them: how they have ended decides what becomes of them.
const GRACE: Duration = Duration::from_millis(300);

/// Reaps orphans when this process is the init of its process namespace.
pub(crate) fn reap(rt: &Rt) -> Result<Option<Task<()>>, Error> {
    if std::process::id() != 1 {
        return Ok(None);
    }
    let failed = |error| Error::system("cannot catch SIGCHLD", error);
    let deaths = Signals::new(rt, &[Signal::SIGCHLD]).map_err(failed)?;
    let timer = rt.clone();
    Ok(Some(rt.spawn(async move {
        while deaths.next().await.is_ok() {
            loop {
                timer.sleep(GRACE).await;
                if pidfd::reap_orphans().unwrap_or(true) {
                    break;
                }
            }
        }
    })))
}
