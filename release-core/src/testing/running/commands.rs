//! What a test asks a running program at its control socket.

use std::time::Duration;

use super::{Running, lock};
use crate::testing::{TestFailure, control};
use crate::{ControlCommand, StatusReport, WorkerReport};

impl Running {
    /// Sends a text to the control socket, and returns the answer: for commands of your own.
    ///
    /// # Errors
    ///
    /// Returns an error with the log if the program has no [control socket](crate::testing::Program::control) or does not
    /// answer in time.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::testing::Program;
    ///
    /// let service = Program::new("service").control("control").start()?;
    /// assert_eq!(service.ask("broadcast hello")?, "sent 2");
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn ask(&self, request: &str) -> Result<String, TestFailure> {
        self.asked(request, self.program.deadline).map_err(|why| self.failure(why))
    }

    pub(super) fn asked(&self, request: &str, limit: Duration) -> Result<String, String> {
        let Some(path) = &self.program.control else {
            let way_out = "name its control socket with `Program::control`";
            return Err(format!("cannot send `{request}` to {}: {way_out}", self.program.name));
        };
        control::ask(path, request, limit)
    }

    /// Carries out a command, such as a reload, and waits until it is complete.
    ///
    /// # Errors
    ///
    /// Returns an error if the command is refused or fails, with the reason, and the same errors as
    /// [`ask`](Self::ask).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::ControlCommand;
    /// use release_core::testing::Program;
    ///
    /// let service = Program::new("service").control("control").start()?;
    /// for command in [ControlCommand::Reload, ControlCommand::Scale(3), ControlCommand::Upgrade] {
    ///     service.command(command)?;
    /// }
    /// assert_eq!(service.status()?.ready(), 3);
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn command(&self, command: ControlCommand) -> Result<(), TestFailure> {
        let text = command.to_string();
        match (command, &*self.ask(&text)?) {
            (_, "ok") | (ControlCommand::Ping, "pong") => Ok(()),
            (ControlCommand::Status, answer) if !answer.starts_with("error: ") => Ok(()),
            (_, answer) => {
                let why = answer.strip_prefix("error: ").unwrap_or(answer);
                Err(self.failure(format!("`{text}` failed: {why}")))
            }
        }
    }

    /// Returns the status of the master and its workers.
    ///
    /// # Errors
    ///
    /// Returns an error if the answer is no status, and the same errors as [`ask`](Self::ask).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::testing::Program;
    ///
    /// let service = Program::new("service").control("control").start()?;
    /// for worker in service.status()?.workers {
    ///     println!("{} {}: {} restarts", worker.id, worker.state, worker.restarts);
    /// }
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn status(&self) -> Result<StatusReport, TestFailure> {
        let answer = self.ask(&ControlCommand::Status.to_string())?;
        serde_json::from_str(&answer)
            .map_err(|error| self.failure(format!("`{answer}` is no status: {error}")))
    }

    /// Waits until the status meets a condition, and returns it. `what` completes the message
    /// `the service ended before ...`.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`wait_until`](Self::wait_until) and [`status`](Self::status).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::testing::Program;
    ///
    /// let service = Program::new("service").control("control").start()?;
    /// service.signal("TTIN")?;
    /// service.wait_for_status("there was a third worker", |status| status.ready() == 3)?;
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn wait_for_status(
        &self,
        what: &str,
        mut so: impl FnMut(&StatusReport) -> bool,
    ) -> Result<StatusReport, TestFailure> {
        self.wait_for(what, || self.status().map(|status| Some(status).filter(&mut so)))
    }

    /// Kills the process of a worker with SIGKILL, and waits until its replacement is ready. Returns the
    /// process id of the replacement.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such worker, or if it has no process, and the errors of
    /// [`wait_for_status`](Self::wait_for_status).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::testing::Program;
    ///
    /// let service = Program::new("service").control("control").start()?;
    /// let old = service.status()?.workers[0].pid;
    /// assert_ne!(Some(service.kill_worker(0)?), old);
    /// # Ok::<(), release_core::testing::TestFailure>(())
    /// ```
    pub fn kill_worker(&self, id: u32) -> Result<i32, TestFailure> {
        let find = |status: StatusReport| status.workers.into_iter().find(|worker| worker.id == id);
        let Some(WorkerReport { pid, state, .. }) = find(self.status()?) else {
            return Err(self.failure(format!("there is no worker {id}")));
        };
        // No other process than one of the program is killed, whatever its status says.
        let Some(old) = pid.filter(|pid| self.processes().contains(pid)) else {
            return Err(self.failure(format!("worker {id} has no process: {state}")));
        };
        lock(&self.processes).kill_one(old);
        self.wait_for(&format!("worker {id} was back"), || {
            let worker = find(self.status()?).filter(|worker| worker.state == "ready");
            Ok(worker.and_then(|worker| worker.pid).filter(|pid| *pid != old))
        })
    }
}
