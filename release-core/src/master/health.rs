//! Whether a pool is ready for requests, and whether it lives.

use crate::supervise::{Pool, State};

/// Name of the group that serves the status page. Its health says nothing about the service.
pub(crate) const STATUS_PAGE: &str = "status-page";

/// Returns the reason why the pool should get no requests, if there is one.
pub(crate) fn not_ready(pool: &Pool) -> Option<String> {
    if pool.is_stopping() {
        return Some("the service stops".to_owned());
    }
    if !pool.has_started() {
        return Some("the service starts: not all workers have been ready yet".to_owned());
    }
    let is_ready = |state| state == State::Ready;
    without(pool, is_ready).map(|group| format!("no worker of group `{group}` is ready"))
}

/// Returns the reason why only a new start of the service can help, if there is one.
pub(crate) fn not_live(pool: &Pool) -> Option<String> {
    if pool.is_stopping() || !pool.has_started() {
        return None;
    }
    let is_up = |state| matches!(state, State::Ready | State::Starting);
    without(pool, is_up).map(|group| format!("no worker of group `{group}` is ready or starting"))
}

/// Returns the first group that has workers, but none in such a state. One whose workers have ended well,
/// for good, has done its work.
fn without(pool: &Pool, is_fine: impl Fn(State) -> bool) -> Option<String> {
    let workers = pool.status(pool.time());
    let serves =
        |group: &str| workers.iter().any(|other| other.group == group && is_fine(other.state));
    let fails = |group: &str| group != STATUS_PAGE && !serves(group) && !pool.is_done(group);
    workers.iter().find(|worker| fails(worker.group)).map(|worker| worker.group.to_owned())
}
