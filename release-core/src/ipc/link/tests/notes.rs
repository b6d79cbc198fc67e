//! The log, whose subscriber may use the connection that an event is about.

use std::os::fd::OwnedFd;
use std::sync::Mutex;

use tracing::dispatcher::{Dispatch, with_default};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::*;
use crate::ipc::link::answers::AnswerKind;

/// Looks whether it could send each event over the link.
struct Sending {
    link: Arc<Link>,
    could: Arc<Mutex<Vec<bool>>>,
}

impl Subscriber for Sending {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {
        let is_free = self.link.state.try_lock().is_ok();
        self.could.lock().unwrap().push(is_free);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn a_subscriber_can_send_what_it_is_told() {
    on_local(async |rt| {
        let (here, _there) = UnixStream::pair().unwrap();
        let link = Arc::new(link(&rt, here));
        let could = Arc::new(Mutex::new(Vec::new()));
        let sending = Sending { link: Arc::clone(&link), could: Arc::clone(&could) };
        let file = std::fs::File::open("/dev/null").unwrap();
        // The fifth answer finds no room for its descriptors.
        let deliver = || {
            link.with(|state| {
                let copies = (0..253).map(|_| OwnedFd::from(file.try_clone().unwrap()).into());
                let number = state.answers.expect(false);
                state.arrivals.add(0, copies.collect());
                state.deliver(number, 0..0, AnswerKind::Given, || rt.now()).unwrap();
                state.arrivals.consumed();
            });
        };
        with_default(&Dispatch::new(sending), || (0..5).for_each(|_| deliver()));
        assert_eq!(*could.lock().unwrap(), [true]);
    });
}
