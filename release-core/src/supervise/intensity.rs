//! Whether the workers of a group die too fast.

use std::collections::VecDeque;

use super::Moment;
use super::RestartPolicy;

/// The latest deaths of a group, and whether they were too many.
#[derive(Debug, Default)]
pub(super) struct Intensity {
    pub(super) deaths: VecDeque<Moment>,
    pub(super) exceeded: bool,
}

impl Intensity {
    /// Counts a death. True when it is the one that makes too many: once per episode.
    pub(super) fn death(&mut self, policy: &RestartPolicy, now: Moment) -> bool {
        let was_exceeded = self.exceeded(policy, now);
        self.deaths.push_back(now);
        if self.deaths.len() > policy.limit.saturating_add(1) {
            // One more than the limit is all that the rule needs to know.
            self.deaths.pop_front();
        }
        let too_many = self.deaths.len() > policy.limit;
        self.exceeded |= too_many;
        too_many && !was_exceeded
    }

    /// Whether the episode lasts. It ends at half the limit, not at the limit, or a group that dies
    /// at just that rate would begin a new one with every death.
    pub(super) fn exceeded(&mut self, policy: &RestartPolicy, now: Moment) -> bool {
        let recent = |at: &Moment| now - *at < policy.window;
        self.deaths.retain(recent);
        self.exceeded &= self.deaths.len() > policy.limit / 2;
        self.exceeded
    }
}
