//! The behavior of spawned tasks and wakers.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::join_all;

use super::super::{Direction, spawn_local};
use super::Check;
use super::support::{
    A_WHILE, CountsDrop, Make, block_on_plain_thread, drain, eventually, half_watched, on, watch,
    yield_once,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "never_inline",
        promise: "spawn does not run the task inside the call",
        body: never_inline,
    },
    Check {
        name: "many_tasks",
        promise: "every spawned task runs, also those that tasks spawn and that nobody waits for",
        body: many_tasks,
    },
    Check {
        name: "many_at_once",
        promise: "as many tasks as there is memory for may wait at the same time",
        body: many_at_once,
    },
    Check {
        name: "spawned_by_another_thread",
        promise: "a task that another thread spawns is noticed while the driver sleeps",
        body: spawned_by_another_thread,
    },
    Check {
        name: "woken_while_polled",
        promise: "a task that is woken while it is polled is polled again",
        body: woken_while_polled,
    },
    Check {
        name: "done_task",
        promise: "the future of a task is dropped when it is done",
        body: done_task,
    },
    Check {
        name: "foreign_wakes",
        promise: "a wake from another thread is never lost",
        body: foreign_wakes,
    },
    Check {
        name: "no_ambient_context",
        promise: "spawn, sleep_until and register work on a plain thread, and so do their results",
        body: no_ambient_context,
    },
    Check {
        name: "cancelled_task",
        promise: "dropping a Task drops its future soon",
        body: cancelled_task,
    },
    Check {
        name: "panicking_task",
        promise: "a panic in a task reaches whoever waits for it and nobody else",
        body: panicking_task,
    },
    Check {
        name: "unblocked",
        promise: "a function that blocks holds up neither tasks nor timers nor descriptors",
        body: unblocked,
    },
    Check {
        name: "unblocked_in_turn",
        promise: "functions that block all run, also when nobody waits for them, and a panic ends only its own",
        body: unblocked_in_turn,
    },
    Check {
        name: "local_tasks",
        promise: "the main future stays on its thread, and is woken for each of its local tasks",
        body: local_tasks,
    },
    Check {
        name: "busy_task",
        promise: "a task that always has more to do does not shut out timers and descriptors",
        body: busy_task,
    },
    Check {
        name: "idle_driver",
        promise: "a driver that has nothing to do sleeps, and does not look after something now and then",
        body: idle_driver,
    },
];

thread_local!(static SPAWNING: Cell<bool> = const { Cell::new(false) });

fn never_inline(make: &Make) {
    on(make, async |rt| {
        for _ in 0..100 {
            SPAWNING.set(true);
            let inline = rt.spawn(async { SPAWNING.get() });
            SPAWNING.set(false);
            assert!(!inline.await, "the task ran on the stack of spawn");
        }
    });
}

fn local_tasks(make: &Make) {
    on(make, async |rt| {
        let (home, sum) = (thread::current().id(), Rc::new(Cell::new(0)));
        let task = |number: u32| {
            let (sum, rt) = (Rc::clone(&sum), rt.clone());
            spawn_local(async move {
                let timer = rt.clone();
                // Another thread may wake it.
                let elsewhere = rt.spawn(async move {
                    timer.sleep(Duration::from_millis(1)).await;
                    number
                });
                let number = elsewhere.await;
                sum.set(sum.get() + number);
                rt.sleep(Duration::from_millis(1)).await;
                assert_eq!(thread::current().id(), home, "a local task changed its thread");
            })
        };
        join_all((0..100).map(task)).await;
        assert_eq!(sum.get(), 4950, "local tasks did not run to their end");
    });
}

fn many_tasks(make: &Make) {
    on(make, async |rt| {
        let (done, mut finished) = futures_channel::mpsc::unbounded();
        let parents = (0..100_u32).map(|parent| {
            let (rt, done) = (rt.clone(), done.clone());
            let spawner = rt.clone();
            spawner.spawn(async move {
                // A task that was woken from outside wakes itself in that very poll.
                rt.sleep(Duration::from_millis(1)).await;
                for _ in 0..3 {
                    yield_once().await;
                }
                let child = async move { done.unbounded_send(parent).expect("nobody listens") };
                rt.spawn(child).detach();
                parent
            })
        });
        let parents: u32 = join_all(parents.collect::<Vec<_>>()).await.into_iter().sum();
        drop(done);
        let mut children = 0;
        while let Some(child) = futures_util::StreamExt::next(&mut finished).await {
            children += child;
        }
        assert_eq!((parents, children), (4950, 4950));
    });
}

fn many_at_once(make: &Make) {
    const TASKS: usize = 5_000;
    on(make, async |rt| {
        let mut go = Vec::new();
        let mut task = || {
            let (sender, receiver) = oneshot::channel::<()>();
            go.push(sender);
            rt.spawn(receiver)
        };
        let tasks: Vec<_> = (0..TASKS).map(|_| task()).collect();
        yield_once().await;
        go.into_iter().for_each(drop);
        assert_eq!(join_all(tasks).await.len(), TASKS);
    });
}

fn spawned_by_another_thread(make: &Make) {
    on(make, async |rt| {
        for _ in 0..3 {
            let (done, finished) = oneshot::channel();
            let spawner = rt.clone();
            let thread = thread::spawn(move || {
                thread::sleep(Duration::from_millis(30));
                spawner.spawn(async move { _ = done.send(()) }).detach();
            });
            finished.await.expect("the task was dropped");
            thread.join().expect("the thread panicked");
        }
    });
}

fn woken_while_polled(make: &Make) {
    on(make, async |rt| {
        for round in 0..100 {
            let mut is_first = true;
            let task = poll_fn(move |cx| {
                if !std::mem::take(&mut is_first) {
                    return Poll::Ready(());
                }
                let waker = cx.waker().clone();
                if round % 2 == 0 {
                    waker.wake();
                } else {
                    thread::spawn(|| waker.wake()).join().expect("the thread panicked");
                }
                Poll::Pending
            });
            rt.spawn(task).await;
        }
    });
}

fn done_task(make: &Make) {
    on(make, async |rt| {
        let drops = Arc::new(AtomicUsize::new(0));
        let guard = CountsDrop(Arc::clone(&drops));
        // Held by the future itself, and not by the code that it runs.
        let mut held = Some(guard);
        let task = poll_fn(move |_| {
            let _ = &mut held;
            Poll::Ready(())
        });
        rt.0.spawn(Box::pin(task));
        eventually(&rt, || drops.load(Ordering::SeqCst) == 1).await;
    });
}

fn foreign_wakes(make: &Make) {
    on(make, async |rt| {
        let (requests, inbox) = std::sync::mpsc::channel::<oneshot::Sender<u32>>();
        let waker = thread::spawn(move || {
            for (round, answer) in (0..).zip(inbox) {
                // A little later each time, to meet the driver going to sleep at every point.
                thread::sleep(Duration::from_micros(u64::from(round % 50)));
                let _ = answer.send(round);
            }
        });
        for round in 0..1000 {
            let (answer, answered) = oneshot::channel();
            requests.send(answer).expect("the thread is gone");
            // Half of them wake the main future, half a task.
            let got = if round % 2 == 0 { answered.await } else { rt.spawn(answered).await };
            assert_eq!(got, Ok(round));
        }
        drop(requests);
        waker.join().expect("the thread panicked");
    });
}

fn no_ambient_context(make: &Make) {
    on(make, async |rt| {
        let (done, finished) = oneshot::channel();
        let plain = {
            let rt = rt.clone();
            thread::spawn(move || {
                let task = rt.spawn(async { 1 });
                let (near, mut far) = UnixStream::pair().expect("socketpair failed");
                let near = watch(&rt, near);
                let outcome = block_on_plain_thread(async {
                    rt.sleep(Duration::from_millis(5)).await;
                    let late = thread::spawn(move || {
                        thread::sleep(Duration::from_millis(5));
                        far.write_all(b"far").expect("write failed");
                    });
                    let bytes = near.run(Direction::Read, drain::<16>).await.expect("read failed");
                    late.join().expect("the writer panicked");
                    (task.await, bytes)
                });
                done.send(outcome).expect("the main future is gone");
            })
        };
        // Asleep meanwhile, without timers or descriptors of its own.
        assert_eq!(finished.await, Ok((1, b"far".to_vec())));
        plain.join().expect("the thread panicked");
    });
}

fn cancelled_task(make: &Make) {
    on(make, async |rt| {
        let drops = Arc::new(AtomicUsize::new(0));
        let guard = CountsDrop(Arc::clone(&drops));
        let (dropped, seen) = oneshot::channel::<()>();
        let (started, running) = oneshot::channel();
        let task = rt.spawn(async move {
            let _held = (guard, dropped);
            let _ = started.send(());
            std::future::pending::<()>().await;
        });
        running.await.expect("the task did not start");
        assert_eq!(drops.load(Ordering::SeqCst), 0);
        drop(task);
        seen.await.expect_err("nothing is ever sent");
        assert_eq!(drops.load(Ordering::SeqCst), 1);
    });
}

fn panicking_task(make: &Make) {
    on(make, async |rt| {
        let mut after = Vec::new();
        for _ in 0..10 {
            // Without the hook, which would write to standard error.
            let bad = rt.spawn(async { std::panic::resume_unwind(Box::new("on purpose")) });
            let good = rt.spawn(async {
                yield_once().await;
                1
            });
            let caught = AssertUnwindSafe(bad).catch_unwind().await;
            let panic: Box<dyn std::any::Any + Send> = caught.expect_err("the panic was swallowed");
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
            after.push(good.await);
        }
        assert_eq!(after, [1; 10]);
    });
}

fn unblocked(make: &Make) {
    on(make, async |rt| {
        let (go_on, may_go_on) = std::sync::mpsc::channel::<u32>();
        let caller = thread::current().id();
        let blocking = rt.unblock(move || {
            let got = may_go_on.recv();
            (got, thread::current().id() != caller)
        });
        let (io, mut peer) = half_watched(&rt);
        rt.sleep(Duration::from_millis(1)).await;
        peer.write_all(b"x").expect("write failed");
        io.run(Direction::Read, drain::<16>).await.expect("read failed");
        assert_eq!(rt.spawn(async { 1 }).await, 1);
        go_on.send(7).expect("the function was dropped");
        let (got, is_elsewhere) = blocking.await.expect("the function failed");
        assert_eq!(got, Ok(7));
        assert!(is_elsewhere, "the function ran on the caller's thread");
    });
}

fn unblocked_in_turn(make: &Make) {
    on(make, async |rt| {
        let runs = Arc::new(AtomicUsize::new(0));
        for round in 0..100 {
            let count = Arc::clone(&runs);
            let function = move || count.fetch_add(1, Ordering::SeqCst);
            if round % 2 == 0 {
                drop(rt.unblock(function));
            } else {
                rt.unblock(function).await.expect("the function failed");
            }
            // Without the hook, which would write to standard error.
            let panics = rt.unblock(|| std::panic::resume_unwind(Box::new("on purpose")));
            let failed: Result<(), _> = panics.await;
            failed.expect_err("the panic was swallowed");
        }
        eventually(&rt, || runs.load(Ordering::SeqCst) == 100).await;
    });
}

fn busy_task(make: &Make) {
    on(make, async |rt| {
        let busy = rt.spawn(async {
            loop {
                yield_once().await;
            }
        });
        let (io, mut peer) = half_watched(&rt);
        for _ in 0..3 {
            rt.sleep(Duration::from_millis(1)).await;
            peer.write_all(b"x").expect("write failed");
            let got = io.run(Direction::Read, drain::<16>).await.expect("read failed");
            assert_eq!(got, b"x");
        }
        drop(busy);
    });
}

fn idle_driver(make: &Make) {
    on(make, async |rt| {
        let (io, _peer) = half_watched(&rt);
        let waiting = rt.spawn(async move { io.run(Direction::Read, drain::<16>).await });
        let status = format!("/proc/self/task/{}/status", nix::unistd::gettid());
        let (idle, found) = oneshot::channel();
        let watching = thread::spawn(move || {
            let is_idle = (0..10).any(|_| {
                let before = sleeps(&status);
                thread::sleep(3 * A_WHILE);
                sleeps(&status) == before
            });
            let _ = idle.send(is_idle);
        });
        assert_eq!(found.await, Ok(true), "the thread never sleeps for {:?}", 3 * A_WHILE);
        watching.join().expect("the thread panicked");
        drop(waiting);
    });
}

/// How often a thread has gone to sleep.
fn sleeps(status: &str) -> Option<String> {
    let status = std::fs::read_to_string(status).ok()?;
    status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).map(str::to_owned)
}
