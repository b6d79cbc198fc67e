//! Process 1 of a container: processes that lost their parent become its children, and are reaped.

use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::Error;
use crate::rt::{Rt, Task};
use crate::signals::Signals;
use crate::sys::claimed::Claimed;
use crate::sys::pidfd::Orphans;

/// Time for which a zombie is left to the code that started it. Orphans have no such code; a child that
/// this program started beside its workers is awaited by its own code. Workers are always left to the
/// supervisor, which needs their exit status.
const GRACE: Duration = Duration::from_secs(1);

/// Reaps orphans when this process is the init of its process namespace.
pub(crate) fn reap(rt: &Rt) -> Result<Option<Task<()>>, Error> {
    if std::process::id() != 1 {
        return Ok(None);
    }
    let failed = |error| Error::system("cannot catch SIGCHLD", error);
    let deaths = Signals::new(rt, &[Signal::SIGCHLD]).map_err(failed)?;
    let timer = rt.clone();
    Ok(Some(rt.spawn(async move {
        let mut orphans = Orphans::default();
        while deaths.next().await.is_ok() {
            // In the next round these zombies have had their time.
            while orphans.reap() {
                timer.sleep(GRACE).await;
            }
        }
    })))
}

/// Keeps the exit status of a child for the code that has started it, until this is dropped.
///
/// See [`claim_child`].
///
/// # Examples
///
/// ```
/// let mut child = std::process::Command::new("true").spawn()?;
/// let claimed = release_core::claim_child(child.id());
/// assert!(child.wait()?.success());
/// drop(claimed);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "the child is claimed for as long as this lives"]
pub struct ClaimedChild {
    _claimed: Claimed,
}

/// Claims a child process of the program's own: a master that is process 1 of its namespace, which reaps
/// whatever loses its parent, leaves this one alone.
///
/// Without it, such a master waits for at least a second after the end of a child before it reaps it:
/// enough for code that waits for its child all the time, such as `tokio::process` or
/// [`Child::wait`](std::process::Child::wait), too little for code that looks later. A master that is
/// not process 1 reaps its workers alone. Where nobody waits, a claimed child stays a zombie until the
/// claim is dropped.
///
/// # Examples
///
/// ```no_run
/// use release_core::claim_child;
///
/// let mut child = std::process::Command::new("backup").spawn()?;
/// let claimed = claim_child(child.id());
/// // ... much later:
/// let status = child.wait()?;
/// drop(claimed);
/// # let _ = status;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn claim_child(pid: u32) -> ClaimedChild {
    ClaimedChild { _claimed: Claimed::new(Pid::from_raw(pid.cast_signed())) }
}
