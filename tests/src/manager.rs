//! `release run`, as most of its tests start it.

use std::net::SocketAddr;
use std::process::Command;

use release_core::testing::Load;

use crate::{CLIENTS, Program, Running, control, free_port, http_client};

impl Program {
    /// `release run` with a control socket; its command is still to come.
    #[must_use]
    pub fn manager(options: &[&str]) -> Self {
        Self::release().args(["run", "--control", "control"]).args(options).args(["--"])
    }

    /// Its command is a line of the shell.
    #[must_use]
    pub fn manager_of_shell(options: &[&str], line: &str) -> Self {
        Self::manager(options).args(["sh", "-c", line])
    }
}

impl Running {
    /// `release run` with workers in Python that serve a port.
    #[must_use]
    pub fn manager(options: &[&str], how: &str, end: &str, workers: usize) -> (Self, SocketAddr) {
        let address = free_port();
        let (listen, count) = (format!("tcp://{address}"), workers.to_string());
        let own = ["--listen", &listen, "--workers", &count, "--stop-signal", end];
        let program = Program::manager(&[&own, options].concat());
        let running = program.any_worker(how, end).start();
        running.await_ready(workers);
        (running, address)
    }

    /// Reloads so many times under load, and fails the test for every request that is lost.
    #[track_caller]
    pub fn reload_under_load(&self, address: SocketAddr, times: usize) {
        let load = Load::start(CLIENTS, |number| http_client(number, address));
        for _ in 0..times {
            assert_eq!(control(&self.control(), "reload"), "ok");
        }
        let lost = load.stop().lost_nothing();
        assert!(lost.is_ok(), "{lost:?}; {}", self.stderr());
    }

    /// `release ctl` with its control socket: exit code, standard output and standard error.
    #[must_use]
    pub fn ctl(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(Program::release_path())
            .args(["ctl", "--control"])
            .arg(self.control())
            .args(arguments)
            .output()
            .expect("release ctl");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }
}
