//! Groups that start after others.

use std::time::Duration;

use super::world::World;
use super::{CRASH, FIRST};
use crate::supervise::*;

const WEB: WorkerId = WorkerId(2);

/// Two databases, and one worker that comes after them.
fn world() -> World {
    let group = |name: &str, size| GroupSpec {
        name: name.to_owned(),
        ..super::group(size, RestartPolicy::default())
    };
    World::started(vec![group("database", 2), group("web", 1).after("database")])
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
