//! Supervision: who runs.
//!
//! [`Pool`] decides, and does nothing: it is told what happened ([`Event`]) and when, and says what
//! is to be done ([`Action`]). It holds no clock, no process and no descriptor, so every rule can be
//! tried in a simulation, and a history replayed gives the same actions again.
//!
//! A pool wants a process for each of its workers until it is stopped, and converges to that. After
//! every event it compares each worker with what is wanted of it and takes one step. It promises:
//!
//! * A worker never has two processes: the next one is asked for when the last one was reaped.
//! * Every death is noticed once; news of a process that was replaced is ignored.
//! * A worker that dies comes back under the rules of its group's [`RestartPolicy`]: at once after a
//!   healthy life, otherwise with growing delays, without ever giving up silently.
//! * A worker that is not ready in time, or breaks the protocol, is killed and comes back alike.
//! * [`Event::Stop`] asks every process to end, and kills what is left at the stop deadline;
//!   nothing is started any more. So does a failure of the start, of a group or of the master.
//! * [`Action::Done`] comes once, when no process is left, and says how it went.
//!
//! # Examples
//!
//! A worker without a process dies and comes back:
//!
//! ```
//! use std::time::{Duration, Instant};
//! use release_core::supervise::{Action, Event, Exit, GroupSpec, Pool, Ready, RestartPolicy, WorkerId};
//!
//! let group = GroupSpec {
//!     name: "web".to_owned(),
//!     size: 1,
//!     policy: RestartPolicy::default(),
//!     ready: Ready::Message,
//! };
//! let mut pool = Pool::new(vec![group], Duration::from_secs(10), 42);
//! let (id, start) = (WorkerId(0), Instant::now());
//! let mut actions = Vec::new();
//!
//! pool.on(Event::Start, start, &mut actions);
//! assert_eq!(actions, [Action::Spawn { id }]);
//! pool.on(Event::Spawned { id, pid: 100 }, start, &mut actions);
//! pool.on(Event::Ready { id, pid: 100 }, start, &mut actions);
//! assert!(actions.contains(&Action::AllReady));
//!
//! // A second later it dies, which is early: it comes back after 100 to 200 milliseconds.
//! let death = start + Duration::from_secs(1);
//! pool.on(Event::Exited { id, pid: 100, exit: Exit::Code(3) }, death, &mut actions);
//! let due = pool.deadline().expect("a restart is due");
//! assert!((100..=200).contains(&(due - death).as_millis()));
//!
//! actions.clear();
//! pool.on(Event::Tick, due, &mut actions);
//! assert_eq!(actions, [Action::Spawn { id }]);
//! ```

// Tests panic to fail; clippy takes them for functions with undocumented panics.
#![cfg_attr(test, allow(clippy::missing_panics_doc))]

pub(crate) mod drive;
mod event;
mod exit;
mod group;
mod intensity;
mod jitter;
mod orphans;
mod policy;
mod pool;
mod status;
#[cfg(test)]
mod tests;
mod worker;

pub use event::{Action, Event, KillReason, Outcome, Report, Signal, WorkerId};
pub use exit::Exit;
pub use group::{GroupSpec, Ready};
pub use policy::{Exceeded, RestartPolicy};
pub use pool::Pool;
pub use status::{State, WorkerStatus};
