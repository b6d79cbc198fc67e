//! What the tests share: programs on every backend, waiting with a deadline, and looking at
//! processes from outside.

#![allow(clippy::missing_panics_doc, clippy::missing_errors_doc, clippy::expect_used)]

mod account;
mod any_worker;
mod cli;
mod client;
mod daemon;
mod hostile;
mod in_process;
mod installed;
mod load;
mod manager;
mod passing;
mod probe;
mod proc;
mod program;
mod reloads;
pub mod servers;
mod source;
mod spoil;
mod terminal;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

pub use account::Account;
pub use cli::release_open_to_all;
pub use client::{
    Answer, ControlClient, GET, HttpClient, connect, control, http_get, http_get_text, read_until,
    rest, try_control, try_http_get,
};
pub use daemon::{Daemon, open_to_all};
pub use hostile::{AT_ONCE, Footprint, Noise, Target, frames, knows_refusals, send_descriptors};
pub use in_process::{in_process, poll_once, run_on};
pub use installed::Installed;
pub use load::{CLIENTS, http_client, load};
pub use passing::{Descriptor, Pass, Passed, Passing, Witness, connect_end, copy, hostile, pass};
pub use proc::{Process, children, is_alive, processes, zombies};
pub use program::{Backend, Program, Running, WITHOUT_INHERITED, free_port};
pub use reloads::{Connections, Count};
pub use source::source;
pub use spoil::{answers_at_path, no_delays_of, shut_listeners_down};
pub use terminal::Terminal;

/// How long anything may take before a test says that it does not happen.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for something to be so, and says what when it does not come true.
#[track_caller]
pub fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < deadline, "did not happen within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the test may do what only root may; a test that may not says that it was skipped.
#[must_use]
pub fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: {test} needs root");
    }
    root
}

/// Whether a program is there, by how it says its version; says so when a test is skipped for it.
#[must_use]
pub fn has(program: &str, version: &str) -> bool {
    let found =
        Command::new(program).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Whether system calls can be made slow or to fail here; says so when a test is skipped for it.
#[must_use]
pub fn can_inject(test: &str) -> bool {
    let strace = Command::new("strace")
        .args(["-e", "inject=chroot:error=EPERM", "true"])
        .stderr(Stdio::null())
        .status();
    let works = strace.is_ok_and(|status| status.success());
    if !works {
        eprintln!("skipped: {test} needs strace");
    }
    works
}

/// Replaces a file in one step: nobody reads a part of it.
pub fn replace_file(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("it is written");
    fs::rename(&new, path).expect("it is replaced");
}

/// Lets this test process open enough descriptors for the tests that run in it at the same time, also where
/// a shell has a low limit.
pub fn take_descriptors() {
    const ENOUGH: rlim_t = 4096;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if soft < ENOUGH.min(hard) {
        setrlimit(Resource::RLIMIT_NOFILE, ENOUGH.min(hard), hard).expect("up to the hard limit");
    }
}

/// Runs a test once for each backend, each as a test of its own.
///
/// ```ignore
/// on_every_backend! {
///     fn answers(backend: Backend) { ... }
/// }
/// ```
#[macro_export]
macro_rules! on_every_backend {
    ($($(#[$attribute:meta])* fn $name:ident($backend:ident: Backend) $body:block)*) => {$(
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn check($backend: $crate::Backend) {
                $crate::take_descriptors();
                $body
            }

            $(#[$attribute])*
            #[test]
            fn tokio() { check($crate::Backend::Tokio); }

            $(#[$attribute])*
            #[test]
            fn smol() { check($crate::Backend::Smol); }

            $(#[$attribute])*
            #[test]
            fn async_std() { check($crate::Backend::AsyncStd); }
        }
    )*};
}

/// Runs a test on all backends at the same time, as one test: for tests that wait for the most part.
///
/// A test program runs as many tests at a time as there are processors, also while these sleep.
///
/// ```ignore
/// on_all_backends_at_once! {
///     fn waits_for_a_minute(backend: Backend) { ... }
/// }
/// ```
#[macro_export]
macro_rules! on_all_backends_at_once {
    ($($(#[$attribute:meta])* fn $name:ident($backend:ident: Backend) $body:block)*) => {$(
        $(#[$attribute])*
        #[test]
        fn $name() {
            fn check($backend: $crate::Backend) {
                $body
            }
            $crate::at_once(check);
        }
    )*};
}

/// Runs a check on all backends at the same time, and says on which ones it failed.
#[track_caller]
pub fn at_once(check: fn(Backend)) {
    take_descriptors();
    let all = [Backend::Tokio, Backend::Smol, Backend::AsyncStd];
    let failed = std::thread::scope(|scope| {
        let running = all.map(|backend| (backend, scope.spawn(move || check(backend))));
        running.map(|(backend, check)| check.join().is_err().then_some(backend))
    });
    let failed: Vec<_> = failed.into_iter().flatten().collect();
    assert!(failed.is_empty(), "failed on {failed:?}");
}

/// The code of the document, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/CONFIGURATION.md")]
struct Configuration;

/// The README's code, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The code of `docs/DATAGRAMS.md`, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/DATAGRAMS.md")]
struct Datagrams;

/// The code of `docs/JOBS.md`, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/JOBS.md")]
struct Jobs;

/// The code of `docs/CHANNELS.md`, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/CHANNELS.md")]
struct Channels;

/// The code of `docs/CONNECTIONS.md`, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/CONNECTIONS.md")]
struct LiveConnections;

/// The code of the page on HTTP, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/HTTP.md")]
struct Http;

/// The code of `docs/METRICS.md`, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/METRICS.md")]
struct Metrics;

/// The code of `docs/TLS.md`, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/TLS.md")]
struct Tls;

/// The code of `docs/MESSAGES.md`, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/MESSAGES.md")]
struct Messages;

/// The code of `docs/TUTORIAL.md`, compiled; CI runs it as well.
#[cfg(doctest)]
#[doc = include_str!("../../docs/TUTORIAL.md")]
struct Tutorial;

/// The code of `docs/RUNTIMES.md`, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/RUNTIMES.md")]
struct Runtimes;

/// The code of `docs/DEPLOYING.md`, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/DEPLOYING.md")]
struct Deploying;

/// The code of `docs/SANDBOX.md`, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/SANDBOX.md")]
struct Sandbox;

/// The code of `docs/TESTING.md`, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/TESTING.md")]
struct Testing;
