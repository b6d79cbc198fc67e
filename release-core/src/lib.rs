//! Runtime-agnostic framework for multi-process daemons on Unix.

mod error;
pub mod rt;
pub mod supervise;
mod sys;

pub use error::{Error, ErrorKind};
