//! Context of one call of the pool.

use super::jitter::Jitter;
use super::{Action, Moment, Report, RequestId};

/// Carries the time of an event, the generator of jitter and the resulting actions.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) now: Moment,
    pub(super) jitter: Jitter,
    actions: &'a mut Vec<Action>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(now: Moment, jitter: Jitter, actions: &'a mut Vec<Action>) -> Self {
        Self { now, jitter, actions }
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn report(&mut self, report: Report) {
        self.act(Action::Report(report));
    }

    pub(super) fn answer(&mut self, request: RequestId, outcome: Result<(), String>) {
        self.act(Action::Answer { request, outcome });
    }

    pub(super) fn refuse(&mut self, requests: impl IntoIterator<Item = RequestId>, why: &str) {
        requests.into_iter().for_each(|request| self.answer(request, Err(why.to_owned())));
    }
}
