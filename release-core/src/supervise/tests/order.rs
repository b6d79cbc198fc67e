//! Groups that start after others.

use std::time::Duration;

use super::world::World;
use super::{CRASH, FIRST, seconds};
use crate::supervise::simulation::{Launch, Life, Simulation};
use crate::supervise::*;

const WEB: WorkerId = WorkerId(2);

/// Two databases, and one worker that comes after them.
fn groups() -> Vec<GroupSpec> {
    let group = |name: &str, size| GroupSpec {
        name: name.to_owned(),
        ..super::group(size, RestartPolicy::default())
    };
    vec![group("database", 2), group("web", 1).after("database")]
}

fn world() -> World {
    World::started(groups())
}

#[test]
fn a_group_waits_until_each_worker_before_it_has_been_ready() {
    let mut world = world();
    assert_eq!((world.pid(WEB), world.state(WEB)), (None, State::Waiting));
    world.ready(FIRST);
    assert_eq!(world.pid(WEB), None);
    world.ready(WorkerId(1));
    assert!(world.pid(WEB).is_some());
    assert!(!world.drain().contains(&Action::AllReady));
    world.ready(WEB);
    assert!(world.drain().contains(&Action::AllReady));
}

#[test]
fn a_worker_that_has_been_ready_holds_nobody_up() {
    let mut world = world();
    world.ready(FIRST);
    world.exit(FIRST, CRASH);
    world.ready(WorkerId(1));
    assert!(world.pid(WEB).is_some(), "it was ready once");
    // After the start, restarts are in no order.
    world.wait(Duration::from_secs(10));
    world.ready(FIRST);
    world.ready(WEB);
    world.exit(WorkerId(1), CRASH);
    world.exit(WEB, CRASH);
    world.wait(Duration::from_secs(10));
    assert!(world.pid(WEB).is_some());
}

#[test]
fn a_group_that_waits_is_stopped_like_any_other() {
    let mut world = world();
    world.send(Event::Stop);
    for id in [FIRST, WorkerId(1)] {
        world.exit(id, ExitStatus::Code(0));
    }
    assert_eq!(world.drain().last(), Some(&Action::Done(Outcome::Stopped)));
}

/// The new worker of the first group has never been ready: the second one has begun all the same.
#[test]
fn a_group_that_has_begun_does_not_wait_again_for_one_that_grows() {
    let script = |launch: Launch| match launch.id {
        // It dies before the start of the pool is complete.
        WEB if launch.before == 2 => Life::good().never_ready().dies_after(seconds(2), CRASH),
        WorkerId(3) => Life::good().ready_after(seconds(20)),
        _ => Life::good(),
    };
    let mut world = Simulation::new(groups(), seconds(10), 1, script);
    world.run(seconds(1));
    world.change(Operation::Resize { group: "database".to_owned(), size: 3 });
    world.run(seconds(10));
    let web = world.status().into_iter().find(|worker| worker.id == WEB).unwrap();
    assert_eq!((web.state, web.restarts), (State::Ready, 1));
}
