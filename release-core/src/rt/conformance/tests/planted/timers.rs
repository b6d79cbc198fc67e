//! Faults of timers.

use std::future::{pending, poll_fn};
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::{BoxFuture, Fault, Plant, Rt};

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

pub(super) fn spoil(deadline: Instant, rt: &Rt, plant: &Arc<Plant>) -> BoxFuture {
    let right = |deadline| rt.0.sleep_until(deadline);
    let (start, wait) = (plant.start, deadline.saturating_duration_since(rt.now()));
    match plant.fault {
        Some(Fault::EqualDeadlines) if !plant.state().deadlines.insert(deadline) => {
            Box::pin(pending())
        }
        Some(Fault::NoTenYears) if wait > YEAR => panic!("on purpose"),
        Some(Fault::TenYearsAtOnce) if wait > YEAR => Box::pin(async {}),
        Some(Fault::NothingOverASecond) if wait > Duration::from_secs(1) => Box::pin(pending()),
        Some(Fault::WholeMillis) => {
            let millis = deadline.saturating_duration_since(start).as_millis();
            right(start + Duration::from_millis(millis.try_into().unwrap()))
        }
        Some(Fault::Late) => right(deadline + Duration::from_secs(10)),
        Some(Fault::TimersLeak) => {
            plant.state().leaked.push([1; 8]);
            right(deadline)
        }
        Some(Fault::ReadyOnAnyWake) => {
            let (mut timer, mut is_first) = (right(deadline), true);
            Box::pin(poll_fn(move |cx| {
                let polled = timer.as_mut().poll(cx);
                if std::mem::take(&mut is_first) { polled } else { Poll::Ready(()) }
            }))
        }
        Some(Fault::UnseenTimer) => {
            let (mut timer, plant) = (right(deadline), Arc::clone(plant));
            Box::pin(poll_fn(move |cx| {
                if plant.is_elsewhere() {
                    plant.state().wakers.push(cx.waker().clone());
                    return Poll::Pending;
                }
                timer.as_mut().poll(cx)
            }))
        }
        Some(Fault::DroppedTimerWakes) => {
            let mut timer = Some(right(deadline));
            // Forgotten, and so still armed.
            Box::pin(Forgets(move |cx: &mut Context<'_>, is_dropped| match &mut timer {
                Some(_) if is_dropped => {
                    let _ = ManuallyDrop::new(timer.take());
                    Poll::Pending
                }
                Some(timer) => timer.as_mut().poll(cx),
                None => Poll::Ready(()),
            }))
        }
        Some(Fault::FirstTimerWaker) => {
            let (mut timer, mut first) = (right(deadline), None);
            Box::pin(poll_fn(move |cx| {
                let first = first.get_or_insert_with(|| cx.waker().clone());
                timer.as_mut().poll(&mut Context::from_waker(first))
            }))
        }
        _ => right(deadline),
    }
}

/// A future from a function that is called once more when it is dropped.
struct Forgets<F: FnMut(&mut Context<'_>, bool) -> Poll<()>>(F);

impl<F: FnMut(&mut Context<'_>, bool) -> Poll<()> + Unpin> Future for Forgets<F> {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        (self.0)(cx, false)
    }
}

impl<F: FnMut(&mut Context<'_>, bool) -> Poll<()>> Drop for Forgets<F> {
    fn drop(&mut self) {
        let _ = (self.0)(&mut Context::from_waker(std::task::Waker::noop()), true);
    }
}
