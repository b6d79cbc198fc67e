//! The pools of jobs, as the processes of their groups come and go.

use std::sync::Arc;

use futures_channel::mpsc::UnboundedSender;

use super::Processes;
use crate::jobs::Follow;
use crate::master::group::Group;
use crate::master::supervisor::event::MasterEvent;
use crate::rt::Rt;
use crate::supervise::{Event, Hung, State, WorkerId};

/// Lets the pools of these groups begin. A process in which a job hangs is killed, and restarted by the
/// rules of its group.
pub(super) fn begin(groups: &[Group], rt: &Rt, sender: &UnboundedSender<MasterEvent>) {
    for jobs in groups.iter().filter_map(|group| group.jobs.as_ref()) {
        let sender = sender.clone();
        let replace = move |id, pid, time| {
            let hung = Event::Hung { id: WorkerId(id), pid, how: Hung::Stuck(time) };
            let _ = sender.unbounded_send(MasterEvent::Pool(hung));
        };
        jobs.begin(rt, Arc::new(replace));
    }
}

impl Processes {
    /// Tells each pool which processes take its jobs now.
    pub(in crate::master::supervisor) fn settle_jobs(&self) {
        for (index, group) in self.groups.iter().enumerate() {
            let Some(jobs) = &group.jobs else { continue };
            let pool = self.master.pool();
            let is_ready = |(id, pid): &&(WorkerId, i32)| {
                let is_its = pool.group_of(*id) == Some(index);
                is_its && pool.state_of(*id, *pid) == Some(State::Ready)
            };
            let ready = self.running.keys().filter(is_ready).map(|(id, pid)| (id.0, *pid));
            let (ready, is_stopping) = (ready.collect(), pool.is_stopping());
            drop(pool);
            if is_stopping {
                jobs.stop();
            }
            jobs.ready(&ready);
        }
    }

    /// The pools of jobs, each with the name of its group.
    pub(in crate::master::supervisor) fn job_pools(&self) -> Vec<(Arc<str>, Arc<dyn Follow>)> {
        let pool = |group: &Group| Some((Arc::clone(&group.name), group.jobs.clone()?));
        self.groups.iter().filter_map(pool).collect()
    }
}
