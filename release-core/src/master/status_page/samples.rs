//! Memory and processor time of the workers over the last hour.

use std::collections::{HashMap, VecDeque};

use super::facts::{PageSample, PageStatus, PageWorker};

/// Time between two samples, in seconds: the worker asks that often.
const EVERY: f64 = 10.0;

/// An hour of samples.
const MOST: usize = 360;

/// The master keeps them: the page's worker is replaced by each reload.
#[derive(Debug, Default)]
pub(super) struct Samples {
    kept: VecDeque<PageSample>,
    /// Processor time of each process at the latest sample, in seconds.
    spent: HashMap<i32, f64>,
}

impl Samples {
    /// Adds a sample, if it is time for one.
    pub(super) fn add(&mut self, status: &PageStatus) {
        let at = status.uptime_s;
        let before = self.kept.back().map(|sample| sample.at);
        if before.is_some_and(|before| at < before + EVERY) {
            return;
        }
        let groups = || status.groups.iter().filter(|group| !group.is_own);
        let workers = groups().flat_map(|group| &group.workers);
        let of = |worker: &PageWorker| Some((worker.pid?, worker.cpu_s?));
        let spent: HashMap<_, _> = workers.filter_map(of).collect();
        let newly = |(pid, now): (&i32, &f64)| {
            let before = self.spent.get(pid).copied().unwrap_or_default();
            (now - before).max(0.0)
        };
        let seconds: f64 = spent.iter().map(newly).sum();
        let time = at - before.unwrap_or_default();
        let processors = if before.is_some() && time > 0.0 { seconds / time } else { 0.0 };
        self.spent = spent;
        if self.kept.len() == MOST {
            self.kept.pop_front();
        }
        let memory = groups().map(|group| group.memory).sum();
        self.kept.push_back(PageSample { at, memory, processors });
    }

    pub(super) fn all(&self) -> Vec<PageSample> {
        self.kept.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::PageGroup;
    use super::*;

    fn status(at: f64, cpu_s: f64, pid: i32) -> PageStatus {
        let worker = PageWorker { pid: Some(pid), cpu_s: Some(cpu_s), ..PageWorker::default() };
        let group = PageGroup { memory: 100, workers: vec![worker], ..PageGroup::default() };
        let own = PageGroup { memory: 7, is_own: true, ..PageGroup::default() };
        PageStatus { uptime_s: at, groups: vec![group, own], ..PageStatus::default() }
    }

    #[test]
    fn an_hour_of_samples_is_kept() {
        let mut samples = Samples::default();
        for second in 0..7200 {
            samples.add(&status(f64::from(second), f64::from(second) / 2.0, 1));
        }
        let all = samples.all();
        assert_eq!((all.len(), all[0].at, all[MOST - 1].at), (MOST, 3600.0, 7190.0));
        assert!(all.iter().all(|sample| sample.memory == 100 && sample.processors == 0.5));
        // The time of a new process is its own, not less than nothing.
        samples.add(&status(7200.0, 3.0, 2));
        assert_eq!(samples.all()[MOST - 1].processors, 0.3);
    }
}
