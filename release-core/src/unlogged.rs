//! Warnings and errors of a program without a log.
//!
//! `tracing` drops events until the program installs a subscriber. A worker that is restarted again
//! and again must not remain unnoticed for that reason. Nothing is installed here: the program may
//! still install its subscriber at any time, also in its main task, and receives all later events.

use std::sync::OnceLock;

use tracing::dispatcher::{self, Dispatch};
use tracing::subscriber::NoSubscriber;

/// Emits a warning like `tracing::warn!`, also without a subscriber.
macro_rules! log_warning {
    ($($event:tt)*) => { crate::unlogged::emit(|| tracing::warn!($($event)*)) };
}

/// Emits an error like `tracing::error!`, also without a subscriber.
macro_rules! log_error {
    ($($event:tt)*) => { crate::unlogged::emit(|| tracing::error!($($event)*)) };
}

static FALLBACK: Fallback = Fallback { make: OnceLock::new(), made: OnceLock::new() };

/// The subscriber for the events of a program without its own, made for the first of them.
struct Fallback {
    make: OnceLock<fn() -> Dispatch>,
    made: OnceLock<Dispatch>,
}

/// Sets the constructor of the subscriber. Masters and workers call this as they start.
#[cfg(feature = "log")]
pub(crate) fn fall_back_to(make: fn() -> Dispatch) {
    // Every caller sets the same one.
    let _ = FALLBACK.make.set(make);
}

pub(crate) fn emit(event: impl FnOnce()) {
    FALLBACK.emit(event);
}

impl Fallback {
    fn emit(&self, event: impl FnOnce()) {
        let is_unlogged = || dispatcher::get_default(|current| current.is::<NoSubscriber>());
        match self.make.get().filter(|_| is_unlogged()) {
            Some(make) => dispatcher::with_default(self.made.get_or_init(make), event),
            None => event(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;

    struct Counter(&'static AtomicUsize);

    impl Subscriber for Counter {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_subscriber_of_the_program_goes_first_at_any_time() {
        static FALLEN_BACK: AtomicUsize = AtomicUsize::new(0);
        static OWN: AtomicUsize = AtomicUsize::new(0);
        let counts = || (FALLEN_BACK.load(Ordering::Relaxed), OWN.load(Ordering::Relaxed));
        let fallback = Fallback { make: OnceLock::new(), made: OnceLock::new() };
        let emit = || fallback.emit(|| tracing::error!("an error"));
        emit();
        assert_eq!(counts(), (0, 0));
        fallback.make.set(|| Dispatch::new(Counter(&FALLEN_BACK))).expect("the first");
        emit();
        assert_eq!(counts(), (1, 0));
        let own = Dispatch::new(Counter(&OWN));
        dispatcher::with_default(&own, || {
            emit();
            log_warning!(worker = 1, "a warning");
        });
        assert_eq!(counts(), (1, 2));
        emit();
        assert_eq!(counts(), (2, 2));
    }
}
