//! The contract of `sleep_until`.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::join_all;

use super::super::{Elapsed, Rt};
use super::Check;
use super::support::{A_WHILE, Make, WakeCounter, block_on_plain_thread, on};

/// The allowed delay of a timer on a very busy machine.
const LATE: Duration = Duration::from_secs(5);

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "never_early",
        promise: "a timer is not done before its deadline",
        body: never_early,
    },
    Check {
        name: "past_deadline",
        promise: "a timer whose deadline has passed is done at once",
        body: past_deadline,
    },
    Check {
        name: "many_timers",
        promise: "each of many timers is done at its own deadline, in whatever order they were made",
        body: many_timers,
    },
    Check {
        name: "timeouts",
        promise: "a timeout fires when nothing else wakes the driver, and not when it is not needed",
        body: timeouts,
    },
    Check {
        name: "dropped_timer",
        promise: "dropping a timer cancels it: it wakes nobody",
        body: dropped_timer,
    },
    Check {
        name: "moved_timer",
        promise: "a timer wakes the task that polled it last",
        body: moved_timer,
    },
    Check {
        name: "equal_deadlines",
        promise: "each of several timers with one deadline is done",
        body: equal_deadlines,
    },
    Check {
        name: "polled_again",
        promise: "a timer that is polled again before its deadline is not done",
        body: polled_again,
    },
    Check {
        name: "ten_years",
        promise: "a timer of ten years waits, and holds up nobody",
        body: ten_years,
    },
    Check {
        name: "over_a_second",
        promise: "a timer of more than a second is done at its deadline",
        body: over_a_second,
    },
    Check {
        name: "timer_of_another_thread",
        promise: "a timer that another thread begins to wait for is noticed while the driver sleeps",
        body: timer_of_another_thread,
    },
    Check {
        name: "timers_leave_nothing",
        promise: "timers that are dropped or done leave nothing in memory",
        body: timers_leave_nothing,
    },
];

fn never_early(make: &Make) {
    on(make, async |rt| {
        for micros in [1, 50, 300, 999, 1_000, 1_001, 1_500, 3_700, 10_000] {
            let deadline = rt.now() + Duration::from_micros(micros);
            rt.sleep_until(deadline).await;
            assert!(rt.now() >= deadline, "a timer of {micros} microseconds was done too early");
        }
    });
}

fn past_deadline(make: &Make) {
    on(make, async |rt| {
        let past = rt.now();
        rt.sleep(Duration::from_millis(2)).await;
        rt.sleep_until(past).await;
        rt.sleep(Duration::ZERO).await;
        let late = rt.now() - past;
        assert!(late < LATE, "deadlines in the past took {late:?}");
    });
}

fn many_timers(make: &Make) {
    on(make, async |rt| {
        let _far = rt.spawn(far_away(rt.clone()));
        let start = rt.now();
        // 37 and 100 have no common factor: each of 0..100 milliseconds once, in mixed order.
        let sleepers = (0..100).map(|n| rt.spawn(sleeper(rt.clone(), n * 37 % 100)));
        for late in join_all(sleepers.collect::<Vec<_>>()).await {
            assert!(late < LATE, "a timer was late by {late:?}");
        }
        let taken = rt.now() - start;
        assert!(taken >= Duration::from_millis(99), "all timers were done after {taken:?}");
    });
}

/// A timer that must delay no other task.
async fn far_away(rt: Rt) {
    rt.sleep(Duration::from_secs(3600)).await;
}

/// Sleeps. Returns by how much the sleep was too long.
async fn sleeper(rt: Rt, millis: u64) -> Duration {
    let deadline = rt.now() + Duration::from_millis(millis);
    rt.sleep_until(deadline).await;
    rt.now().checked_duration_since(deadline).expect("a timer was done before its deadline")
}

fn timeouts(make: &Make) {
    on(make, async |rt| {
        let never = std::future::pending::<()>();
        assert_eq!(rt.timeout(Duration::from_millis(20), never).await, Err(Elapsed));
        let quick = async {
            rt.sleep(Duration::from_millis(1)).await;
            5
        };
        assert_eq!(rt.timeout(Duration::from_secs(3600), quick).await, Ok(5));
    });
}

fn dropped_timer(make: &Make) {
    on(make, async |rt| {
        let wakes = Arc::new(WakeCounter::default());
        let waker = Waker::from(Arc::clone(&wakes));
        {
            let timer = pin!(rt.sleep(A_WHILE / 2));
            assert!(timer.poll(&mut Context::from_waker(&waker)).is_pending());
        }
        rt.sleep(A_WHILE).await;
        assert_eq!(wakes.count(), 0, "a timer that was dropped woke its task");
    });
}

fn equal_deadlines(make: &Make) {
    on(make, async |rt| {
        for millis in [0, 20] {
            let deadline = rt.now() + Duration::from_millis(millis);
            let sleeper = |rt: Rt| async move { rt.sleep_until(deadline).await };
            let all: Vec<_> = (0..10).map(|_| rt.spawn(sleeper(rt.clone()))).collect();
            join_all(all).await;
        }
    });
}

fn polled_again(make: &Make) {
    on(make, async |rt| {
        let deadline = rt.now() + A_WHILE;
        let mut timer = pin!(rt.sleep_until(deadline));
        for _ in 0..5 {
            if timer.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                assert!(rt.now() >= deadline, "a timer was done when it was polled again");
                return;
            }
            rt.sleep(Duration::from_millis(1)).await;
        }
        timer.await;
        assert!(rt.now() >= deadline, "a timer was done before its deadline");
    });
}

fn ten_years(make: &Make) {
    on(make, async |rt| {
        let deadline = rt.now() + Duration::from_secs(10 * 365 * 24 * 60 * 60);
        let mut far = pin!(rt.sleep_until(deadline));
        for _ in 0..3 {
            let polled = far.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending(), "a timer of ten years was done at once");
            rt.sleep(Duration::from_millis(1)).await;
        }
        // The driver sleeps with nothing but that timer until another thread comes.
        let (sender, receiver) = oneshot::channel();
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            let _ = sender.send(());
        });
        let in_time = rt.timeout_at(deadline, receiver).await;
        assert_eq!(in_time, Ok(Ok(())), "a timeout of ten years was over");
        thread.join().expect("the thread panicked");
    });
}

fn over_a_second(make: &Make) {
    on(make, async |rt| {
        let sleepers = [1_100, 2_100].map(|millis| rt.spawn(sleeper(rt.clone(), millis)));
        for late in join_all(sleepers).await {
            assert!(late < LATE, "a timer was late by {late:?}");
        }
    });
}

fn timer_of_another_thread(make: &Make) {
    on(make, async |rt| {
        // Asleep without any timer, and then with one that is much later.
        for far in [false, true] {
            let _far = far.then(|| rt.spawn(far_away(rt.clone())));
            let (done, finished) = oneshot::channel();
            let timers = rt.clone();
            let thread = thread::spawn(move || {
                thread::sleep(Duration::from_millis(30));
                block_on_plain_thread(timers.sleep(Duration::from_millis(20)));
                let _ = done.send(());
            });
            finished.await.expect("the thread panicked");
            thread.join().expect("the thread panicked");
        }
    });
}

fn timers_leave_nothing(make: &Make) {
    const TIMERS: usize = 100_000;
    on(make, async |rt| {
        let mut growth = Vec::new();
        // The first round warms up; in the others, unrelated parts of this process may grow too.
        for _ in 0..4 {
            let before = memory();
            for number in 0..TIMERS {
                let timer = pin!(rt.sleep(Duration::from_secs(3600)));
                let _ = timer.poll(&mut Context::from_waker(Waker::noop()));
                if number % 1000 == 0 {
                    let done = (0..100).map(|_| rt.sleep(Duration::from_millis(1)));
                    join_all(done).await;
                }
            }
            growth.push(memory().saturating_sub(before));
        }
        let least = growth[1..].iter().min().copied().unwrap_or_default();
        assert!(least < 8 * TIMERS, "{least} bytes more for {TIMERS} timers that are gone");
    });
}

/// Returns the number of bytes of memory that this process uses.
fn memory() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    resident.unwrap_or_default() * 4096
}

fn moved_timer(make: &Make) {
    on(make, async |rt| {
        let mut timer = pin!(rt.sleep(Duration::from_millis(20)));
        assert!(timer.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        timer.await;
    });
}
