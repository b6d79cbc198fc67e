//! Faults of tasks and of their wakers.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::{BoxFuture, Fault, Plant, rest};

/// The task as it is run, if it is.
pub(super) fn spoil(mut task: BoxFuture, plant: &Arc<Plant>) -> Option<BoxFuture> {
    let live = plant.live.fetch_add(1, Ordering::SeqCst);
    let has_ended = plant.has_ended.load(Ordering::SeqCst);
    match plant.fault {
        Some(Fault::ThousandTasks) if live >= 1000 => return None,
        Some(Fault::UnseenSpawn) if plant.is_elsewhere() => {
            plant.state().unseen.push(task);
            return None;
        }
        Some(Fault::EarlySpawnLost) if plant.state().driver.is_none() => return None,
        Some(Fault::LateSpawnPanics) if has_ended => panic!("on purpose"),
        Some(Fault::LateSpawnStays) if has_ended => {
            let _ = ManuallyDrop::new(task);
            return None;
        }
        Some(Fault::Inline)
            if task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() =>
        {
            return None;
        }
        _ => {}
    }
    let mut task =
        Spoilt { task: ManuallyDrop::new(task), plant: Arc::clone(plant), is_done: false };
    Some(Box::pin(std::future::poll_fn(move |cx| task.poll(cx))))
}

struct Spoilt {
    task: ManuallyDrop<BoxFuture>,
    plant: Arc<Plant>,
    is_done: bool,
}

impl Spoilt {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waker = Arc::new(SpoiltWaker {
            inner: cx.waker().clone(),
            plant: Arc::clone(&self.plant),
            is_polling: AtomicBool::new(true),
            is_woken: AtomicBool::new(false),
        });
        let as_waker = Waker::from(Arc::clone(&waker));
        let mut polled = self.task.as_mut().poll(&mut Context::from_waker(&as_waker));
        while self.plant.has(Fault::GreedyTask)
            && polled.is_pending()
            && waker.is_woken.swap(false, Ordering::SeqCst)
        {
            rest();
            polled = self.task.as_mut().poll(&mut Context::from_waker(&as_waker));
        }
        waker.is_polling.store(false, Ordering::SeqCst);
        self.is_done |= polled.is_ready();
        polled
    }
}

impl Drop for Spoilt {
    fn drop(&mut self) {
        self.plant.live.fetch_sub(1, Ordering::SeqCst);
        let stays = match self.plant.fault {
            Some(Fault::DoneTasksStay) => self.is_done,
            Some(Fault::UnfinishedTasksStay) => !self.is_done,
            _ => false,
        };
        if !stays {
            drop(std::mem::replace(&mut *self.task, Box::pin(async {})));
        }
    }
}

struct SpoiltWaker {
    inner: Waker,
    plant: Arc<Plant>,
    is_polling: AtomicBool,
    is_woken: AtomicBool,
}

impl Wake for SpoiltWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let has_ended = self.plant.has_ended.load(Ordering::SeqCst);
        assert!(!has_ended || !self.plant.has(Fault::LateWakePanics), "on purpose");
        self.is_woken.store(true, Ordering::SeqCst);
        let is_lost = match self.plant.fault {
            Some(Fault::LostWhilePolled) => self.is_polling.load(Ordering::SeqCst),
            Some(Fault::ForeignWakesLost) => self.plant.is_elsewhere(),
            _ => false,
        };
        if !is_lost {
            self.inner.wake_by_ref();
        }
    }
}
