//! `socketmaster`: one program behind sockets that outlive it.

use std::process::ExitCode;

/// The program `socketmaster`.
#[must_use]
pub fn socketmaster() -> ExitCode {
    eprintln!("socketmaster: not built yet");
    ExitCode::from(2)
}
