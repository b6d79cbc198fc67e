//! Reports of the pool, as lines of the log.

use std::time::Duration;

use crate::supervise::{KillReason, Report, StopCause, WorkerId};
use crate::sys::exit_status::ExitStatus;

/// Returns the worker that a report is about.
pub(crate) fn worker_of(report: &Report) -> Option<WorkerId> {
    match report {
        Report::Started { id, .. }
        | Report::Ready { id, .. }
        | Report::SpawnFailed { id, .. }
        | Report::Extended { id, .. }
        | Report::WorkerStopping { id, .. }
        | Report::Died { id, .. }
        | Report::Killed { id, .. }
        | Report::LeftBehind { id, .. }
        | Report::OverLimit { id, .. } => Some(*id),
        _ => None,
    }
}

/// Writes a report to the log, with the group of its worker if the master has several groups.
pub(crate) fn log(report: &Report, group: Option<&str>) {
    match report {
        Report::Stopping { cause: StopCause::Terminal } => {
            log_warning!("the terminal is gone: the service ends");
        }
        Report::Starting | Report::Finished { .. } | Report::Stopping { .. } => {}
        Report::AllReady => tracing::info!("all workers are ready"),
        Report::Started { id, pid, generation } => {
            tracing::info!(worker = id.0, pid, generation, group, "started");
        }
        Report::Ready { id, pid, generation } => {
            tracing::info!(worker = id.0, pid, generation, group, "ready");
        }
        Report::SpawnFailed { id, reason, retry_in } => spawn_failed(*id, reason, *retry_in, group),
        Report::Extended { id, pid, generation, time } => {
            tracing::info!(worker = id.0, pid, generation, ?time, group, "needs more time");
        }
        Report::WorkerStopping { id, pid, generation } => {
            tracing::info!(worker = id.0, pid, generation, group, "stops of itself");
        }
        Report::Died { id, pid, generation, exit, restart_in: Some(restart_in) } => {
            let message = match exit {
                ExitStatus::Code(0) => "ended without being asked to, is started again",
                _ => "died, is started again",
            };
            log_warning!(worker = id.0, pid, %exit, generation, ?restart_in, group, "{message}");
        }
        Report::Died { id, pid, generation, exit, restart_in: None } => {
            tracing::info!(worker = id.0, pid, %exit, generation, group, "ended");
        }
        Report::Killed { id, pid, generation, reason } => {
            killed(*id, *pid, *generation, reason, group)
        }
        Report::LeftBehind { id, pid, generation, reason } => {
            let message = "cannot be ended, is left behind";
            log_error!(worker = id.0, pid, generation, reason, group, "{message}");
        }
        Report::OverLimit { id, pid, generation, excess } => {
            tracing::info!(worker = id.0, pid, %excess, generation, group, "over its limit, is replaced");
        }
        Report::TooFast { group } => {
            let message = "workers die too fast: they are started again slowly from now on";
            log_error!(group, "{message}");
        }
        Report::Reloading { generation } => tracing::info!(generation, "a reload begins"),
        Report::Reloaded { generation } => tracing::info!(generation, "reloaded"),
        Report::RolledBack { generation, reason } => {
            log_error!(generation, reason, "the reload failed and is rolled back");
        }
        Report::ReloadRefused { reason } => log_error!(reason, "the reload was refused"),
        Report::Upgrading => tracing::info!("an upgrade begins: the new version is tried"),
        Report::Upgraded { generation } => tracing::info!(generation, "upgraded"),
        Report::UpgradeRefused { reason } => log_error!(reason, "the upgrade was refused"),
        Report::UpgradeRolledBack { generation, reason } => {
            log_error!(generation, reason, "the upgrade failed: the old workers go on");
        }
        Report::Resized { group, size } => tracing::info!(group, size, "resized"),
        Report::Failing { reason } => log_error!(reason, "the master stops"),
    }
}

fn spawn_failed(id: WorkerId, reason: &str, retry_in: Option<Duration>, group: Option<&str>) {
    match retry_in {
        Some(retry_in) => {
            let message = "cannot be started, is tried again";
            log_error!(worker = id.0, reason, ?retry_in, group, "{message}");
        }
        None => log_error!(worker = id.0, reason, group, "cannot be started"),
    }
}

fn killed(id: WorkerId, pid: i32, generation: u32, reason: &KillReason, group: Option<&str>) {
    match reason {
        KillReason::StopNow => {
            log_warning!(worker = id.0, pid, generation, group, "killed: stopped at once");
        }
        reason => log_error!(worker = id.0, pid, %reason, generation, group, "killed"),
    }
}
