//! Faults of watched descriptors.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::super::super::{Direction, Progress, Source};
use super::{Fault, Plant, rest};

#[derive(Debug)]
pub(super) struct Spoilt {
    inner: Option<Box<dyn Source>>,
    plant: Arc<Plant>,
    is_deaf: bool,
    /// For each direction: whether it was told to wait once for nothing, and whether it may try.
    is_warned: [AtomicBool; 2],
    may_try: [AtomicBool; 2],
    first: Mutex<Option<Waker>>,
    /// The last waiter, in either direction.
    last: Mutex<Option<(Direction, Waker)>>,
    is_drained: AtomicBool,
    was_ready: bool,
}

type Attempt<'a> = &'a mut dyn FnMut(BorrowedFd<'_>) -> io::Result<Progress>;

impl Spoilt {
    pub(super) fn new(inner: Box<dyn Source>, plant: &Arc<Plant>, is_new: bool) -> Self {
        let count = plant.watched.fetch_add(1, Ordering::SeqCst);
        let is_deaf = plant.has(Fault::NumberUsedOnce) && !is_new
            || plant.has(Fault::ThousandSources) && count >= 1000;
        let was_ready = is_ready(inner.as_fd(), PollFlags::POLLIN);
        Self {
            inner: Some(inner),
            plant: Arc::clone(plant),
            is_deaf,
            is_warned: Default::default(),
            may_try: Default::default(),
            first: Mutex::default(),
            last: Mutex::default(),
            is_drained: AtomicBool::new(false),
            was_ready,
        }
    }

    fn inner(&self) -> &dyn Source {
        self.inner.as_deref().unwrap()
    }

    /// Waits until the descriptor is ready before any attempt.
    fn wait_first(
        &self,
        cx: &mut Context<'_>,
        to: Direction,
        attempt: Attempt<'_>,
    ) -> Poll<io::Result<()>> {
        let [reading, writing] = &self.may_try;
        let may_try = if to == Direction::Read { reading } else { writing };
        let [reading, writing] = &self.is_warned;
        let is_warned = if to == Direction::Read { reading } else { writing };
        if !is_warned.swap(true, Ordering::SeqCst) {
            // The driver has not looked yet.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            if !may_try.load(Ordering::SeqCst) {
                let wanted =
                    if to == Direction::Read { PollFlags::POLLIN } else { PollFlags::POLLOUT };
                ready!(self.inner().poll_io(cx, to, &mut |fd| match is_ready(fd, wanted) {
                    true => Ok(Progress::More),
                    false => Err(io::ErrorKind::WouldBlock.into()),
                }))?;
            }
            let result = attempt(self.as_fd());
            let blocked =
                matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            may_try.store(!blocked && !matches!(result, Ok(Progress::Drained)), Ordering::SeqCst);
            if !blocked {
                return Poll::Ready(result.map(drop));
            }
        }
    }
}

fn is_ready(fd: BorrowedFd<'_>, wanted: PollFlags) -> bool {
    poll(&mut [PollFd::new(fd, wanted)], PollTimeout::ZERO) == Ok(1)
}

/// Returns whether there is anything but the end of file to read.
fn has_data(fd: BorrowedFd<'_>) -> bool {
    let mut byte = [0];
    let flags = nix::sys::socket::MsgFlags::MSG_PEEK | nix::sys::socket::MsgFlags::MSG_DONTWAIT;
    use std::os::fd::AsRawFd;
    nix::sys::socket::recv(fd.as_raw_fd(), &mut byte, flags).is_ok_and(|count| count > 0)
}

impl Source for Spoilt {
    fn poll_io(
        &self,
        cx: &mut Context<'_>,
        to: Direction,
        attempt: Attempt<'_>,
    ) -> Poll<io::Result<()>> {
        let would_block = || -> io::Result<Progress> {
            rest();
            Err(io::ErrorKind::WouldBlock.into())
        };
        if self.is_deaf {
            return Poll::Pending;
        }
        match self.plant.fault {
            Some(Fault::WaitsFirst) => self.wait_first(cx, to, attempt),
            Some(Fault::EarlyReadinessLost) if self.was_ready => Poll::Pending,
            Some(Fault::NoWriting) if to == Direction::Write => match attempt(self.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                result => Poll::Ready(result.map(drop)),
            },
            Some(Fault::Repeats) => self.inner().poll_io(cx, to, &mut |fd| {
                let first = attempt(fd)?;
                Ok(attempt(fd).unwrap_or(first))
            }),
            Some(Fault::SwallowsErrors) => {
                self.inner().poll_io(cx, to, &mut |fd| attempt(fd).or_else(|_| would_block()))
            }
            Some(Fault::Spins) => {
                let polled = self.inner().poll_io(cx, to, attempt);
                if polled.is_pending() {
                    cx.waker().wake_by_ref();
                }
                polled
            }
            Some(Fault::FirstWaker) => {
                let first =
                    self.first.lock().unwrap().get_or_insert_with(|| cx.waker().clone()).clone();
                self.inner().poll_io(&mut Context::from_waker(&first), to, attempt)
            }
            Some(Fault::OneWaker) => {
                let polled = self.inner().poll_io(cx, to, attempt);
                let mut last = self.last.lock().unwrap();
                if polled.is_pending() {
                    let before = last.replace((to, cx.waker().clone()));
                    // The one in the other direction is forgotten.
                    if let Some((other, _)) = before.filter(|(other, _)| *other != to) {
                        let mut nobody = Context::from_waker(Waker::noop());
                        let _ = self.inner().poll_io(&mut nobody, other, &mut |_| would_block());
                    }
                }
                polled
            }
            Some(Fault::EndNotSeen) => {
                self.inner().poll_io(cx, to, &mut |fd| {
                    if self.is_drained.load(Ordering::SeqCst) && !has_data(fd) {
                        return would_block();
                    }
                    let result = attempt(fd);
                    let is_drained = matches!(result, Ok(Progress::Drained));
                    self.is_drained.store(is_drained, Ordering::SeqCst);
                    // The inner one sees the end.
                    result.map(|_| Progress::More)
                })
            }
            Some(Fault::UnawaitedEventLost) => {
                let is_lost = self.is_drained.load(Ordering::SeqCst)
                    && is_ready(self.as_fd(), PollFlags::POLLIN);
                if to == Direction::Read && is_lost {
                    return Poll::Pending;
                }
                self.inner().poll_io(cx, to, &mut |fd| {
                    let result = attempt(fd);
                    let is_drained = matches!(result, Ok(Progress::Drained));
                    self.is_drained.store(is_drained, Ordering::SeqCst);
                    result
                })
            }
            Some(Fault::EndOfBoth) if to == Direction::Write => {
                match is_ready(self.as_fd(), PollFlags::POLLIN) && !has_data(self.as_fd()) {
                    true => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                    false => self.inner().poll_io(cx, to, attempt),
                }
            }
            // One is the first that waits.
            Some(Fault::OneIsWoken) => match self.inner().poll_io(cx, to, attempt) {
                Poll::Pending if self.plant.waiting.fetch_add(1, Ordering::SeqCst) > 0 => {
                    let nobody = &mut Context::from_waker(Waker::noop());
                    self.inner().poll_io(nobody, to, &mut |_| would_block())
                }
                polled => polled,
            },
            _ => self.inner().poll_io(cx, to, attempt),
        }
    }
}

impl AsFd for Spoilt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner().as_fd()
    }
}

impl Drop for Spoilt {
    fn drop(&mut self) {
        self.plant.watched.fetch_sub(1, Ordering::SeqCst);
        let inner = self.inner.take();
        match self.plant.fault {
            Some(Fault::SourceStaysOpen) => {
                let _ = ManuallyDrop::new(inner);
            }
            Some(Fault::SourceClosedLater) => {
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(50));
                    drop(inner);
                });
            }
            _ => drop(inner),
        }
    }
}
