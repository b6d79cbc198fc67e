//! Supervision of workers: the rules, without any process.
//!
//! [`Pool`] decides which processes run, and performs no I/O. It takes an [`Event`] and the current
//! time and returns [`Action`]s. It has no clock, no process and no descriptor, so you can test
//! every rule without processes. Replaying a history yields the same actions.
//!
//! A pool has a desired state: the number of workers in each group and the generation of each
//! worker. After each event, the pool compares the present state with the desired one and takes the
//! next steps towards it. It guarantees:
//!
//! * Each exit is processed once. Events about a process that is gone are ignored.
//! * A worker that exits unexpectedly is restarted in the same generation, according to its group's
//!   [`RestartPolicy`]: immediately after a healthy life and after the first early exit, otherwise
//!   with increasing delays. The pool never stops retrying without reporting it. Under another
//!   [`Respawn`] policy some exits are final, and the pool ends when no worker is left.
//! * A worker that is not ready in time, violates the protocol or hangs is killed and restarted
//!   under the same rules.
//! * A worker that requests more time to start or to stop gets it, up to ten times the configured
//!   time, so start and stop are always bounded. A worker that reports that it is stopping is not
//!   asked to stop and has until the stop deadline.
//! * A worker that exceeds a limit of its group's [`LifeLimits`] is replaced as by
//!   [`Operation::Restart`]. The replacement does not count as a failure.
//! * [`Operation::Reload`] starts a new generation and replaces worker by worker, according to the
//!   group's [`ReloadPolicy`]. The first new process of each group is its canary: once it has been
//!   ready for the canary time, its old process is asked to stop and other processes are started.
//!   Each of the others takes over as soon as it is ready. The generation is proven when all its
//!   workers are ready.
//! * If any new process exits before its generation is proven, and within its own canary time, the
//!   reload is rolled back: new processes are stopped, workers that were already replaced return to
//!   the previous generation, and every caller receives the reason. A worker that exits before it
//!   is replaced is restarted in the old generation, which is known to work. Reloads run one at a
//!   time and never during the initial start.
//! * [`Operation::Restart`] replaces one worker once its new process is proven.
//!   [`Operation::Resize`] starts and stops workers at any time.
//! * Each operation is answered once. A failed operation leaves the pool as it was. A successful
//!   operation is complete when it is answered: after a reload, all serving workers are of the new
//!   generation; after a restart, another process serves; after a resize, all workers are ready.
//! * While the system lacks resources for a process ([`Event::SpawnFailed`]), operations wait, at
//!   most for the time that a process may take to become ready, and old workers go on serving.
//!   After that the operation fails. A rollback is retried until one generation serves.
//! * With [`listen_each`](crate::Workers::listen_each), a process that is no longer needed becomes
//!   [`State::Stopping`] and gets no new connections for a while before it is asked to stop, longer
//!   while [`Event::Backlog`] reports queued connections.
//! * [`Event::Stop`] asks every process to stop and kills the remaining ones at the stop deadline.
//!   No process is started after that. A failure of the initial start, of a group or of the master
//!   has the same effect.
//! * [`Action::Done`] occurs once, when no process is left, and has the outcome.
//!
//! With [`simulation`] you can run a pool without processes, to test your own settings.
//!
//! # Examples
//!
//! A worker exits and is restarted:
//!
//! ```
//! use std::time::Duration;
//! use release_core::supervise::{Action, Event, ExitStatus, GroupSpec, Moment, Pool, WorkerId};
//!
//! let mut pool = Pool::new(vec![GroupSpec::new("web", 1)], Duration::from_secs(10), 42);
//! let (id, start) = (WorkerId(0), Moment::START);
//! let mut actions = Vec::new();
//!
//! pool.on(Event::Start, start, &mut actions);
//! assert_eq!(actions, [Action::Spawn { id, generation: 1 }]);
//! pool.on(Event::Spawned { id, pid: 100 }, start, &mut actions);
//! pool.on(Event::Ready { id, pid: 100 }, start, &mut actions);
//! assert!(actions.contains(&Action::AllReady));
//!
//! // The first early exit, a second later, is followed by an immediate restart.
//! let exit = start + Duration::from_secs(1);
//! pool.on(Event::Exited { id, pid: 100, exit: ExitStatus::Code(3) }, exit, &mut actions);
//! assert_eq!(actions.last(), Some(&Action::Spawn { id, generation: 1 }));
//!
//! // The second early exit in a row is followed by a delay of 100 to 200 milliseconds.
//! pool.on(Event::Spawned { id, pid: 101 }, exit, &mut actions);
//! pool.on(Event::Ready { id, pid: 101 }, exit, &mut actions);
//! pool.on(Event::Exited { id, pid: 101, exit: ExitStatus::Code(3) }, exit, &mut actions);
//! let due = pool.deadline().expect("a restart is due");
//! assert!((100..=200).contains(&(due - exit).as_millis()));
//!
//! actions.clear();
//! pool.on(Event::Tick, due, &mut actions);
//! assert_eq!(actions, [Action::Spawn { id, generation: 1 }]);
//! ```

// Tests panic to fail. Clippy would demand that their panics are documented.
#![cfg_attr(test, allow(clippy::missing_panics_doc))]

mod elastic;
mod event;
mod group;
mod jitter;
mod life;
mod moment;
mod policy;
mod pool;
mod process;
mod report;
pub mod simulation;
#[cfg(test)]
mod tests;
mod turn;
mod worker;

pub(crate) use elastic::{Elastic, GroupLoad};
pub use event::{Action, Event, Operation, RequestId, Signal};
pub use group::{GroupSpec, Ready};
pub use life::{Excess, LifeLimits, Usage};
pub use moment::Moment;
pub use policy::{Exceeded, ReloadPolicy, Respawn, RestartPolicy};
pub use pool::Pool;
pub use report::{KillReason, Outcome, Report, StopCause, WorkerStatus};

pub use crate::sys::exit_status::ExitStatus;
pub use crate::worker_types::{Hung, State, WorkerId};
