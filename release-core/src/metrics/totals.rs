//! The metrics of many processes, summed up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::read::{Metric, MetricKind, metrics};
use crate::kept;

/// Maximum number of different metrics of a group, each name with its labels counted.
const MOST: usize = 1024;

/// A group, or `None` for the master.
type GroupName = Option<Arc<str>>;

/// The metrics of all groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals(BTreeMap<GroupName, GroupTotals>);

/// The metrics of a group by their names and labels.
#[derive(Clone, Debug, Default)]
struct GroupTotals {
    metrics: BTreeMap<(String, Vec<(String, String)>), Metric>,
    /// Number of metrics without room, and of metrics that contradict another.
    dropped: u64,
}

impl Totals {
    /// Adds the metrics of a running process.
    pub(crate) fn add(&mut self, group: GroupName, words: &[AtomicU64]) {
        let totals = self.0.entry(group).or_default();
        metrics(words).into_iter().for_each(|metric| totals.add(metric));
    }

    /// Adds the metrics of a process that has ended: its gauges have ended with it.
    pub(crate) fn add_ended(&mut self, group: GroupName, words: &[AtomicU64]) {
        let metrics = metrics(words).into_iter().filter(|it| !it.kind.is_gauge());
        let mut metrics = metrics.peekable();
        // Most groups have none.
        if metrics.peek().is_some() {
            let totals = self.0.entry(group).or_default();
            metrics.for_each(|metric| totals.add(metric));
        }
    }

    /// Returns the metrics, each with its group.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Option<&str>, &Metric)> {
        let groups = self.0.iter();
        groups.flat_map(|(group, totals)| {
            totals.metrics.values().map(move |metric| (group.as_deref(), metric))
        })
    }

    /// Returns the number of metrics of each group that were left out.
    pub(crate) fn dropped(&self) -> impl Iterator<Item = (Option<&str>, u64)> {
        let groups = self.0.iter().filter(|(_, totals)| totals.dropped > 0);
        groups.map(|(group, totals)| (group.as_deref(), totals.dropped))
    }

    /// Returns the totals for the next version.
    pub(crate) fn keep(&self) -> Vec<kept::Metric> {
        let kept = self.all().map(|(group, metric)| kept::Metric {
            group: group.map(str::to_owned),
            is_histogram: metric.kind == MetricKind::Histogram,
            name: metric.name.clone(),
            help: metric.help.clone(),
            labels: metric.labels.clone(),
            bounds: metric.bounds.iter().map(|bound| bound.to_bits()).collect(),
            values: metric.values.clone(),
        });
        kept.collect()
    }
}

impl From<Vec<kept::Metric>> for Totals {
    fn from(kept: Vec<kept::Metric>) -> Self {
        let mut totals = Self::default();
        // Another version may have written it.
        let values = |metric: &kept::Metric| match metric.is_histogram {
            true => metric.bounds.len() + 2,
            false => 1,
        };
        for metric in kept.into_iter().filter(|metric| metric.values.len() == values(metric)) {
            let group = metric.group.as_deref().map(Arc::from);
            let kind =
                if metric.is_histogram { MetricKind::Histogram } else { MetricKind::Counter };
            totals.0.entry(group).or_default().add(Metric {
                kind,
                name: metric.name,
                help: metric.help,
                labels: metric.labels,
                bounds: metric.bounds.into_iter().map(f64::from_bits).collect(),
                values: metric.values,
            });
        }
        totals
    }
}

impl GroupTotals {
    fn add(&mut self, metric: Metric) {
        let key = (metric.name.clone(), metric.labels.clone());
        let has_room = self.metrics.len() < MOST;
        let Some(total) = self.metrics.get_mut(&key) else {
            match has_room {
                true => drop(self.metrics.insert(key, metric)),
                false => self.dropped += 1,
            }
            return;
        };
        let is_same = (total.kind, &total.bounds) == (metric.kind, &metric.bounds);
        if !is_same || total.values.len() != metric.values.len() {
            self.dropped += 1;
            return;
        }
        let last = metric.values.len() - 1;
        for (index, (sum, value)) in total.values.iter_mut().zip(&metric.values).enumerate() {
            *sum = match metric.kind {
                MetricKind::Gauge => {
                    sum.cast_signed().saturating_add(value.cast_signed()).cast_unsigned()
                }
                MetricKind::Histogram if index == last => finite_sum(*sum, *value),
                MetricKind::RealGauge => finite_sum(*sum, *value),
                MetricKind::Counter | MetricKind::Histogram => sum.saturating_add(*value),
            };
        }
    }
}

fn finite_sum(one: u64, other: u64) -> u64 {
    let sum = f64::from_bits(one) + f64::from_bits(other);
    sum.clamp(f64::MIN, f64::MAX).to_bits()
}
