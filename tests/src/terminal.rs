//! A pseudo terminal, and programs in its foreground.

use std::fs::File;
use std::io::Write;
use std::process::Stdio;

use nix::pty::{OpenptyResult, openpty};

use crate::Program;

/// A pseudo terminal, from outside.
#[derive(Debug)]
pub struct Terminal {
    outside: File,
    inside: File,
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl Terminal {
    /// What starts a program as the leader of a session whose terminal is its standard input.
    pub const LAUNCHER: [&str; 3] = ["setsid", "--ctty", "--wait"];

    /// One that nobody uses yet.
    #[must_use]
    pub fn new() -> Self {
        let OpenptyResult { master, slave } = openpty(None, None).expect("a pseudo terminal");
        Self { outside: master.into(), inside: slave.into() }
    }

    /// Makes it the terminal of a program that [`LAUNCHER`](Terminal::LAUNCHER) starts.
    #[must_use]
    pub fn give_to(&self, program: Program) -> Program {
        let inside = self.inside.try_clone().expect("a duplicate");
        program.with(|command| {
            command.stdin(Stdio::from(inside));
        })
    }

    /// Types.
    pub fn type_in(&mut self, keys: &str) {
        self.outside.write_all(keys.as_bytes()).expect("it is read");
    }
}
