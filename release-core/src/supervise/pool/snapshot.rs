//! A pool as a value, and a pool from that value in another version of the program.

use std::time::Duration;

use super::wire::Snapshot;
use super::{Mode, Pool};
use crate::supervise::Moment;
use crate::supervise::group::Group;
use crate::supervise::turn::Turn;
use crate::supervise::{Action, GroupSpec, Report};
use crate::{Error, ErrorKind};

impl Pool {
    /// What another version needs to go on, see [`Pool::inherit`].
    pub(crate) fn snapshot(&self, now: Moment) -> Snapshot {
        Snapshot::of(self, now)
    }

    /// The pool of that snapshot, which runs, as if nothing had been.
    ///
    /// # Errors
    ///
    /// When this is no snapshot.
    #[cfg(test)]
    pub(crate) fn restore(
        groups: Vec<GroupSpec>,
        snapshot: &Snapshot,
        stop_deadline: Duration,
    ) -> Result<Self, Error> {
        Self::read(groups, snapshot, stop_deadline).map(|(pool, _)| pool)
    }

    /// The pool of that snapshot, in the new version, whose generation is being started; or in the
    /// version that has left it, when the new one has `returned` for this reason. Also what is to be
    /// said.
    ///
    /// Groups are known by their names. One that is not among `groups` any more is told to stop, and
    /// comes after them; one whose size the configuration has changed gets that size.
    ///
    /// # Errors
    ///
    /// When this is no snapshot.
    pub(crate) fn inherit(
        groups: Vec<GroupSpec>,
        snapshot: &Snapshot,
        stop_deadline: Duration,
        returned: Option<String>,
    ) -> Result<(Self, Vec<Action>), Error> {
        let configured: Vec<_> = groups.iter().map(|group| group.size).collect();
        let (mut pool, sizes) = Self::read(groups, snapshot, stop_deadline)?;
        let mut actions = Vec::new();
        if let Some(reason) = returned {
            pool.upgrade.outcome = Some(Err(reason.clone()));
            actions.push(Action::Report(Report::UpgradeRefused { reason }));
            return Ok((pool, actions));
        }
        for (group, size) in pool.groups.iter_mut().zip(configured) {
            group.configured = size;
        }
        let turn = &mut Turn::new(pool.time, pool.jitter, &mut actions);
        pool.begin_upgraded_rollout(turn);
        for (group, size) in sizes.into_iter().enumerate() {
            pool.set_size(group, size, turn);
        }
        Ok((pool, actions))
    }

    /// And the size that each group is to have.
    fn read(
        groups: Vec<GroupSpec>,
        snapshot: &Snapshot,
        stop_deadline: Duration,
    ) -> Result<(Self, Vec<u32>), Error> {
        let strange =
            || Error::new(ErrorKind::Change, "the state of the running workers makes no sense");
        let mut pool = Self::new(Vec::new(), stop_deadline, 0);
        pool.groups = groups.into_iter().map(Group::new).collect();
        let mut sizes: Vec<_> = pool.groups.iter().map(|group| group.spec.size).collect();
        // A group of a new name has no worker yet.
        pool.groups.iter_mut().for_each(|group| group.spec.size = 0);
        let mut places = Vec::new();
        for saved in &snapshot.groups {
            let known = pool.groups.iter().position(|group| group.spec.name == saved.name);
            let index = known.unwrap_or_else(|| {
                pool.groups.push(Group::gone(saved.name.clone()));
                sizes.push(0);
                sizes.len() - 1
            });
            let is_in_both = known.is_some() && !saved.is_gone;
            if is_in_both && saved.configured == sizes[index] {
                // Nobody has changed it in the program, but somebody may have in the running master.
                sizes[index] = saved.size;
            }
            let group = &mut pool.groups[index];
            (group.spec.size, group.intensity) = (saved.size, saved.intensity());
            group.configured = saved.configured;
            places.push(index);
        }
        for (index, saved) in snapshot.workers.iter().enumerate() {
            let mut worker = saved.clone().worker();
            let is_in_order = usize::try_from(worker.id.0) == Ok(index);
            let place = places.get(worker.group).filter(|_| is_in_order);
            worker.group = *place.ok_or_else(strange)?;
            pool.workers.push(worker);
        }
        (pool.generation, pool.latest, pool.jitter) =
            (snapshot.generation, snapshot.latest, snapshot.jitter());
        pool.time = snapshot.time;
        (pool.mode, pool.all_ready) = (Mode::Running, true);
        Ok((pool, sizes))
    }
}
