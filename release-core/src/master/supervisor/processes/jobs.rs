//! The pools of jobs, the connections handed on and the channels, as processes come and go.

use std::sync::Arc;

use futures_channel::mpsc::UnboundedSender;

use super::Processes;
use crate::jobs::Follow;
use crate::master::group::Group;
use crate::master::supervisor::event::MasterEvent;
use crate::process::channels::Channels;
use crate::process::hand_on::HandOn;
use crate::rt::Rt;
use crate::supervise::{Event, Hung, State, WorkerId};

/// Lets the pools of these groups begin. A process in which a job hangs is killed, and restarted by the
/// rules of its group.
pub(super) fn begin(groups: &[Group], rt: &Rt, sender: &UnboundedSender<MasterEvent>) {
    for jobs in groups.iter().filter_map(|group| group.jobs.as_ref()) {
        let sender = sender.clone();
        let replace = move |id, pid, time| {
            let hung = Event::Hung { id: WorkerId(id), pid, how: Hung::Job(time) };
            let _ = sender.unbounded_send(MasterEvent::Pool(hung));
        };
        jobs.begin(rt, Arc::new(replace));
    }
}

impl Processes {
    /// Tells each pool which processes take its jobs now, and which take connections.
    pub(in crate::master::supervisor) fn settle_jobs(&self) {
        for (index, group) in self.groups.iter().enumerate() {
            if group.jobs.is_none() && group.services.hand_on.is_none() {
                continue;
            }
            let pool = self.master.pool();
            let is_ready = |(id, pid): &&(WorkerId, i32)| {
                let is_its = pool.group_of(*id) == Some(index);
                is_its && pool.state_of(*id, *pid) == Some(State::Ready)
            };
            let ready = self.running.keys().filter(is_ready).map(|(id, pid)| (id.0, *pid));
            let (ready, is_stopping) = (ready.collect(), pool.is_stopping());
            drop(pool);
            if let Some(jobs) = &group.jobs {
                if is_stopping {
                    jobs.stop();
                }
                jobs.ready(&ready);
            }
            let hand_on = group.services.hand_on.iter();
            hand_on.for_each(|hand_on| hand_on.ready(&ready, is_stopping));
        }
        if let Some(channels) = self.channels() {
            let pool = self.master.pool();
            let is_ready =
                |(id, pid): &&(WorkerId, i32)| pool.state_of(*id, *pid) == Some(State::Ready);
            let ready = self.running.keys().filter(is_ready).map(|(id, pid)| (id.0, *pid));
            let (ready, is_stopping) = (ready.collect(), pool.is_stopping());
            drop(pool);
            channels.ready(ready, is_stopping);
        }
    }

    /// Tells a process to stop as soon as it has no job in hand and gets no more calls.
    pub(super) fn tell_stop(&self, id: WorkerId, pid: i32, tell: Box<dyn FnOnce() + Send>) {
        let is_last = self.master.pool().is_stopping();
        let Some(group) = self.group(id) else { return tell() };
        let (process, rt) = ((id.0, pid), self.rt.clone());
        let tell: Box<dyn FnOnce() + Send> = match group.services.channels.clone() {
            Some(channels) => Box::new(move || channels.leave(process, is_last, &rt, tell)),
            None => tell,
        };
        match &group.jobs {
            Some(jobs) => jobs.when_at_rest(process, tell),
            None => tell(),
        }
    }

    /// The channels between workers, if any group has them.
    pub(in crate::master::supervisor) fn channels(&self) -> Option<Arc<Channels>> {
        self.groups.iter().find_map(|group| group.services.channels.clone())
    }

    /// The connections that workers hand on, of each group.
    pub(in crate::master::supervisor) fn hand_on_pools(&self) -> Vec<Arc<HandOn>> {
        self.groups.iter().filter_map(|group| group.services.hand_on.clone()).collect()
    }

    /// The pools of jobs, each with the name of its group.
    pub(in crate::master::supervisor) fn job_pools(&self) -> Vec<(Arc<str>, Arc<dyn Follow>)> {
        let pool = |group: &Group| Some((Arc::clone(&group.name), group.jobs.clone()?));
        self.groups.iter().filter_map(pool).collect()
    }
}
