//! The sandbox of the workers.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use release_core::Sandbox;

/// How much is forbidden before anything is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Strictness {
    #[default]
    None,
    Basic,
    Strict,
}

impl FromStr for Strictness {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "basic" => Ok(Self::Basic),
            "strict" => Ok(Self::Strict),
            _ => Err("it is strict, basic or none".to_owned()),
        }
    }
}

/// What workers may do.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Restrictions {
    /// What the kernel keeps workers from: strict, basic or none, see below [default: none]
    #[arg(long, value_name = "HOW")]
    pub(super) sandbox: Option<Strictness>,
    /// A file or directory that workers may read; no others but those of the system
    #[arg(long, value_name = "PATH")]
    pub(super) read: Vec<PathBuf>,
    /// A file or directory that workers may read and change
    #[arg(long, value_name = "PATH")]
    pub(super) write: Vec<PathBuf>,
    /// A program that workers may run, such as the interpreter of a script, or a directory of programs
    #[arg(long, value_name = "PATH")]
    pub(super) execute: Vec<PathBuf>,
    /// A TCP port that workers may connect to; no others
    #[arg(long, value_name = "PORT")]
    pub(super) connect: Vec<u16>,
    /// A TCP port that workers may listen at, beside the sockets of --listen; no others
    #[arg(long, value_name = "PORT")]
    pub(super) bind: Vec<u16>,
    /// Gives each worker an empty /tmp and /var/tmp that no other process sees; for a root master
    #[arg(long)]
    pub(super) private_tmp: bool,
    /// A capability that workers keep, such as NET_BIND_SERVICE
    #[arg(long, value_name = "NAME")]
    pub(super) keep_cap: Vec<String>,
    /// Kills a worker that makes a forbidden system call; otherwise the call fails
    #[arg(long)]
    pub(super) sandbox_kill: bool,
    /// Leaves out what this kernel cannot enforce, which `release ctl status` shows, instead of an error
    #[arg(long)]
    pub(super) sandbox_best_effort: bool,
}

impl Restrictions {
    /// Returns the sandbox, if there is one.
    pub(crate) fn sandbox(&self) -> Option<Sandbox> {
        let is_named = !(self.read.is_empty()
            && self.write.is_empty()
            && self.execute.is_empty()
            && self.connect.is_empty()
            && self.bind.is_empty()
            && self.keep_cap.is_empty()
            && !self.private_tmp
            && !self.sandbox_kill);
        let mut sandbox = match self.sandbox.unwrap_or_default() {
            Strictness::None if !is_named => return None,
            Strictness::None => Sandbox::new(),
            Strictness::Basic => Sandbox::basic(),
            Strictness::Strict => Sandbox::strict(),
        };
        sandbox = self.read.iter().fold(sandbox, Sandbox::read);
        sandbox = self.write.iter().fold(sandbox, Sandbox::write);
        sandbox = self.execute.iter().fold(sandbox, Sandbox::execute);
        sandbox = self.connect.iter().fold(sandbox, |sandbox, port| sandbox.connect_tcp(*port));
        sandbox = self.bind.iter().fold(sandbox, |sandbox, port| sandbox.bind_tcp(*port));
        sandbox = self.keep_cap.iter().fold(sandbox, Sandbox::keep_capability);
        if self.private_tmp {
            sandbox = sandbox.private_tmp();
        }
        if self.sandbox_kill {
            sandbox = sandbox.kill_on_violation();
        }
        if self.sandbox_best_effort {
            sandbox = sandbox.best_effort();
        }
        Some(sandbox)
    }

    /// Fills what is not said here from other settings.
    pub(super) fn or(self, other: Self) -> Self {
        fn list<T>(own: Vec<T>, other: Vec<T>) -> Vec<T> {
            if own.is_empty() { other } else { own }
        }
        Self {
            sandbox: self.sandbox.or(other.sandbox),
            read: list(self.read, other.read),
            write: list(self.write, other.write),
            execute: list(self.execute, other.execute),
            connect: list(self.connect, other.connect),
            bind: list(self.bind, other.bind),
            keep_cap: list(self.keep_cap, other.keep_cap),
            private_tmp: self.private_tmp || other.private_tmp,
            sandbox_kill: self.sandbox_kill || other.sandbox_kill,
            sandbox_best_effort: self.sandbox_best_effort || other.sandbox_best_effort,
        }
    }
}
