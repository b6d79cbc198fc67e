//! Most workers rest: what an event costs does not depend on their number.

use std::time::Duration;

use super::reloads::{finish, spec, world};
use crate::supervise::simulation::Life;
use crate::supervise::{Operation, ReloadPolicy};

/// How often the pool looks at a worker during a reload, for each of so many.
fn looks(count: u32) -> usize {
    let mut group = spec(count);
    group.reload = ReloadPolicy::default().surge(4).canary(Duration::from_millis(100));
    let mut world = world(group, |_| Life::good());
    let before = world.pool().looks();
    let request = world.change(Operation::Reload);
    assert_eq!(finish(&mut world, request), Ok(()));
    (world.pool().looks() - before) / usize::try_from(count).unwrap()
}

#[test]
fn a_reload_of_many_workers_costs_for_each_what_one_of_few_does() {
    let (few, many) = (looks(10), looks(500));
    assert!(2 * many <= 3 * few, "{few} times for each of 10, {many} times for each of 500");
}
