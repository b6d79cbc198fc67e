//! A service that orders are given to.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use release_tests::{Backend, Installed, Process, Program, Running, free_port, try_control};
use serde_json::Value;

use super::logs::Logs;

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    /// The example `service`, with a configuration file.
    Service(Backend),
    /// `release run` with workers in Python, with a file of options.
    Manager,
}

/// One that runs, from an executable that can be replaced.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) running: Running,
    pub(crate) address: SocketAddr,
    installed: Installed,
    subject: Subject,
}

/// What it says of itself.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) generation: u64,
    /// Identity, process and generation of each worker that is ready.
    pub(crate) ready: Vec<(u64, i64, u64)>,
    /// The number of workers, ready or not.
    pub(crate) workers: usize,
    pub(crate) draining: u64,
    text: String,
}

impl Subject {
    fn installed(self) -> Installed {
        match self {
            Self::Service(backend) => Installed::new(backend, "service"),
            Self::Manager => Installed::cli(),
        }
    }

    pub(crate) fn start(self, workers: u64) -> Service {
        let installed = self.installed();
        let address = free_port();
        let program = installed.program();
        let file = program.path("settings");
        fs::write(&file, Service::settings(workers)).expect("a file");
        fs::write(program.path("behave"), "log").expect("a file");
        let program = match self {
            Self::Service(_) => program
                .args(["--control", "control", "--config", "settings"])
                .args(["--access-log", "out", "--error-log", "err"])
                .args(["--listen", &address.to_string()]),
            Self::Manager => program
                .args(["run", "--control", "control", "--config", "settings", "--ready", "notify"])
                .args(["--out", "out", "--err", "err"])
                .args(["--listen", &format!("tcp://{address}"), "--"])
                .any_worker("notify", "TERM"),
        };
        let service = Service { running: program.start(), address, installed, subject: self };
        service.running.await_ready(usize::try_from(workers).expect("a number"));
        service
    }
}

impl Service {
    fn settings(workers: u64) -> String {
        format!("workers = {workers}\n")
    }

    /// Changes the number of workers in its file.
    pub(crate) fn write_settings(&self, workers: u64) {
        self.write(&Self::settings(workers));
    }

    /// Makes its file one that must be refused; returns what it was.
    pub(crate) fn write_nonsense(&self) -> String {
        let before = fs::read_to_string(self.running.path("settings")).expect("a file");
        self.write("workers = many\n");
        before
    }

    pub(crate) fn write(&self, text: &str) {
        // In one step: half a file is another fault.
        let new = self.running.path("settings.new");
        fs::write(&new, text).expect("a file");
        fs::rename(new, self.running.path("settings")).expect("it is replaced");
    }

    /// Installs the same version anew.
    pub(crate) fn install(&self) {
        match self.subject {
            Subject::Service(backend) => self.installed.install(&backend.program("service")),
            Subject::Manager => self.installed.install(&Program::release_path()),
        }
    }

    /// Installs a version that cannot take over.
    pub(crate) fn install_broken(&self) {
        self.installed.install_script("exit 3");
    }

    /// Whether the master runs the version that was installed last.
    pub(crate) fn is_installed(&self) -> bool {
        self.installed.is_run_by(self.running.process())
    }

    /// What it has written so far.
    pub(crate) fn log(&self, logs: &Logs) -> String {
        self.running.stderr() + &logs.text(&self.running)
    }

    /// The sockets that its workers are told of.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        let workers = self.running.workers().into_iter().flat_map(Process::environment);
        let named = workers.filter_map(|entry| {
            let (name, value) = entry.split_once('=')?;
            ["NOTIFY_SOCKET", "EINHORN_SOCK_PATH"].contains(&name).then(|| PathBuf::from(value))
        });
        named.collect()
    }

    pub(crate) fn ask(&self, order: &str) -> String {
        let answer = try_control(&self.running.control(), order);
        answer.unwrap_or_else(|error| format!("no answer: {error}"))
    }

    #[track_caller]
    pub(crate) fn status(&self, logs: &Logs) -> Status {
        let text = self.ask("status");
        let status = Status::parse(&text);
        status.unwrap_or_else(|| panic!("the status is {text:?}; log:\n{}", self.log(logs)))
    }
}

impl Status {
    fn parse(text: &str) -> Option<Self> {
        let status: Value = serde_json::from_str(text).ok()?;
        let workers = status["workers"].as_array().expect("workers");
        let is_ready = |worker: &&Value| worker["state"] == "ready";
        let number = |value: &Value| value.as_u64().expect("a number");
        let each = |worker: &Value| {
            let pid = worker["pid"].as_i64().expect("a process");
            (number(&worker["id"]), pid, number(&worker["generation"]))
        };
        Some(Self {
            generation: number(&status["generation"]),
            ready: workers.iter().filter(is_ready).map(each).collect(),
            workers: workers.len(),
            draining: workers.iter().map(|worker| number(&worker["draining"])).sum(),
            text: text.to_owned(),
        })
    }

    pub(crate) fn processes(&self) -> HashSet<i64> {
        self.ready.iter().map(|(_, pid, _)| *pid).collect()
    }

    pub(crate) fn process_of(&self, id: u64) -> Option<i64> {
        self.ready.iter().find(|(ready, ..)| *ready == id).map(|(_, pid, _)| *pid)
    }

    /// Whether all workers are ready and of one generation, and none has a process that is left over.
    pub(crate) fn is_calm(&self) -> bool {
        let is_new = |(_, _, generation): &(u64, i64, u64)| *generation == self.generation;
        self.ready.len() == self.workers && self.draining == 0 && self.ready.iter().all(is_new)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.text)
    }
}
