//! The metrics of the workers' processes.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::Processes;
use crate::master::figures::{Figures, ListenerQueue};
use crate::metrics::{self, Totals};
use crate::process::output::Output;
use crate::supervise::WorkerId;

impl Processes {
    /// Returns the name of a worker's group, also of one that only an earlier version of the program had: its
    /// counts go on under their name.
    pub(in crate::master::supervisor) fn name_of(&self, id: WorkerId) -> Arc<str> {
        match self.group(id) {
            Some(group) => Arc::clone(&group.name),
            None => self.master.pool().group_name(id).into(),
        }
    }

    /// Returns the end of a process's output, if the master reads it, and where its threads were if it was
    /// found to hang.
    pub(in crate::master::supervisor) fn last_lines(&self, id: WorkerId, pid: i32) -> Vec<String> {
        let Some(process) = self.running.get(&(id, pid)) else { return Vec::new() };
        let mut lines = process.output.as_ref().map(Output::last_lines).unwrap_or_default();
        let hung = process.hung.lock().unwrap_or_else(PoisonError::into_inner);
        lines.extend_from_slice(&hung);
        lines
    }

    /// Adds the metrics of a process that ends.
    pub(super) fn add_ended_metrics(
        &mut self,
        id: WorkerId,
        words: &[std::sync::atomic::AtomicU64],
    ) {
        let name = self.name_of(id);
        self.ended_metrics.add_ended(Some(name), words);
    }

    /// Returns the metrics that would be lost with this process image.
    pub(super) fn metrics_to_keep(&self) -> Totals {
        let mut totals = self.ended_metrics.clone();
        if let Some(words) = metrics::own() {
            totals.add_ended(None, words);
        }
        totals
    }

    pub(in crate::master::supervisor) fn figures(&self) -> Figures {
        let mut totals = self.ended_metrics.clone();
        if let Some(words) = metrics::own() {
            totals.add(None, words);
        }
        let memories = self.running.iter().filter_map(|((id, pid), process)| {
            let memory = process.metrics.as_ref()?;
            Some((self.name_of(*id), *pid, Arc::clone(memory)))
        });
        let (memories, queues) = (memories.collect(), self.queues());
        let programs = self.groups.iter().filter_map(|group| {
            let program = group.program.file_name()?;
            Some((Arc::clone(&group.name), program))
        });
        let programs = programs.collect();
        let most = self.groups.iter().filter_map(|group| {
            group.elastic.as_ref().map(|elastic| (Arc::clone(&group.name), elastic.most()))
        });
        let most = most.collect();
        Figures { totals, memories, queues, most, counts: BTreeMap::new(), programs }
    }

    /// Returns the queues of the listening TCP sockets, of all workers together.
    fn queues(&self) -> Vec<ListenerQueue> {
        let listeners = self
            .groups
            .iter()
            .flat_map(|group| group.listeners.iter().map(move |listener| (&group.name, listener)));
        let queues = listeners.filter_map(|(group, listener)| {
            let (waiting, limit) = listener.queue()?;
            let (group, listener) = (Arc::clone(group), listener.name.clone());
            Some(ListenerQueue { group, listener, waiting, limit })
        });
        queues.collect()
    }
}
