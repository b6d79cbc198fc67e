//! The rules of the start and of restarts, one by one.

use std::time::Duration;

use super::world::World;
use super::{CRASH, FIRST, SECOND, group, seconds};
use crate::supervise::*;

/// One worker that has become ready.
fn one_ready(policy: RestartPolicy) -> World {
    let mut world = World::started(vec![group(1, policy)]);
    world.ready(FIRST);
    world.drain();
    world
}

/// The worker dies; the delay until it is started again.
fn death(world: &mut World) -> Option<Duration> {
    world.exit(FIRST, CRASH);
    world.log.iter().rev().find_map(|action| match action {
        Action::Report(Report::Died { restart_in, .. }) => Some(*restart_in),
        _ => None,
    })?
}

/// Milliseconds of the delays of so many deaths, each right after the start.
fn deaths(world: &mut World, count: usize) -> Vec<u128> {
    let mut delays = Vec::new();
    for _ in 0..count {
        let delay = death(world).unwrap();
        delays.push(delay.as_millis());
        world.wait(delay);
    }
    delays
}

fn assert_about(delays: &[u128], nominal: &[u128]) {
    assert_eq!(delays.len(), nominal.len());
    let mut pairs = delays.iter().zip(nominal);
    assert!(pairs.all(|(delay, n)| n / 2 <= *delay && delay <= n), "{delays:?}");
}

fn count(world: &World, action: &Action) -> usize {
    world.log.iter().filter(|other| *other == action).count()
}

fn failure(world: &World) -> Option<String> {
    world.log.iter().find_map(|action| match action {
        Action::Report(Report::Failing { reason }) => Some(reason.clone()),
        _ => None,
    })
}

#[test]
fn all_are_ready_when_each_has_been() {
    let at_once = GroupSpec { ready: Ready::AtOnce, ..group(1, RestartPolicy::default()) };
    let mut world = World::started(vec![group(2, RestartPolicy::default()), at_once]);
    assert_eq!(world.state(WorkerId(2)), State::Ready);
    world.ready(FIRST);
    world.exit(FIRST, CRASH);
    assert_eq!(count(&world, &Action::AllReady), 0);
    world.ready(SECOND);
    assert_eq!(count(&world, &Action::AllReady), 1);
    world.wait(seconds(1));
    world.ready(FIRST);
    assert_eq!(count(&world, &Action::AllReady), 1);
}

#[test]
fn workers_are_numbered_in_the_order_of_the_groups() {
    let groups = [2, 0, 1].map(|size| group(size, RestartPolicy::default()));
    let pool = Pool::new(groups.to_vec(), seconds(1), 0);
    let groups: Vec<_> = (0..4).map(|id| pool.group_of(WorkerId(id))).collect();
    assert_eq!(groups, [Some(0), Some(0), Some(2), None]);
}

#[test]
fn early_deaths_wait_longer_each_time_and_a_healthy_life_starts_anew() {
    let mut world = one_ready(RestartPolicy::default());
    let delays = deaths(&mut world, 7);
    assert_about(&delays, &[0, 200, 400, 800, 1600, 3200, 5000]);
    world.ready(FIRST);
    world.wait(Duration::from_millis(9_999));
    assert_about(&deaths(&mut world, 1), &[5000]);
    world.ready(FIRST);
    world.wait(seconds(10));
    assert_about(&deaths(&mut world, 4), &[0, 0, 200, 400]);
}

#[test]
fn an_unasked_exit_is_a_death_even_with_status_zero() {
    let mut world = one_ready(RestartPolicy::default());
    world.exit(FIRST, ExitStatus::Code(0));
    assert_eq!(world.state(FIRST), State::Starting, "the first one is restarted at once");
    world.exit(FIRST, ExitStatus::Code(0));
    assert_eq!(world.state(FIRST), State::Waiting);
    world.wait(seconds(1));
    assert_eq!(world.state(FIRST), State::Starting);
}

#[test]
fn a_group_that_dies_too_fast_is_slowed_down_and_says_so_once() {
    let policy = RestartPolicy::default().intensity(3, seconds(60));
    let mut world = one_ready(policy);
    let too_fast = Action::Report(Report::TooFast { group: "web".to_owned() });
    assert_about(&deaths(&mut world, 5), &[0, 200, 400, 5000, 5000]);
    assert_eq!(count(&world, &too_fast), 1);
    world.ready(FIRST);
    world.wait(seconds(60));
    assert_about(&deaths(&mut world, 4), &[0, 0, 200, 5000]);
    assert_eq!(count(&world, &too_fast), 2);
}

#[test]
fn a_group_that_dies_too_fast_may_fail_the_master() {
    let policy = RestartPolicy::default().intensity(1, seconds(60)).exceeded(Exceeded::FailMaster);
    let mut world = World::started(vec![group(2, policy)]);
    world.ready(FIRST);
    world.ready(SECOND);
    assert_about(&deaths(&mut world, 1), &[0]);
    assert_eq!(death(&mut world), None);
    assert_eq!(world.state(SECOND), State::Stopping);
    let reason = "more than 1 deaths within 60s in group web, \
                  the last of worker 0: signal 11 (SIGSEGV), core dumped";
    assert_eq!(failure(&world).as_deref(), Some(reason));
    world.exit(SECOND, ExitStatus::Code(0));
    let reason = reason.to_owned();
    assert_eq!(world.log.last(), Some(&Action::Done(Outcome::Failed { reason })));
}

#[test]
fn a_start_that_fails_five_times_in_a_row_ends_the_pool() {
    let mut world = World::started(vec![group(1, RestartPolicy::default())]);
    deaths(&mut world, 2);
    world.spawns_fail = true;
    death(&mut world);
    world.wait(Duration::from_millis(400));
    assert_eq!(failure(&world), None);
    world.spawns_fail = false;
    world.wait(seconds(2));
    world.exit(FIRST, ExitStatus::Code(3));
    let reason = "worker 0 of group web failed 5 times before it was ready: exit status 3";
    assert_eq!(failure(&world).as_deref(), Some(reason));
}

#[test]
fn after_the_initial_start_nothing_is_given_up() {
    let mut world = one_ready(RestartPolicy::default());
    deaths(&mut world, 20);
    world.spawns_fail = true;
    death(&mut world);
    world.wait(seconds(600));
    assert_eq!(world.state(FIRST), State::Waiting);
    world.spawns_fail = false;
    world.wait(seconds(5));
    world.ready(FIRST);
    assert_eq!(world.state(FIRST), State::Ready);
    assert_eq!(failure(&world), None);
}

#[test]
fn a_worker_that_is_not_ready_in_time_is_killed_and_has_failed() {
    let policy = RestartPolicy::default().start_attempts(1);
    let mut world = World::started(vec![group(1, policy)]);
    world.wait(Duration::from_millis(29_999));
    assert_eq!(world.state(FIRST), State::Starting);
    world.wait(Duration::from_millis(1));
    assert_eq!(world.state(FIRST), State::Stopping);
    world.ready(FIRST);
    assert_eq!(world.state(FIRST), State::Stopping);
    let exit = ExitStatus::Signal { number: 9, core: false };
    world.exit(FIRST, exit);
    let reason =
        "worker 0 of group web failed 1 times before it was ready: killed: not ready within 30s";
    assert_eq!(failure(&world).as_deref(), Some(reason));
}

#[test]
fn a_worker_that_breaks_the_protocol_is_killed_and_comes_back() {
    let mut world = one_ready(RestartPolicy::default());
    let pid = world.pid(FIRST).unwrap();
    world.violate(FIRST);
    world.violate(FIRST);
    let signal = Signal::Kill;
    let kill = Action::Signal { id: FIRST, pid, signal };
    assert_eq!(count(&world, &kill), 1);
    assert_about(&deaths(&mut world, 1), &[0]);
    world.ready(FIRST);
    assert_eq!(world.state(FIRST), State::Ready);
}

#[test]
fn the_status_tells_what_a_worker_is_doing() {
    let mut world = one_ready(RestartPolicy::default());
    let status = |world: &World| {
        let status = &world.pool.status(world.now)[0];
        format!("{} {} {} {:?}", status.group, status.state, status.restarts, status.since)
    };
    world.wait(seconds(20));
    assert_eq!(status(&world), "web ready 0 20s");
    world.exit(FIRST, CRASH);
    assert_eq!(status(&world), "web starting 1 0ns");
    world.exit(FIRST, CRASH);
    assert_eq!(status(&world), "web starting 2 0ns");
    world.exit(FIRST, CRASH);
    world.wait(Duration::from_millis(50));
    assert_eq!(status(&world), "web waiting 2 50ms");
    world.wait(seconds(1));
    world.send(Event::Stop);
    assert_eq!(status(&world), "web stopping 3 0ns");
    world.exit(FIRST, CRASH);
    assert_eq!(status(&world), "web gone 3 0ns");
}
