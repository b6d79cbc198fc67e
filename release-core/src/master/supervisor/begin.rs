//! The supervisor as it begins: of a master that was started, or that follows another version.

use std::time::Duration;

use futures_channel::mpsc::unbounded;

use super::super::clock::Clock;
use super::processes::Processes;
use super::terminal::Terminal;
use super::wait::MEASURE_EVERY;
use super::{MasterEvent, Supervisor, upgrade};
use crate::daemonize::log_files::LogFiles;
use crate::master::group::Group;
use crate::master::handle::MasterHandle;
use crate::master::pending::{Hooks, PendingRequests};
use crate::master::systemd_notifier::Service;
use crate::master::upgrade::{Estate, Kept};
use crate::rt::Rt;
use crate::signals::Signals;
use crate::stopping::stop_channel;
use crate::supervise::{Action, Pool};
use crate::systemd::{self, Notifier};

/// Parts of a master beside its groups.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) hooks: Hooks,
    pub(crate) log_files: LogFiles,
    pub(crate) systemd: Option<Notifier>,
    pub(crate) stop_deadline: Duration,
    /// Whether workers are stopped by the signal that stops the master.
    pub(crate) forwards: bool,
    pub(crate) signals: Signals,
    pub(crate) estate: Estate,
}

impl Supervisor {
    /// The supervisor of these groups and their pool, which takes over what a version before has
    /// `kept`, if there was one.
    pub(crate) fn new(
        rt: &Rt,
        groups: Vec<Group>,
        (pool, actions): (Pool, Vec<Action>),
        around: Surroundings,
        kept: Option<Kept>,
    ) -> Self {
        let Surroundings { hooks, log_files, systemd, stop_deadline, forwards, signals, estate } =
            around;
        let (sender, events) = unbounded();
        let commands = sender.clone();
        let (stop, stopping) = stop_channel();
        let master = MasterHandle::new(rt, pool, stopping, move |command| {
            let _ = commands.unbounded_send(MasterEvent::Command(command));
        });
        let service = systemd.map(|systemd| {
            let (watchdog, is_change) = (systemd::watchdog_time(), kept.is_some());
            Service::new(systemd, watchdog, stop_deadline, is_change, rt.now())
        });
        let mut deferred = Vec::new();
        let processes = match kept {
            None => Processes::new(groups, master.clone(), sender.clone()),
            Some(mut kept) => {
                let late = kept.late_signals.take().map(Into::into);
                deferred = upgrade::left(std::mem::take(&mut kept.signals), late.as_ref());
                Processes::inherit(groups, master.clone(), sender.clone(), &mut kept)
            }
        };
        let mut supervisor = Self {
            rt: rt.clone(),
            clock: Clock::new(master.epoch()),
            measure_at: processes.are_measured().then(|| rt.after(MEASURE_EVERY)),
            measured: 0,
            told_busy: crate::guard::told_busy(),
            processes,
            master,
            hooks,
            log_files,
            service,
            signals,
            deferred,
            stopped_by: None,
            stop_asked_at: None,
            terminal: Terminal::of_this_process(),
            estate,
            upgrade: None,
            requests: PendingRequests::default(),
            preparing: None,
            stop,
            stop_by: None,
            stop_deadline,
            renewed: None,
            looking: None,
            forwards,
            sender,
            events,
        };
        for action in actions {
            if let Action::Report(report) = action {
                supervisor.report(&report);
            }
        }
        supervisor
    }
}
