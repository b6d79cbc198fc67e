//! Between any two bytes of a stream, in either direction.

use std::io::{PipeReader, Read, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use std::task::Poll;

use super::super::Incoming;
use super::super::arrivals::Arrivals;
use super::super::socket::{Received, receive, transmit};
use super::*;
use crate::ipc::wire::body::Body;
use crate::ipc::wire::frame::Inbox;
use crate::ipc::wire::header::{self, Header};
use crate::ipc::wire::outbox::Outbox;
use crate::ipc::{Descriptor, FrameTooLong};
use crate::rt::give_way;

/// How many descriptors each of the frames has.
const COUNTS: [usize; 7] = [0, 2, 1, 0, 0, 8, 0];

/// Requests, and where the writing ends in them are all closed when they are.
fn fill(outbox: &mut Outbox) -> PipeReader {
    let (reader, writer) = pipe().unwrap();
    for (number, count) in (0_u32..).zip(COUNTS) {
        outbox
            .push::<_, FrameTooLong>(|payload| {
                let start = payload.len();
                Header::Request { number, timeout: None }.write(payload);
                payload.extend_from_slice(b"body");
                if count > 0 {
                    header::add_descriptors(payload, start, count);
                }
                Ok(())
            })
            .unwrap();
        outbox.attach((0..count).map(|_| Descriptor::new(writer.try_clone().unwrap())).collect());
    }
    reader
}

/// Sends so many bytes as the link does.
fn send(outbox: &mut Outbox, socket: BorrowedFd<'_>, mut count: usize) {
    while count > 0 && !outbox.is_empty() {
        let (bytes, descriptors) = outbox.next();
        let part = &bytes[..bytes.len().min(count)];
        let (sent, _) = transmit(socket, (part, descriptors)).unwrap();
        outbox.sent(sent);
        count -= sent;
    }
}

/// The frames that come, by number and how many descriptors they have.
fn requests(socket: &UnixStream) -> Vec<(u32, usize)> {
    let (mut inbox, mut arrivals) = (Inbox::new(1000), Arrivals::default());
    let mut found = Vec::new();
    while let Ok((received, _)) = receive(socket.as_fd(), inbox.space(), 8) {
        match received {
            Received::Bytes(count) => inbox.received(count),
            Received::Rights(count, descriptors) => {
                let frames = inbox.received_with_descriptors(count).unwrap();
                arrivals.add(frames, descriptors);
            }
            Received::End | Received::Refused(_) => break,
        }
        while let Some(frame) = inbox.frame().unwrap() {
            let parsed = Header::parse(inbox.payload(frame.clone()));
            let Some((Header::Request { number, .. }, count, b"body")) = parsed else {
                panic!("{parsed:?}");
            };
            let descriptors = arrivals.take();
            assert_eq!(usize::from(count), descriptors.len());
            found.push((number, descriptors.len()));
            inbox.consume(&frame);
            arrivals.consumed();
        }
    }
    assert!(inbox.is_empty());
    found
}

fn expected() -> Vec<(u32, usize)> {
    (0..).zip(COUNTS).collect()
}

fn all_closed(mut reader: PipeReader) {
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

fn length() -> usize {
    let mut outbox = Outbox::new(1000);
    fill(&mut outbox);
    outbox.unsent().len()
}

#[test]
fn what_was_sent_up_to_any_byte_goes_on_with_the_next() {
    for cut in 0..=length() {
        on_local(async |rt| {
            let (here, there) = UnixStream::pair().unwrap();
            let old = link(&rt, here);
            let reader = {
                let mut state = old.lock();
                let reader = fill(&mut state.outbox);
                send(&mut state.outbox, old.io.as_fd(), cut);
                reader
            };
            let frozen = old.freeze(None).unwrap().unwrap();
            // The end of the old one reaches nobody.
            old.end(Ended::Here);
            drop(old);
            let new = Link::thaw(&rt, passed_on(frozen)).unwrap();
            new.flush_now();
            assert_eq!(requests(&there), expected(), "cut at {cut}");
            drop(new);
            all_closed(reader);
        });
    }
}

#[test]
fn what_has_come_up_to_any_byte_goes_on_with_the_next() {
    for cut in 0..=length() {
        for paused_at in [0, cut / 2, cut] {
            on_local(async |rt| {
                let (here, there) = UnixStream::pair().unwrap();
                let mut outbox = Outbox::new(1000);
                let reader = fill(&mut outbox);
                let seen = Arc::new(Mutex::new(Vec::new()));
                let old = link(&rt, here);
                send(&mut outbox, there.as_fd(), paused_at);
                take(&old, &seen).await;
                old.pause();
                send(&mut outbox, there.as_fd(), cut - paused_at);
                take(&old, &seen).await;
                let frozen = old.freeze(None).unwrap().unwrap();
                old.end(Ended::Here);
                drop(old);
                let new = Link::thaw(&rt, passed_on(frozen)).unwrap();
                take(&new, &seen).await;
                send(&mut outbox, there.as_fd(), usize::MAX);
                take(&new, &seen).await;
                assert_eq!(*seen.lock().unwrap(), expected(), "cut at {cut}, {paused_at}");
                assert!(new.ended().is_none());
                all_closed(reader);
            });
        }
    }
}

#[test]
fn a_link_that_goes_on_after_all_has_lost_nothing() {
    for cut in 0..=length() {
        on_local(async |rt| {
            let (here, there) = UnixStream::pair().unwrap();
            let (mut outbox, link) = (Outbox::new(1000), link(&rt, here));
            let seen = Arc::new(Mutex::new(Vec::new()));
            let incoming = fill(&mut outbox);
            let outgoing = fill(&mut link.lock().outbox);
            link.pause();
            send(&mut outbox, there.as_fd(), cut);
            send(&mut link.lock().outbox, link.io.as_fd(), cut);
            take(&link, &seen).await;
            let frozen = link.freeze(None).unwrap().unwrap();
            send(&mut outbox, there.as_fd(), usize::MAX);
            take(&link, &seen).await;
            link.flush_now();
            assert!(seen.lock().unwrap().is_empty());
            link.resume();
            drop(frozen);
            take(&link, &seen).await;
            assert_eq!(*seen.lock().unwrap(), expected(), "cut at {cut}");
            assert_eq!(requests(&there), expected(), "cut at {cut}");
            drop(link);
            all_closed(incoming);
            all_closed(outgoing);
        });
    }
}

/// The background task's turns, until it sleeps.
async fn take(link: &Link, seen: &Arc<Mutex<Vec<(u32, usize)>>>) {
    let mut take = |Incoming { header, body }: Incoming<'_>| match header {
        Header::Request { number, .. } => {
            let Body { bytes, descriptors, .. } = body;
            assert_eq!(bytes, b"body");
            seen.lock().unwrap().push((number, descriptors.len()));
        }
        other => panic!("{other:?}"),
    };
    // Once more after the executor has heard of what has come.
    for _ in 0..3 {
        let mut again = true;
        while again {
            let next = poll_fn(|cx| Poll::Ready(link.poll_incoming(cx, 0, &mut take)));
            again = matches!(next.await, Poll::Ready(Ok(())));
        }
        give_way().await;
    }
}
