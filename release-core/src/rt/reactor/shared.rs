//! What all threads may access: the descriptors and timers, and whether the thread sleeps.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;

#[cfg(feature = "async-io")]
use super::host::Host;
use super::slots::Slots;
use crate::sys::epoll;

/// What all threads may access.
pub(super) struct Shared {
    pub(super) epoll: Epoll,
    /// Ends the sleep of the thread. It is edge-triggered too, so nobody has to read it.
    pub(super) kick: EventFd,
    phase: AtomicU8,
    state: Mutex<ReactorState>,
    pub(super) last_timer: AtomicU64,
    /// The virtual time, if the clock is virtual.
    pub(super) virtual_now: Option<Mutex<Instant>>,
    #[cfg(feature = "async-io")]
    pub(super) host: Host,
}

/// No foreign code runs while this is locked: wakers are cloned before, and woken or dropped after.
#[derive(Default)]
pub(super) struct ReactorState {
    pub(super) slots: Slots,
    /// Timers with a waiting task; the number distinguishes equal deadlines. A tree, because most
    /// timers are dropped before their deadline, and must leave nothing behind.
    pub(super) timers: BTreeMap<(Instant, u64), Waker>,
}

/// The thread that runs the reactor is awake, and nothing has woken the main future since it was
/// polled.
const AWAKE: u8 = 0;
/// The main future has been woken.
const WOKEN: u8 = 1;
/// The thread sleeps, or is about to.
const ASLEEP: u8 = 2;

/// The key of the descriptor that ends a sleep, which no slot has.
const KICK: u64 = u64::MAX;

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_main();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_main();
    }
}

impl Shared {
    pub(super) fn new(virtual_now: Option<Instant>) -> io::Result<Self> {
        let (epoll, kick) = (epoll::create()?, epoll::eventfd()?);
        epoll.add(&kick, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, KICK))?;
        Ok(Self {
            epoll,
            kick,
            phase: AtomicU8::new(AWAKE),
            state: Mutex::default(),
            last_timer: AtomicU64::new(0),
            virtual_now: virtual_now.map(Mutex::new),
            #[cfg(feature = "async-io")]
            host: Host::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ReactorState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn virtual_now(&self) -> Option<MutexGuard<'_, Instant>> {
        self.virtual_now.as_ref().map(|now| now.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn now(&self) -> Instant {
        self.virtual_now().map_or_else(Instant::now, |now| *now)
    }

    pub(super) fn wake_main(&self) {
        if self.phase.swap(WOKEN, Ordering::AcqRel) == ASLEEP {
            self.kick();
        }
    }

    /// Ends a sleep, so that the thread looks at the timers again. If it is awake, it will do that
    /// before it sleeps.
    pub(super) fn rouse(&self) {
        let order = Ordering::AcqRel;
        if self.phase.compare_exchange(ASLEEP, WOKEN, order, Ordering::Relaxed).is_ok() {
            self.kick();
        }
    }

    fn kick(&self) {
        #[cfg(feature = "async-io")]
        if self.host.kick() {
            return;
        }
        // Fails after 2^64 sleeps.
        let _ = self.kick.write(1);
    }

    /// The deadline of the first timer.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.lock().timers.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Returns whether the main future has been woken, and forgets it: it must be polled now.
    pub(super) fn take_wake(&self) -> bool {
        // A read is cheaper. What it misses, the thread notices before it sleeps.
        self.is_woken() && self.phase.swap(AWAKE, Ordering::AcqRel) == WOKEN
    }

    pub(super) fn is_woken(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == WOKEN
    }

    /// From here on, a wake is followed by a kick. Returns false if the main future has been woken
    /// already.
    pub(super) fn fall_asleep(&self) -> bool {
        let order = Ordering::AcqRel;
        self.phase.compare_exchange(AWAKE, ASLEEP, order, Ordering::Relaxed).is_ok()
    }

    pub(super) fn wake_up(&self) {
        let order = Ordering::AcqRel;
        let _ = self.phase.compare_exchange(ASLEEP, AWAKE, order, Ordering::Relaxed);
    }
}

impl ReactorState {
    /// Moves the virtual time to the first timer, because nothing can happen earlier.
    pub(super) fn jump(&self, shared: &Shared) {
        if let (Some(mut now), Some(((first, _), _))) =
            (shared.virtual_now(), self.timers.first_key_value())
        {
            *now = (*first).max(*now);
        }
    }

    pub(super) fn take_due(&mut self, now: Instant, woken: &mut Vec<Waker>) {
        while let Some(first) = self.timers.first_entry().filter(|first| first.key().0 <= now) {
            woken.push(first.remove());
        }
    }
}
