//! A pool as bytes, and a pool from these bytes in another version of the program.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Mode, Pool};
use crate::supervise::group::Group;
use crate::supervise::intensity::Intensity;
use crate::supervise::jitter::Jitter;
use crate::supervise::worker::Worker;
use crate::supervise::{Action, GroupSpec, Report, moments};
use crate::{Error, ErrorKind};

/// All that a pool knows which is quiet: no change is under way.
#[derive(Serialize, Deserialize)]
struct Snapshot<Groups, Workers, Chance> {
    generation: u32,
    latest: u32,
    groups: Groups,
    workers: Workers,
    jitter: Chance,
}

#[derive(Serialize, Deserialize)]
struct Saved<Name, Deaths> {
    name: Name,
    /// The size that its program asked for.
    configured: u32,
    /// The size that it has.
    size: u32,
    intensity: Deaths,
}

type Read = Snapshot<Vec<Saved<String, Intensity>>, Vec<Worker>, Jitter>;

impl Pool {
    /// What another version needs to go on, see [`Pool::inherit`].
    ///
    /// # Errors
    ///
    /// None that is known of: those of the encoder.
    pub(crate) fn snapshot(&self, now: Instant) -> Result<Vec<u8>, Error> {
        let groups = self.groups.iter().map(|group| Saved {
            name: &group.spec.name,
            configured: group.configured,
            size: group.spec.size,
            intensity: &group.intensity,
        });
        let snapshot = Snapshot {
            generation: self.generation,
            latest: self.latest,
            groups: groups.collect::<Vec<_>>(),
            workers: &self.workers,
            jitter: &self.jitter,
        };
        moments::relative_to(now, || postcard::to_stdvec(&snapshot)).map_err(|error| {
            Error::new(ErrorKind::Change, "the pool cannot be written down").caused_by(error)
        })
    }

    /// The pool of that snapshot, which runs, as if nothing had been.
    ///
    /// # Errors
    ///
    /// When this is no snapshot.
    #[cfg(test)]
    pub(crate) fn restore(
        groups: Vec<GroupSpec>,
        snapshot: &[u8],
        stop_deadline: Duration,
        now: Instant,
    ) -> Result<Self, Error> {
        Self::read(groups, snapshot, stop_deadline, now).map(|(pool, _)| pool)
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
        snapshot: &[u8],
        stop_deadline: Duration,
        now: Instant,
        returned: Option<String>,
    ) -> Result<(Self, Vec<Action>), Error> {
        let configured: Vec<_> = groups.iter().map(|group| group.size).collect();
        let (mut pool, sizes) = Self::read(groups, snapshot, stop_deadline, now)?;
        let mut actions = Vec::new();
        if let Some(reason) = returned {
            pool.upgrade.outcome = Some(Err(reason.clone()));
            actions.push(Action::Report(Report::UpgradeRefused { reason }));
            return Ok((pool, actions));
        }
        for (group, size) in pool.groups.iter_mut().zip(configured) {
            group.configured = size;
        }
        pool.begin_upgraded_rollout(&mut actions);
        for (group, size) in sizes.into_iter().enumerate() {
            pool.set_size(group, size, &mut actions);
        }
        Ok((pool, actions))
    }

    /// And the size that each group is to have.
    fn read(
        groups: Vec<GroupSpec>,
        snapshot: &[u8],
        stop_deadline: Duration,
        now: Instant,
    ) -> Result<(Self, Vec<u32>), Error> {
        let strange = || Error::new(ErrorKind::Change, "this is no snapshot of a pool");
        let read: Read = moments::relative_to(now, || postcard::from_bytes(snapshot))
            .map_err(|error| strange().caused_by(error))?;
        let mut pool = Self::new(Vec::new(), stop_deadline, 0);
        pool.groups = groups.into_iter().map(Group::new).collect();
        let mut sizes: Vec<_> = pool.groups.iter().map(|group| group.spec.size).collect();
        // A group of a new name has no worker yet.
        pool.groups.iter_mut().for_each(|group| group.spec.size = 0);
        let mut places = Vec::new();
        for saved in read.groups {
            let known = pool.groups.iter().position(|group| group.spec.name == saved.name);
            let index = known.unwrap_or_else(|| {
                pool.groups.push(Group::gone(saved.name));
                sizes.push(0);
                sizes.len() - 1
            });
            if saved.configured == sizes[index] && known.is_some() {
                // Nobody has changed it in the program, but somebody may have in the running master.
                sizes[index] = saved.size;
            }
            let group = &mut pool.groups[index];
            (group.spec.size, group.intensity) = (saved.size, saved.intensity);
            group.configured = saved.configured;
            places.push(index);
        }
        for (index, mut worker) in read.workers.into_iter().enumerate() {
            let is_in_order = usize::try_from(worker.id.0) == Ok(index);
            let place = places.get(worker.group).filter(|_| is_in_order);
            worker.group = *place.ok_or_else(strange)?;
            pool.workers.push(worker);
        }
        (pool.generation, pool.latest, pool.jitter) = (read.generation, read.latest, read.jitter);
        (pool.mode, pool.all_ready) = (Mode::Running, true);
        Ok((pool, sizes))
    }
}
