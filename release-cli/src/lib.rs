//! The programs `release` and `socketmaster`: any program gets workers, readiness and restarts
//! without downtime.
//!
//! They run on the runtime that `release-core` carries itself, without threads.

#![forbid(unsafe_code)]

mod arguments;
mod ctl;
mod daemon;
mod generated;
mod output;
mod probe;
mod run;
mod socketmaster;
mod variables;

pub use arguments::release;
pub use socketmaster::socketmaster;
