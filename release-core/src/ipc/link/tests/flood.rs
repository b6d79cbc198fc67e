//! Peers that send what means nothing.

use std::io::Write;

use super::*;
use crate::ipc::wire::header::Header;
use crate::ipc::wire::outbox::Outbox;

/// The bytes of a frame.
fn frame(header: Header, body: &[u8]) -> Vec<u8> {
    let mut outbox = Outbox::new(u32::MAX);
    let pushed = outbox.push::<_, crate::ipc::FrameTooLong>(|payload| {
        header.write(payload);
        payload.extend_from_slice(body);
        Ok(())
    });
    pushed.unwrap();
    outbox.unsent().to_vec()
}

#[test]
fn who_sends_nothing_that_means_something_is_not_kept() {
    let reply = crate::ipc::HeartbeatReply::default();
    for (header, body) in [
        (Header::Answer { number: 7 }, &[0; 10][..]),
        (Header::Answer { number: 7 }, &[0; 100_000]),
        (Header::Refusal { number: 0 }, b"no"),
        (Header::NotUnderstood { number: 0 }, b"no"),
        (Header::HeartbeatReply { reply }, b""),
        (Header::Heartbeat, b""),
        (Header::Ready, b""),
        (Header::Cancel { number: 3 }, b""),
        (Header::Notice, b"\xff"),
    ] {
        on_local(|rt| async move {
            let (here, mut there) = UnixStream::pair().unwrap();
            let answer = |ask: Ask| async move { Ok(ask.number) };
            let side = Side::new(&rt, link(&rt, here), answer);
            let frame = frame(header, body);
            // Many in one call: it is the peer that is to have work.
            let frames = frame.repeat(65_536_usize.div_ceil(frame.len()));
            // The connection is ended under it.
            let flood = std::thread::spawn(move || while there.write_all(&frames).is_ok() {});
            while side.link.ended().is_none() {
                crate::rt::give_way().await;
            }
            let ended = side.link.ended();
            assert!(matches!(ended, Some(Ended::Violation(_))), "{header:?}: {ended:?}");
            drop(side);
            flood.join().unwrap();
        });
    }
}

#[test]
fn late_answers_to_calls_that_were_given_up_are_no_offence() {
    on_local(|rt| async move {
        let (here, there) = UnixStream::pair().unwrap();
        let never = |ask: Ask| async move { Ok(ask.number) };
        let asks = Side::new(&rt, link(&rt, here), never);
        let answers = Side::new(&rt, link(&rt, there), never);
        for number in 0..10_000 {
            let asked = Ask::new(number);
            let mut call = Box::pin(asks.peer.call(&asked));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(call.as_mut().poll(&mut context).is_pending());
            drop(call);
            if number % 100 == 0 {
                crate::rt::give_way().await;
            }
        }
        assert_eq!(within(&rt, asks.peer.call(&Ask::new(1))).await.unwrap(), 1);
        assert!(asks.link.ended().is_none() && answers.link.ended().is_none());
    });
}
