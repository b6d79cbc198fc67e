//! Multi-process daemons for Linux, in one dependency: the core and the backend that you choose.
//!
//! ```toml
//! [dependencies]
//! release-rs = { version = "0.1", features = ["tokio"] } # or "smol", or "async-std"
//! serde = { version = "1", features = ["derive"] }
//! ```
//!
//! The package is `release-rs`, the library is `release`. The following program is a daemon with two
//! workers; `SIGHUP` replaces them without downtime, and `SIGTERM` stops everything in order:
//!
#![cfg_attr(any(feature = "tokio", feature = "smol", feature = "async-std"), doc = "```no_run")]
#![cfg_attr(
    not(any(feature = "tokio", feature = "smol", feature = "async-std")),
    doc = "```ignore"
)]
//! use release::ipc::{CallError, Request};
//! use release::{Exit, Master, Me, Workers, driver, is_worker, me};
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
//!     // The same executable is the master or a worker, depending on how it was started.
//!     if is_worker() { me().run(driver, worker) } else { master() }
//! }
//!
//! fn master() -> Exit {
//!     let workers = Workers::same_executable("greeter", 2)
//!         .answer(|worker, Hello(text)| async move { Ok(format!("{text}, worker {}", worker.id)) });
//!     Master::new().workers(workers).run(driver)
//! }
//!
//! async fn worker(me: Me<(), Hello>) -> Result<(), CallError> {
//!     eprintln!("{}", me.master().call(&Hello("hello".into())).await?);
//!     me.ready()?;
//!     me.stopping().await;
//!     Ok(())
//! }
//! ```
//!
//! # Features
//!
//! | feature | adds | default |
//! |---|---|---|
//! | `tokio` | `driver` and `Tokio` | no |
//! | `smol` | `driver` and `Smol` | no |
//! | `async-std` | `driver` and `AsyncStd`; async-std is discontinued | no |
//! | `config` | `config`: configuration files | yes |
//! | `log` | `log`: events on standard error or in syslog | yes |
//! | `http` | `http`: HTTP/1 and HTTP/2 servers in workers, for hyper, tower and axum; `Master::http`: a status page | no |
//! | `conformance` | `rt::conformance`: tests for a runtime of your own | no |
//! | `testing` | `testing`: a kit for the tests of your daemon | no |
//!
//! Without a backend your program runs on [`rt::local`], or on a [`rt::Runtime`] of its own.
//!
//! Cargo unites the features of all crates in a build, so several backends may be enabled. All names at
//! the top of this crate then come from the first of tokio, smol and async-std. A program that must not
//! depend on it names its backend: `release::backend::smol::driver`.

#![forbid(unsafe_code)]

/// The enabled backends, each under its own name.
///
/// # Examples
///
#[cfg_attr(feature = "tokio", doc = "```")]
#[cfg_attr(not(feature = "tokio"), doc = "```ignore")]
/// use release::backend::tokio::Tokio;
/// use release::rt::run;
///
/// // On tokio, even if another crate of the build has enabled another backend.
/// assert_eq!(run(&Tokio::current_thread()?, async { 42 }), 42);
/// # Ok::<(), std::io::Error>(())
/// ```
pub mod backend {
    #[cfg(feature = "async-std")]
    #[doc(no_inline)]
    pub use release_async_std as async_std;
    #[cfg(feature = "smol")]
    #[doc(no_inline)]
    pub use release_smol as smol;
    #[cfg(feature = "tokio")]
    #[doc(no_inline)]
    pub use release_tokio as tokio;
}

#[cfg(all(feature = "async-std", not(any(feature = "tokio", feature = "smol"))))]
pub use release_async_std::*;
#[cfg(not(any(feature = "tokio", feature = "smol", feature = "async-std")))]
pub use release_core::*;
#[cfg(all(feature = "smol", not(feature = "tokio")))]
pub use release_smol::*;
#[cfg(feature = "tokio")]
pub use release_tokio::*;

/// The README's code, compiled.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../README.md")]
struct Readme;
