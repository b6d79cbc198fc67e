//! Tests of the suite: each fault is planted in an otherwise correct runtime, and must be found.

mod planted;

use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use self::planted::{Fault, Planted};
use super::{Check, Make, checks, judge};

/// Each fault, with the checks of which at least one must find it.
const FAULTS: &[Row] = &[
    (Fault::EqualDeadlines, &["equal_deadlines"]),
    (Fault::ReadyOnAnyWake, &["polled_again"]),
    (Fault::NoTenYears, &["ten_years"]),
    (Fault::TenYearsAtOnce, &["ten_years"]),
    (Fault::NothingOverASecond, &["over_a_second"]),
    (Fault::TimersLeak, &["timers_leave_nothing"]),
    (Fault::UnseenTimer, &["timer_of_another_thread"]),
    (Fault::WholeMillis, &["never_early"]),
    (Fault::Late, &["many_timers", "timeouts", "past_deadline"]),
    (Fault::DroppedTimerWakes, &["dropped_timer"]),
    (Fault::FirstTimerWaker, &["moved_timer"]),
    (Fault::ClockStands, &["never_early"]),
    (Fault::UnseenSpawn, &["spawned_by_another_thread"]),
    (Fault::ThousandTasks, &["many_at_once"]),
    (Fault::Inline, &["never_inline"]),
    (Fault::LostWhilePolled, &["woken_while_polled"]),
    (Fault::ForeignWakesLost, &["foreign_wakes"]),
    (Fault::GreedyTask, &["busy_task"]),
    (Fault::LooksNowAndThen, &["idle_driver"]),
    (Fault::DoneTasksStay, &["done_task"]),
    (Fault::UnfinishedTasksStay, &["unfinished_tasks"]),
    (Fault::LateWakePanics, &["wakers_outlive"]),
    (Fault::LateSpawnPanics, &["spawned_too_late"]),
    (Fault::LateSpawnStays, &["spawned_too_late"]),
    (Fault::EarlySpawnLost, &["before_block_on"]),
    (Fault::OnlyOnce, &["main_may_block_again"]),
    (Fault::EndsEarly, &["timeouts", "echo"]),
    (Fault::UnblocksInline, &["unblocked"]),
    (Fault::UnblocksInATask, &["unblocked"]),
    (Fault::UnblocksTheFirst, &["unblocked_in_turn"]),
    (Fault::SourceStaysOpen, &["dropped_source"]),
    (Fault::SourceClosedLater, &["dropped_source"]),
    (Fault::NumberUsedOnce, &["dropped_source"]),
    (Fault::ThousandSources, &["many_sources"]),
    (Fault::SelectLimit, &["many_sources"]),
    (Fault::OneWaker, &["each_direction_for_itself", "both_directions"]),
    (Fault::FirstWaker, &["last_waker_wins"]),
    (Fault::Repeats, &["success_ends_the_call"]),
    (Fault::SwallowsErrors, &["errors_are_passed_on"]),
    (Fault::Spins, &["no_spin"]),
    (Fault::EndNotSeen, &["write_then_close"]),
    (Fault::EarlyReadinessLost, &["accept", "child_exit"]),
    (Fault::NoWriting, &["filled_then_room"]),
    (Fault::UnawaitedEventLost, &["unawaited_event"]),
    (Fault::EndOfBoth, &["half_closed"]),
    (Fault::WatchStays, &["kept_duplicate"]),
    (Fault::OneIsWoken, &["many_duplicates"]),
];

/// Time limit of a check that may hang on a faulty runtime. On a very busy machine, a slow check
/// may count as hung, which is one more finding.
const SHORT: Duration = Duration::from_secs(3);

/// The same limit for a check that runs alone.
const SHORTEST: Duration = Duration::from_secs(1);

/// Checks that measure the whole process and never hang. Other threads of this process may
/// disturb them, like those of descriptors: they run one after the other at the end, and are
/// repeated for a while.
const MEASURED: &[&str] = &["no_spin", "timers_leave_nothing"];

/// Checks of the descriptors of the whole process.
const OF_DESCRIPTORS: &[&str] = &["dropped_source", "kept_duplicate", "many_sources"];

/// Other tests run in this process, and end before.
const PATIENCE: Duration = Duration::from_secs(900);

/// Number of attempts to find a fault that a single check may miss.
const LOOKS: usize = 20;

type Row = (Fault, &'static [&'static str]);

fn is_of_the_process(name: &str) -> bool {
    MEASURED.contains(&name) || OF_DESCRIPTORS.contains(&name)
}

fn is_found((fault, expected): &Row, limit: Duration) -> bool {
    let is_measured = expected.iter().any(|name| MEASURED.contains(name));
    let limit = if is_measured { super::DEADLINE } else { limit };
    let make = make(Some(*fault));
    let mut able = checks().filter(|check| expected.contains(&check.name));
    let found = able.find_map(|check| judge(check, &make, limit));
    found.is_some_and(|report| report.contains("\n  but: "))
}

/// One test, not two: some checks measure the whole process.
#[test]
fn what_is_right_passes_and_each_planted_fault_is_found() {
    let names: Vec<_> = checks().map(|check| check.name).collect();
    let mut expected =
        FAULTS.iter().flat_map(|(_, expected)| *expected).chain(MEASURED).chain(OF_DESCRIPTORS);
    assert_eq!(expected.find(|name| !names.contains(name)), None, "there is no such check");

    let (alone, together): (Vec<Row>, Vec<Row>) =
        FAULTS.iter().partition(|(_, expected)| expected.iter().any(|it| is_of_the_process(it)));
    let mut missed: Vec<&Row> = Vec::new();
    std::thread::scope(|scope| {
        // Most of the time is spent waiting for hung checks.
        let looking: Vec<_> =
            together.iter().map(|row| (row, scope.spawn(|| is_found(row, SHORT)))).collect();
        let rights = RIGHT.map(|right| {
            scope.spawn(move || passes(right, |check| !is_of_the_process(check.name)))
        });
        rights.into_iter().for_each(|right| right.join().unwrap());
        let is_missed =
            |(row, found): (_, ScopedJoinHandle<'_, bool>)| (!found.join().unwrap()).then_some(row);
        missed.extend(looking.into_iter().filter_map(is_missed));
    });
    RIGHT.into_iter().for_each(|right| passes(right, |check| is_of_the_process(check.name)));
    missed.extend(alone.iter().filter(|row| !(0..LOOKS).any(|_| is_found(row, SHORTEST))));
    assert!(missed.is_empty(), "not found: {missed:#?}");
}

/// The same runtime without a fault, and one that does not try before an event, which may
/// return `Pending` although nothing blocks.
const RIGHT: [Option<Fault>; 2] = [None, Some(Fault::WaitsFirst)];

fn passes(right: Option<Fault>, which: fn(&Check) -> bool) {
    let make = make(right);
    let fails = |check: &'static Check| {
        let until = is_of_the_process(check.name).then(|| Instant::now() + PATIENCE);
        loop {
            let failure = judge(check, &make, super::DEADLINE)?;
            if until.is_none_or(|until| until < Instant::now()) {
                return Some(failure);
            }
        }
    };
    let failures: Vec<_> = checks().filter(|check| which(check)).filter_map(fails).collect();
    assert!(failures.is_empty(), "{right:?}\n{}", failures.join("\n"));
}

fn make(fault: Option<Fault>) -> Arc<Make> {
    Arc::new(move || Box::new(Planted::new(fault)))
}
