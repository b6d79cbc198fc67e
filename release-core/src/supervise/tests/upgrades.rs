//! Another version of the program takes over.

use super::reloads::*;
use super::seconds;
use crate::supervise::simulation::Life;
use crate::supervise::*;

/// A group that the new version does not have drains, and nothing brings it back.
#[test]
fn a_group_that_is_gone_cannot_be_changed() {
    let old = world(spec(2), |_| Life::good());
    let now = old.now();
    let snapshot = old.pool().snapshot(now);
    let mail = GroupSpec { name: "mail".to_owned(), ..spec(1) };
    let (mut pool, _) = Pool::inherit(vec![mail], &snapshot, seconds(10), None).unwrap();
    let mut actions = Vec::new();
    pool.on(Event::Tick, now, &mut actions);
    assert_eq!(pool.status(now).iter().filter(|it| it.group == "web").count(), 2, "they drain");
    let changes = [
        Operation::Resize { group: "web".to_owned(), size: 3 },
        Operation::Restart { id: WorkerId(0) },
    ];
    for (number, change) in (1..).zip(changes) {
        actions.clear();
        pool.on(Event::Change { request: RequestId(number), change }, now, &mut actions);
        let [Action::Answer { outcome: Err(reason), .. }] = &actions[..] else {
            panic!("{actions:?}");
        };
        let is_told =
            reason == "no group `web`; there is: [\"mail\"]" || reason == "there is no worker 0";
        assert!(is_told, "{reason}");
    }
    assert_eq!(pool.size(1), Some(0));
}

/// Also when the new version cannot take over after all.
#[test]
fn upgrades_that_meet_are_one() {
    let world = world(spec(1), |_| Life::good());
    let snapshot = world.pool().snapshot(world.now());
    let mut pool = Pool::restore(vec![spec(1)], &snapshot, seconds(10)).unwrap();
    let (now, mut actions) = (world.now(), Vec::new());
    let mut tell = |event| {
        actions.clear();
        pool.on(event, now, &mut actions);
        actions.clone()
    };
    let ask = |number| Event::Change { request: RequestId(number), change: Operation::Upgrade };
    assert!(tell(ask(1)).contains(&Action::TryUpgrade));
    assert!(tell(Event::Tried(Ok(()))).contains(&Action::HandOver));
    assert_eq!(tell(ask(2)), []);
    let failed = tell(Event::NotHandedOver { reason: "busy".to_owned() });
    let answers = failed.iter().filter(|it| matches!(it, Action::Answer { outcome: Err(_), .. }));
    assert_eq!(answers.count(), 2);
    assert!(!failed.contains(&Action::TryUpgrade), "a second one begins");
}

/// Until the upgrade is over; then it is the failure of the pool.
#[test]
fn a_task_that_fails_takes_the_new_version_back() {
    let old = world(spec(2), |_| Life::good());
    let now = old.now();
    let snapshot = old.pool().snapshot(now);
    let (mut pool, _) = Pool::inherit(vec![spec(2)], &snapshot, seconds(10), None).unwrap();
    let mut tell = |event| {
        let mut actions = Vec::new();
        pool.on(event, now, &mut actions);
        actions
    };
    let (reason, request) = ("main failed".to_owned(), RequestId(7));
    let failed = Event::TaskFailed { reason: reason.clone() };
    let back = Report::UpgradeRolledBack { generation: 2, reason: reason.clone() };
    assert_eq!(tell(failed.clone()), [Action::Report(back)]);
    let outcome = Err(reason.clone());
    assert_eq!(tell(Event::Rejoin { request }), [Action::Answer { request, outcome }]);
    assert!(tell(failed).contains(&Action::Report(Report::Failing { reason })));
}

/// A group that was left out by one version has the size that the version after that gives it.
#[test]
fn a_group_that_comes_back_has_its_size() {
    let world = world(spec(2), |_| Life::good());
    let mut snapshot = world.pool().snapshot(world.now());
    let mail = GroupSpec { name: "mail".to_owned(), ..spec(1) };
    for (groups, sizes) in [(vec![mail.clone()], [1, 0]), (vec![spec(2), mail], [2, 1])] {
        let inherited = Pool::inherit(groups, &snapshot, seconds(10), None);
        let (pool, _) = inherited.unwrap();
        assert_eq!([0, 1].map(|group| pool.size(group).unwrap()), sizes);
        snapshot = pool.snapshot(world.now());
    }
}
