//! Supervision: who runs.
//!
//! [`Pool`] decides, and does nothing: it is told what happened ([`Event`]) and when, and says what
//! is to be done ([`Action`]). It holds no clock, no process and no descriptor, so every rule can be
//! tried in a simulation, and a history replayed gives the same actions again.
//!
//! A pool has a desired state: how many workers each group has, and which generation each worker is
//! to run. After every event it compares what there is with that, and takes the steps that bring it
//! nearer. It promises:
//!
//! * Every death is noticed once; news of a process that is gone is ignored.
//! * A worker that dies comes back, as the generation that it was, under the rules of its group's
//!   [`RestartPolicy`]: at once after a healthy life and after the first early death, otherwise with
//!   growing delays, without ever giving up silently. Under another [`Respawn`] some ends are the last; with nothing left to do
//!   the pool ends.
//! * A worker that is not ready in time, breaks the protocol, or hangs, is killed and comes back alike.
//! * A worker that says that it needs more time for its start or its end gets it, up to ten times what
//!   it was given, so that both come to an end. One that says that it ends is not told to, and has the
//!   stop deadline.
//! * A worker that is over one of its group's [`LifeLimits`] gets a new process as if somebody had
//!   asked for a restart, which is no death.
//! * [`Operation::Reload`] starts a new generation, worker by worker, under the rules of the group's
//!   [`ReloadPolicy`]. The first new process of each group is its canary: its old process is told to
//!   stop, and others are started, when it has been ready for the canary time. Each of the others takes
//!   over as soon as it is ready. The generation is proven when all its workers are ready. The first
//!   new process that ends before that, and within the canary time of its own, takes the whole
//!   generation back: new processes end, workers that were replaced already return to the generation
//!   before, and every caller is told the reason. A worker that dies before its turn returns as the old generation, because
//!   that one is known to work. There is one reload at a time, and none during the initial start.
//! * [`Operation::Restart`] replaces one worker when its new process is proven, [`Operation::Resize`] starts
//!   and stops workers at any time. Each change is answered once; one that fails leaves the pool as it
//!   was. One that succeeds is true when it is answered: after a reload all workers that serve are of the
//!   new generation, after a restart another process serves, after a resize all workers are ready.
//! * While the system is short of what a process needs ([`Event::SpawnFailed`]) changes wait, for as long
//!   as a process may take to become ready; those that are to be replaced serve on. After that the change
//!   has failed, and the way back is tried until one generation serves.
//! * Where programs have sockets of their own ([`listen_each`](crate::Workers::listen_each)), a process that
//!   is not wanted any more shows as [`State::Stopping`], and gets no new connections, for a while before it
//!   is told to stop; longer while [`Event::Backlog`] says that some wait for it.
//! * [`Event::Stop`] asks every process to end, and kills what is left at the stop deadline;
//!   nothing is started any more. So does a failure of the start, of a group or of the master.
//! * [`Action::Done`] comes once, when no process is left, and says how it went.
//!
//! [`simulation`] lets a pool run without processes, for tests of one's own settings.
//!
//! # Examples
//!
//! A worker dies and comes back:
//!
//! ```
//! use std::time::Duration;
//! use release_core::supervise::{
//!     Action, Event, ExitStatus, GroupSpec, LifeLimits, Moment, Pool, Ready, ReloadPolicy, RestartPolicy, WorkerId,
//! };
//!
//! let group = GroupSpec {
//!     name: "web".to_owned(),
//!     size: 1,
//!     restart: RestartPolicy::default(),
//!     reload: ReloadPolicy::default(),
//!     life: LifeLimits::default(),
//!     ready: Ready::Message,
//! };
//! let mut pool = Pool::new(vec![group], Duration::from_secs(10), 42);
//! let (id, start) = (WorkerId(0), Moment::START);
//! let mut actions = Vec::new();
//!
//! pool.on(Event::Start, start, &mut actions);
//! assert_eq!(actions, [Action::Spawn { id, generation: 1 }]);
//! pool.on(Event::Spawned { id, pid: 100 }, start, &mut actions);
//! pool.on(Event::Ready { id, pid: 100 }, start, &mut actions);
//! assert!(actions.contains(&Action::AllReady));
//!
//! // A second later it dies, which is early: the first time it comes back at once.
//! let death = start + Duration::from_secs(1);
//! pool.on(Event::Exited { id, pid: 100, exit: ExitStatus::Code(3) }, death, &mut actions);
//! assert_eq!(actions.last(), Some(&Action::Spawn { id, generation: 1 }));
//!
//! // The second early death in a row is followed by a delay of 100 to 200 milliseconds.
//! pool.on(Event::Spawned { id, pid: 101 }, death, &mut actions);
//! pool.on(Event::Ready { id, pid: 101 }, death, &mut actions);
//! pool.on(Event::Exited { id, pid: 101, exit: ExitStatus::Code(3) }, death, &mut actions);
//! let due = pool.deadline().expect("a restart is due");
//! assert!((100..=200).contains(&(due - death).as_millis()));
//!
//! actions.clear();
//! pool.on(Event::Tick, due, &mut actions);
//! assert_eq!(actions, [Action::Spawn { id, generation: 1 }]);
//! ```

// Tests panic to fail; clippy takes them for functions with undocumented panics.
#![cfg_attr(test, allow(clippy::missing_panics_doc))]

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

pub use event::{Action, Event, Operation, RequestId, Signal};
pub use group::{GroupSpec, Ready};
pub use life::{Excess, LifeLimits, Usage};
pub use moment::Moment;
pub use policy::{Exceeded, ReloadPolicy, Respawn, RestartPolicy};
pub use pool::Pool;
pub(crate) use pool::snapshot::Snapshot;
pub use report::{KillReason, Outcome, Report, StopCause, WorkerStatus};

pub use crate::sys::exit_status::ExitStatus;
pub use crate::worker_types::{Hung, State, WorkerId};
