//! What `sleep_until` promises.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::join_all;

use super::super::{Elapsed, Rt};
use super::Check;
use super::support::{A_WHILE, Make, Wakes, on};

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
        assert!(late < Duration::from_secs(1), "deadlines in the past took {late:?}");
    });
}

fn many_timers(make: &Make) {
    on(make, async |rt| {
        let _far = rt.spawn(far_away(rt.clone()));
        let start = rt.now();
        // 37 and 100 have no common factor: each of 0..100 milliseconds once, in mixed order.
        let sleepers = (0..100).map(|n| rt.spawn(sleeper(rt.clone(), n * 37 % 100)));
        for late in join_all(sleepers.collect::<Vec<_>>()).await {
            assert!(late < Duration::from_secs(1), "a timer was late by {late:?}");
        }
        let taken = rt.now() - start;
        assert!(taken >= Duration::from_millis(99), "all timers were done after {taken:?}");
    });
}

/// A timer that must hold up nobody.
async fn far_away(rt: Rt) {
    rt.sleep(Duration::from_secs(3600)).await;
}

/// Sleeps, and tells by how much it was too long.
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
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        {
            let timer = pin!(rt.sleep(A_WHILE / 2));
            assert!(timer.poll(&mut Context::from_waker(&waker)).is_pending());
        }
        rt.sleep(A_WHILE).await;
        assert_eq!(wakes.count(), 0, "a timer that was dropped woke its task");
    });
}

fn moved_timer(make: &Make) {
    on(make, async |rt| {
        let mut timer = pin!(rt.sleep(Duration::from_millis(20)));
        assert!(timer.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        timer.await;
    });
}
