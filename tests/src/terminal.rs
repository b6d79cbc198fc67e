//! Programs on a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{OpenptyResult, Winsize, openpty};

use crate::{Program, Running, eventually};

/// A terminal of 24 lines of 80 characters, and what a person has typed and seen there.
///
/// What programs print is taken when somebody looks: [`text`](Terminal::text). A terminal that nobody looks
/// at is full some time.
#[derive(Debug)]
pub struct Terminal {
    person: File,
    program: OwnedFd,
    seen: Vec<u8>,
}

impl Terminal {
    /// What starts a program as the leader of a session whose terminal is its standard input.
    pub const LAUNCHER: [&str; 3] = ["setsid", "--ctty", "--wait"];

    /// A terminal that no program has yet.
    #[must_use]
    pub fn new() -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).expect("a terminal");
        for end in [&master, &slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("nobody inherits it");
        }
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("it does not wait");
        Self { person: master.into(), program: slave, seen: Vec::new() }
    }

    /// Starts a program whose standard input, output and error it is. A launcher such as
    /// `setsid --ctty` makes it the one that signals of the keyboard come from.
    #[must_use]
    pub fn start(&self, program: Program) -> Running {
        let end = || Stdio::from(self.program.try_clone().expect("a descriptor"));
        let on_it = program.with(|command| {
            command.stdin(end()).stdout(end()).env("TERM", "xterm").env_remove("NO_COLOR");
        });
        on_it.start_with(end())
    }

    /// Makes it the terminal of a program that [`LAUNCHER`](Terminal::LAUNCHER) starts.
    #[must_use]
    pub fn give_to(&self, program: Program) -> Program {
        let input = self.program.try_clone().expect("a duplicate");
        program.with(|command| {
            command.stdin(Stdio::from(input));
        })
    }

    /// Types.
    pub fn type_in(&mut self, keys: &str) {
        self.person.write_all(keys.as_bytes()).expect("it is read");
    }

    /// Everything that was printed so far.
    pub fn text(&mut self) -> String {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = self.person.read(&mut bytes) {
            self.seen.extend_from_slice(&bytes[..count]);
        }
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Waits until this is printed.
    #[track_caller]
    pub fn shows(&mut self, text: &str) {
        eventually(&format!("the terminal shows {text:?}"), || self.text().contains(text));
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}
