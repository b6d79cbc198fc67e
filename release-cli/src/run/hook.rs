//! `--on-event`: a program that runs at each event of the service.

use std::ffi::OsString;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use nix::unistd::geteuid;
use release_core::supervise::ExitStatus;
use release_core::{
    ChildCommand, ChildHandle, Environment, Error, ErrorKind, Events, MasterHandle, ServiceEvent,
};

use super::Options;

/// The name of its process among the children of the master.
const NAME: &str = "on-event";

/// How long it may run for an event.
const RUN_TIME: Duration = Duration::from_secs(30);

/// How long the service waits for it when no worker is left.
const LAST_TIME: Duration = Duration::from_secs(2);

/// How long it may take to end when it is told to, at most.
const LONGEST_END: Duration = Duration::from_secs(1);

/// How often to look whether a stop is over.
const LOOK: Duration = Duration::from_millis(50);

/// The program of `--on-event`, as it is started.
pub(super) struct Hook {
    program: PathBuf,
    user: Option<String>,
    group: Option<String>,
    directory: Option<PathBuf>,
    environment: Environment,
    /// Time for the events of a stop.
    stop_time: Duration,
    /// Time for the program to end.
    end_time: Duration,
}

impl Hook {
    /// It has the account, the directory and the environment of the workers that all programs share.
    pub(super) fn of(options: &Options) -> Result<Option<Self>, Error> {
        let Some(program) = options.on_event.clone() else { return Ok(None) };
        let shared = &options.program;
        let pairs = shared.variables.pairs()?.into_iter();
        let environment = shared.variables.base(shared.user.is_some());
        let stop_timeout = options.stop_timeout.unwrap_or(super::STOP_TIMEOUT);
        // In the background, this process is elsewhere when it starts the program.
        let here = || options.background.then(|| ".".into());
        let directory = shared.chdir.clone().or_else(here);
        let directory = directory.map(std::path::absolute).transpose().map_err(|error| {
            Error::new(ErrorKind::Usage, format!("--on-event: the working directory: {error}"))
        })?;
        if shared.user.is_none() && geteuid().is_root() {
            let way_out = "`--user`, or `user` before the sections, gives it another account";
            tracing::warn!("--on-event: the program runs as root; {way_out}");
        }
        Ok(Some(Self {
            program,
            user: shared.user.clone(),
            group: shared.group.clone(),
            directory,
            environment: pairs.fold(environment, |all, (name, value)| all.set(name, value)),
            // The master must not count this as a task that does not end.
            stop_time: stop_timeout.mul_f64(0.75),
            end_time: stop_timeout.div_f64(8.0).min(LONGEST_END),
        }))
    }

    /// Tells the program of all events, one after the other, until the service has stopped.
    pub(super) async fn follow(self, master: MasterHandle, events: Events) -> Result<(), Error> {
        let mut stopping = master.stopping();
        let all = pin!(self.tell_all(&master, events));
        let over = pin!(async {
            (&mut stopping).await;
            let ended = async {
                while !has_stopped(&master) {
                    master.rt().sleep(LOOK).await;
                }
                master.rt().sleep(LAST_TIME).await;
            };
            let _ = master.rt().timeout(self.stop_time, ended).await;
        });
        if let Either::Right(_) = select(all, over).await {
            tracing::warn!("--on-event: the service ends before the program was told everything");
            if let Some(child) = master.child(NAME) {
                self.end(&master, &child).await;
            }
        }
        Ok(())
    }

    async fn tell_all(&self, master: &MasterHandle, mut events: Events) {
        if let Some(earlier) = master.child(NAME) {
            // Of the version before; its name must be free.
            self.exit_of(master, &earlier).await;
        }
        let mut stopping = master.stopping();
        while let Either::Left((event, _)) = select(pin!(events.next()), &mut stopping).await {
            self.tell(master, &event).await;
        }
        loop {
            match master.rt().timeout(LOOK, events.next()).await {
                Ok(event) => self.tell(master, &event).await,
                Err(_) if has_stopped(master) => return,
                Err(_) => {}
            }
        }
    }

    /// Runs the program for one event.
    async fn tell(&self, master: &MasterHandle, event: &ServiceEvent) {
        let kind = serde_json::json!(event.event);
        let kind = kind.as_str().unwrap_or_default();
        let environment = self.environment.clone().set("RELEASE_EVENT", event.to_string());
        let mut command =
            ChildCommand::new(&self.program, [OsString::from(kind)]).environment(environment);
        if let Some(user) = &self.user {
            command = command.user(user);
        }
        if let Some(group) = &self.group {
            command = command.group(group);
        }
        if let Some(directory) = &self.directory {
            command = command.directory(directory);
        }
        let child = match master.spawn(NAME, command).await {
            Ok(child) => child,
            Err(error) => {
                let reason = error.report();
                tracing::warn!(event = kind, reason, "--on-event: the program was not started");
                return;
            }
        };
        let exit = self.exit_of(master, &child).await;
        if exit != ExitStatus::Code(0) {
            tracing::warn!(event = kind, %exit, "--on-event: the program has failed");
        }
    }

    /// Waits for the end of the program, and stops it if it takes too long.
    async fn exit_of(&self, master: &MasterHandle, child: &ChildHandle) -> ExitStatus {
        match master.rt().timeout(RUN_TIME, child.exit()).await {
            Ok(exit) => exit,
            Err(_) => {
                tracing::warn!("--on-event: the program runs for longer than 30 s, and is stopped");
                self.end(master, child).await
            }
        }
    }

    /// Tells the program to end, and kills it if it does not.
    async fn end(&self, master: &MasterHandle, child: &ChildHandle) -> ExitStatus {
        match master.rt().timeout(self.end_time, child.stop()).await {
            Ok(exit) => exit,
            Err(_) => {
                child.kill();
                child.exit().await
            }
        }
    }
}

fn has_stopped(master: &MasterHandle) -> bool {
    master.status().iter().all(|worker| worker.pid.is_none() && worker.draining == 0)
}
