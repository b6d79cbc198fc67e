//! Runtime-agnostic framework for multi-process daemons on Unix.
//!
//! A privileged master process binds sockets, keeps secrets and supervises a pool of unprivileged workers.
//! Master and workers exchange typed messages. Use one of the backend crates (`release-tokio`,
//! `release-smol`, `release-async-std`): each contains all of this crate and a `driver`, and its name takes
//! the place of `release_core` in these examples. They run on [`rt::local`], the runtime that is always
//! available:
//!
//! ```no_run
//! use release_core::ipc::{CallError, Request};
//! use release_core::rt::local::Local;
//! use release_core::{Exit, Master, Me, Workers, is_worker, log, me};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Hello(String);
//!
//! impl Request for Hello {
//!     type Response = String;
//! }
//!
//! fn main() -> Exit {
//!     // Without a log, only warnings and errors appear.
//!     if let Err(error) = log::stderr() {
//!         return error.into();
//!     }
//!     if is_worker() { me().run(Local::new, worker) } else { master() }
//! }
//!
//! fn master() -> Exit {
//!     let workers = Workers::same_executable("greeter", 2)
//!         .user("nobody")
//!         .answer(|worker, Hello(text)| async move { Ok(format!("{text}, worker {}", worker.id)) });
//!     Master::new().workers(workers).run(Local::new)
//! }
//!
//! async fn worker(me: Me<(), Hello>) -> Result<(), CallError> {
//!     tracing::info!("{}", me.master().call(&Hello("hello".into())).await?);
//!     me.ready()?;
//!     me.stopping().await;
//!     Ok(())
//! }
//! ```
//!
//! | to | see |
//! |---|---|
//! | describe and run a master | [`Master`], [`Workers`], [`WorkerOptions`] |
//! | restrict workers | [`Sandbox`] |
//! | be a worker | [`is_worker`], [`me`], [`Me`] |
//! | control a running master | [`MasterHandle`], [`ControlSocket`] |
//! | exchange messages | [`ipc`], [`Decision`] |
//! | call workers of another group | [`Channel`], [`Workers::channel_to`] |
//! | have jobs done by any worker | [`jobs`] |
//! | count, and be measured | [`metrics`], [`MasterHandle::metrics`] |
//! | set supervision policies, and simulate them | [`supervise`], [`supervise::simulation`] |
//! | accept and connect | [`net`], [`buffer`], [`bytes`] |
//! | serve HTTP | `http` (with the feature `http`) |
//! | read a configuration | [`config`] |
//! | be a daemon without workers | [`Daemon`] |
//! | use another executor | [`rt`] |
//! | test your daemon | `testing` (with the feature `testing`) |
//!
//! `docs/FEATURES.md` lists every feature, its place in the code, and its tests. The wire format and many
//! of the ideas come from the OCaml library Release; its programs and programs of this library can talk to
//! each other.

#![deny(clippy::print_stdout, clippy::print_stderr)]

#[cfg(not(target_os = "linux"))]
compile_error!("Release for Rust runs on Linux only");

// First: the other modules use its macros.
#[cfg(target_os = "linux")]
#[macro_use]
mod unlogged;

#[cfg(target_os = "linux")]
mod accounts;
#[cfg(target_os = "linux")]
pub mod buffer;
#[cfg(target_os = "linux")]
pub mod bytes;
#[cfg(all(test, target_os = "linux"))]
mod cases;
#[cfg(feature = "config")]
#[cfg(target_os = "linux")]
pub mod config;
#[cfg(target_os = "linux")]
mod daemonize;
#[cfg(target_os = "linux")]
mod entry;
#[cfg(target_os = "linux")]
mod error;
#[cfg(target_os = "linux")]
mod exit;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
#[cfg(target_os = "linux")]
pub mod fuzzing;
#[cfg(target_os = "linux")]
mod guard;
#[cfg(feature = "http")]
#[cfg(target_os = "linux")]
pub mod http;
#[cfg(target_os = "linux")]
pub mod ipc;
#[cfg(target_os = "linux")]
pub mod jobs;
#[cfg(target_os = "linux")]
mod kept;
#[cfg(feature = "log")]
#[cfg(target_os = "linux")]
pub mod log;
#[cfg(target_os = "linux")]
mod log_throttle;
#[cfg(target_os = "linux")]
mod master;
#[cfg(target_os = "linux")]
pub mod metrics;
#[cfg(target_os = "linux")]
pub mod net;
#[cfg(target_os = "linux")]
mod path;
#[cfg(target_os = "linux")]
mod predecessor;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
pub mod rt;
#[cfg(target_os = "linux")]
mod sandbox;
#[cfg(target_os = "linux")]
mod signals;
#[cfg(target_os = "linux")]
mod start_files;
#[cfg(target_os = "linux")]
mod stopping;
#[cfg(target_os = "linux")]
mod streams;
#[cfg(target_os = "linux")]
pub mod supervise;
#[cfg(target_os = "linux")]
mod sys;
#[cfg(target_os = "linux")]
pub mod systemd;
#[cfg(feature = "testing")]
#[cfg(target_os = "linux")]
pub mod testing;
#[cfg(target_os = "linux")]
mod trusted;
#[cfg(target_os = "linux")]
mod worker;
#[cfg(target_os = "linux")]
mod worker_types;

#[cfg(target_os = "linux")]
pub use daemonize::{Daemon, Detached, Exec};
#[cfg(target_os = "linux")]
pub use error::{Error, ErrorKind};
#[cfg(target_os = "linux")]
pub use exit::Exit;
#[cfg(target_os = "linux")]
pub use master::{
    BoundControlSocket, ChildCommand, ChildHandle, ClaimedChild, CommandError, ControlCommand,
    ControlSocket, DeathReport, EventBatch, EventKind, Events, Master, MasterHandle, MasterSignal,
    ServiceEvent, Settings, SignalAction, StatusReport, WorkerReport, WorkerState, Workers,
    claim_child, handed_over,
};
#[cfg(target_os = "linux")]
pub use net::Credentials;
#[cfg(target_os = "linux")]
pub use process::{
    Connections, Decision, Environment, OutputFormat, OutputStream, Readiness, Recipients,
    Resource, StopSignal, WorkerInfo, WorkerOptions, WorkerSignal,
};
#[cfg(target_os = "linux")]
pub use sandbox::Sandbox;
#[doc(hidden)]
#[cfg(target_os = "linux")]
pub use sandbox::{Victims, attempt_all};
#[cfg(target_os = "linux")]
pub use start_files::{look_up_to_start, read_to_start};
#[cfg(target_os = "linux")]
pub use stopping::Stopping;
#[cfg(target_os = "linux")]
pub use streams::printable::printable;
#[doc(hidden)]
#[cfg(target_os = "linux")]
pub use trusted::check_for_root;
#[cfg(target_os = "linux")]
pub use worker::{Channel, HandOnError, Me, NotHandedOn, PlainMe, Work, Worker, is_worker, me};
