//! Requests that came while the peer did not read its answers.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ipc::header::Number;
use crate::ipc::link::Link;

/// A request of the peer, or why it is none.
pub(super) struct Asked<R> {
    pub(super) number: Number,
    pub(super) patience: Option<Duration>,
    pub(super) request: Result<R, String>,
    pub(super) size: usize,
}

/// Requests that came while the peer did not read its answers: answered when it does.
///
/// Reading goes on meanwhile. If both sides stopped reading until the other one reads, neither
/// would ever go on.
pub(super) struct Held<R> {
    pub(super) requests: VecDeque<Asked<R>>,
    pub(super) bytes: usize,
}

impl<R> Default for Held<R> {
    fn default() -> Self {
        Self { requests: VecDeque::new(), bytes: 0 }
    }
}

impl<R> Held<R> {
    pub(super) fn must_wait(&self, link: &Link) -> bool {
        !self.requests.is_empty() || link.is_choked()
    }

    pub(super) fn can_start(&self, link: &Link) -> bool {
        !self.requests.is_empty() && !link.is_choked()
    }

    pub(super) fn push(&mut self, asked: Asked<R>) {
        self.bytes += asked.size;
        self.requests.push_back(asked);
    }

    pub(super) fn pop(&mut self) -> Option<Asked<R>> {
        let asked = self.requests.pop_front()?;
        self.bytes -= asked.size;
        Some(asked)
    }

    pub(super) fn remove(&mut self, number: Number) {
        self.requests.retain(|asked| asked.number != number);
        self.bytes = self.requests.iter().map(|asked| asked.size).sum();
    }
}
