//! Which ends of a worker are the last, when that ends the pool, and who is ready after a time.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::seconds;
use crate::supervise::simulation::{Launch, Life, Simulation};
use crate::supervise::*;

const WELL: ExitStatus = ExitStatus::Code(0);
const BADLY: ExitStatus = ExitStatus::Code(3);

fn spec(size: u32, respawn: Respawn, ready: Ready) -> GroupSpec {
    let restart = RestartPolicy::default().respawn(respawn);
    GroupSpec { ready, ..super::group(size, restart) }
}

/// A pool whose processes live so, for an hour.
fn hour(spec: GroupSpec, script: impl FnMut(Launch) -> Life + 'static) -> Simulation {
    let mut world = Simulation::new(vec![spec], seconds(10), 1, script);
    world.run(seconds(3600));
    world
}

fn spawns(world: &Simulation) -> usize {
    let actions = world.history().iter();
    actions.filter(|(_, action)| matches!(action, Action::Spawn { .. })).count()
}

fn outcome(world: &Simulation) -> Option<Outcome> {
    world.history().iter().find_map(|(_, action)| match action {
        Action::Done(outcome) => Some(outcome.clone()),
        _ => None,
    })
}

fn second(exit: ExitStatus) -> Life {
    Life::good().dies_after(seconds(1), exit)
}

#[test]
fn a_worker_that_ended_well_is_not_started_again_on_failure() {
    let mut world = hour(spec(2, Respawn::OnFailure, Ready::Message), |launch| match launch {
        Launch { id: WorkerId(0), .. } => second(WELL),
        Launch { before: 1, .. } => second(BADLY),
        _ => Life::good(),
    });
    assert_eq!((spawns(&world), outcome(&world)), (3, None));
    world.tell(Event::Stop);
    world.run(seconds(20));
    assert_eq!(outcome(&world), Some(Outcome::Stopped));
}

#[test]
fn the_pool_ends_with_its_last_worker() {
    for respawn in [Respawn::OnFailure, Respawn::Never] {
        let world = hour(spec(3, respawn, Ready::Message), |_| second(WELL));
        assert_eq!((spawns(&world), outcome(&world)), (3, Some(Outcome::Stopped)));
    }
    let world = hour(spec(2, Respawn::Never, Ready::Message), |_| second(BADLY));
    let reason = "worker 0 ended: exit status 3".to_owned();
    assert_eq!((spawns(&world), outcome(&world)), (2, Some(Outcome::Failed { reason })));
    let world = hour(spec(1, Respawn::Never, Ready::Message), |_| Life::impossible());
    assert!(matches!(outcome(&world), Some(Outcome::Failed { .. })));
}

#[test]
fn a_pool_without_workers_does_not_end_by_itself() {
    let world = hour(spec(0, Respawn::Never, Ready::Message), |_| Life::good());
    assert_eq!(outcome(&world), None);
}

#[test]
fn ready_is_who_has_lived_long_enough() {
    let policy = spec(1, Respawn::Never, Ready::After(seconds(3)));
    let mut world =
        Simulation::new(vec![policy.clone()], seconds(10), 1, |_| Life::good().never_ready());
    let state = |world: &Simulation| world.status()[0].state;
    world.run(Duration::from_millis(2999));
    assert_eq!(state(&world), State::Starting);
    world.run(seconds(60));
    assert_eq!(state(&world), State::Ready);
    // One that is slow to become ready otherwise would be killed.
    let slow = GroupSpec { restart: policy.restart.clone().ready_timeout(seconds(1)), ..policy };
    assert_eq!(spawns(&hour(slow, |_| Life::good().never_ready())), 1);
}

#[test]
fn a_new_process_that_dies_in_its_time_leaves_the_old_one() {
    let policy = spec(1, Respawn::Never, Ready::After(seconds(3)));
    let mut world = Simulation::new(vec![policy], seconds(10), 1, |launch| {
        let life = Life::good().never_ready();
        if launch.generation == 2 { life.dies_after(seconds(2), WELL) } else { life }
    });
    world.run(seconds(10));
    let first = world.processes().next().map(|process| process.pid);
    let failed = world.change(Operation::Reload);
    world.run(seconds(20));
    assert!(matches!(world.answer(failed), Some(Err(_))));
    assert_eq!(world.processes().next().map(|process| process.pid), first);
    let works = world.change(Operation::Reload);
    world.run(seconds(30));
    assert_eq!(world.answer(works), Some(&Ok(())));
    assert_ne!(world.processes().next().map(|process| process.pid), first);
}

#[test]
fn a_reload_starts_those_again_that_had_ended() {
    let mut world = hour(spec(2, Respawn::OnFailure, Ready::Message), |launch| match launch {
        Launch { id: WorkerId(0), generation: 1, .. } => second(WELL),
        _ => Life::good(),
    });
    let request = world.change(Operation::Reload);
    world.run(seconds(100));
    assert_eq!((world.answer(request), world.processes().count()), (Some(&Ok(())), 2));
    let request = world.change(Operation::Restart { id: WorkerId(0) });
    world.run(seconds(100));
    assert_eq!((world.answer(request), world.processes().count()), (Some(&Ok(())), 2));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Reload,
    Resize(u32),
    Restart(u32),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        Just(Step::Reload),
        (1_u32..4).prop_map(Step::Resize),
        (0_u32..4).prop_map(Step::Restart),
        (1_u64..20_000).prop_map(Step::Wait),
    ];
    vec(step, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is asked for and whenever processes die: nobody waits for ever, no process is started
    /// that nobody asked for, and with the last process goes the pool.
    #[test]
    fn nothing_is_started_again_that_is_not_to_be(
        size in 1_u32..4,
        lives in vec((1_u64..30, any::<bool>()), 1..8),
        on_failure in any::<bool>(),
        ready in select(vec![Ready::Message, Ready::AtOnce, Ready::After(seconds(2))]),
        steps in steps(),
    ) {
        // Everybody ends well, so that both are the same.
        let respawn = if on_failure { Respawn::OnFailure } else { Respawn::Never };
        let script = move |launch: Launch| {
            let (seconds, stubborn) = lives[launch.before as usize % lives.len()];
            let life = Life::good().dies_after(Duration::from_secs(seconds), WELL);
            if stubborn { life.never_stops() } else { life }
        };
        let mut world = Simulation::new(vec![spec(size, respawn, ready)], seconds(10), 1, script);
        let (mut requests, mut most) = (Vec::new(), size as usize);
        for step in steps {
            if outcome(&world).is_some() {
                break;
            }
            match step {
                // A failed generation is taken back, and that may take processes too.
                Step::Reload => {
                    most += 8;
                    requests.push(world.change(Operation::Reload));
                }
                Step::Resize(size) => {
                    most += 4;
                    let group = "web".to_owned();
                    requests.push(world.change(Operation::Resize { group, size }));
                }
                Step::Restart(id) => {
                    most += 1;
                    requests.push(world.change(Operation::Restart { id: WorkerId(id) }));
                }
                Step::Wait(millis) => world.run(Duration::from_millis(millis)),
            }
        }
        world.run(seconds(3600));
        prop_assert!(requests.iter().all(|request| world.answer(*request).is_some()));
        prop_assert!(spawns(&world) <= most, "{} of {most}", spawns(&world));
        prop_assert_eq!(outcome(&world), Some(Outcome::Stopped));
    }
}
