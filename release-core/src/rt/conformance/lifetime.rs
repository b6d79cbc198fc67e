//! The end of drivers, and of the objects that belong to them.

use std::future::poll_fn;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_channel::oneshot;

use super::super::{Direction, run};
use super::Check;
use super::support::{CountsDrop, Make, half_watched, read, yield_once};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "before_block_on",
        promise: "what is spawned and watched before block_on begins goes on in it",
        body: before_block_on,
    },
    Check {
        name: "unfinished_tasks",
        promise: "tasks that are unfinished when block_on returns are dropped with the driver at the latest",
        body: unfinished_tasks,
    },
    Check {
        name: "wakers_outlive",
        promise: "a waker that is kept beyond the driver's end does nothing, and does not panic",
        body: wakers_outlive,
    },
    Check {
        name: "spawned_too_late",
        promise: "what is spawned after the driver's end is dropped",
        body: spawned_too_late,
    },
    Check {
        name: "main_may_block_again",
        promise: "a driver can run one main future after the other",
        body: main_may_block_again,
    },
    Check {
        name: "drivers_in_turn",
        promise: "a process can use one driver after the other, and two at the same time",
        body: drivers_in_turn,
    },
];

/// A master catches signals and watches inherited descriptors before it runs.
fn before_block_on(make: &Make) {
    let driver = make();
    let rt = driver.handle();
    let ((ours, mut peer), (theirs, mut other)) = (half_watched(&rt), half_watched(&rt));
    let sleeper = rt.clone();
    let task = rt.spawn(async move {
        sleeper.sleep(Duration::from_millis(1)).await;
        theirs.run(Direction::Read, read::<1>).await.expect("read failed")
    });
    let got = run(driver.as_ref(), async {
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            peer.write_all(b"x").expect("write failed");
            // Fails if the task is gone, which is then reported.
            let _ = other.write_all(b"y");
        });
        let got = ours.run(Direction::Read, read::<1>).await.expect("read failed");
        writer.join().expect("the writer panicked");
        (got, task.await)
    });
    assert_eq!(got, (b"x".to_vec(), b"y".to_vec()));
}

/// Tasks that were never polled, that wait for each kind of thing, and that hold the runtime.
fn unfinished_tasks(make: &Make) {
    let driver = make();
    let rt = driver.handle();
    let drops = Arc::new(AtomicUsize::new(0));
    let guard = || CountsDrop(Arc::clone(&drops));
    run(driver.as_ref(), async {
        let (io, peer) = half_watched(&rt);
        let held = (guard(), rt.clone(), peer);
        let reading = async move {
            let _held = held;
            let _ = io.run(Direction::Read, read::<1>).await;
        };
        rt.spawn(reading).detach();
        let held = (guard(), rt.clone());
        let sleeping = async move {
            held.1.sleep(Duration::from_secs(3600)).await;
            drop(held);
        };
        rt.spawn(sleeping).detach();
        let held = (guard(), rt.clone());
        let pending = async move {
            let _held = held;
            std::future::pending::<()>().await;
        };
        rt.spawn(pending).detach();
        for _ in 0..10 {
            yield_once().await;
        }
        let held = (guard(), rt.clone());
        let late = async move {
            let _held = held;
            std::future::pending::<()>().await;
        };
        rt.spawn(late).detach();
    });
    drop(driver);
    assert_eq!(drops.load(Ordering::SeqCst), 4, "so many of 4 tasks were dropped");
}

fn wakers_outlive(make: &Make) {
    let driver = make();
    let rt = driver.handle();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = |kept: &Arc<Mutex<Vec<Waker>>>| {
        let kept = Arc::clone(kept);
        poll_fn(move |cx| {
            kept.lock().expect("a lock").push(cx.waker().clone());
            Poll::Ready(())
        })
    };
    run(driver.as_ref(), async {
        keep(&kept).await;
        rt.spawn(keep(&kept)).await;
        let (then, (kept, running)) = (keep(&kept), oneshot::channel());
        rt.spawn(async {
            then.await;
            let _ = kept.send(());
            std::future::pending::<()>().await;
        })
        .detach();
        running.await.expect("the task was dropped");
    });
    let wake = || kept.lock().expect("a lock").iter().for_each(Waker::wake_by_ref);
    wake();
    drop(driver);
    wake();
    let kept = std::mem::take(&mut *kept.lock().expect("a lock"));
    assert_eq!(kept.len(), 3);
    let elsewhere = std::thread::spawn(|| kept.into_iter().for_each(Waker::wake));
    elsewhere.join().expect("a waker panicked");
}

fn spawned_too_late(make: &Make) {
    let driver = make();
    let rt = driver.handle();
    run(driver.as_ref(), async {});
    drop(driver);
    let drops = Arc::new(AtomicUsize::new(0));
    let guard = CountsDrop(Arc::clone(&drops));
    rt.spawn(async move {
        let _held = guard;
        std::future::pending::<()>().await;
    })
    .detach();
    while drops.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn main_may_block_again(make: &Make) {
    let driver = make();
    let rt = driver.handle();
    for round in 0..3 {
        let answer = run(driver.as_ref(), async {
            rt.sleep(Duration::from_millis(1)).await;
            rt.spawn(async move { round }).await
        });
        assert_eq!(answer, round);
    }
}

fn drivers_in_turn(make: &Make) {
    for _ in 0..3 {
        let (one, other) = (make(), make());
        for driver in [&one, &other] {
            let rt = driver.handle();
            run(driver.as_ref(), async {
                let (io, peer) = half_watched(&rt);
                let end = rt.spawn(async move { io.run(Direction::Read, read::<1>).await });
                rt.sleep(Duration::from_millis(1)).await;
                drop(peer);
                assert_eq!(end.await.expect("read failed"), b"");
            });
        }
    }
}
