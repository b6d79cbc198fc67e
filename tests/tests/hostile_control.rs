//! Hostile frames on the control socket: each is answered or ends its own connection, and nobody
//! else notices (gate G1).

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use release_tests::{
    AT_ONCE, ControlClient, DEADLINE, Noise, Target, eventually, frames, knows_refusals,
    on_every_backend, try_control,
};

/// The limits that the documentation of `ControlSocket` promises.
const FRAME_LIMIT: u32 = 64 * 1024;
const FRAME_TIME: Duration = Duration::from_secs(5);

const PING: &[u8] = b"\0\0\0\x04ping";

/// Fails unless the peer answers these bytes, whatever it says, or closes.
#[track_caller]
fn is_not_silent(target: &Target, bytes: &[u8]) {
    let mut peer = target.connect();
    peer.throw(bytes);
    let _ = peer.0.shutdown(Shutdown::Write);
    assert!(peer.read_to_end(DEADLINE).is_some(), "silent: {bytes:?}");
}

/// An answer that holds no control character, as text.
fn clean_text(answer: Vec<u8>) -> String {
    let text = String::from_utf8(answer).expect("UTF-8");
    assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
    text
}

on_every_backend! {
    fn a_length_over_the_limit_is_refused_at_the_header(backend: Backend) {
        let target = Target::start(backend);
        for length in [FRAME_LIMIT + 1, FRAME_LIMIT + 2, 0x0100_0000, 0x8000_0000, u32::MAX] {
            let mut peer = target.connect();
            peer.throw(&length.to_be_bytes());
            // Long before the deadline for a frame: nobody waits for the rest.
            assert_eq!(peer.read_to_end(FRAME_TIME / 2), Some(vec![]), "{length}");
            target.is_serving();
        }
        target.is_unharmed();
    }

    fn a_frame_of_exactly_the_limit_is_answered(backend: Backend) {
        let target = Target::start(backend);
        let mut peer = target.connect();
        let longest = "x".repeat(usize::try_from(FRAME_LIMIT).unwrap());
        assert!(peer.ask(&longest).unwrap().starts_with("error: "));
        assert_eq!(peer.ask("ping").unwrap(), "pong");
        drop(peer);
        target.is_unharmed();
    }

    fn unfinished_frames_end_at_the_deadline(backend: Backend) {
        let target = Target::start(backend);
        let began = Instant::now();
        let mut silent: Vec<_> = [&b"\0"[..], b"\0\0", b"\0\0\0\x40pi", b"\0\0\xff\xff"]
            .map(|bytes| {
                let mut peer = target.connect();
                peer.throw(bytes);
                peer
            })
            .into();
        let mut slow = target.connect();
        slow.throw(b"\0\0\0\x40");
        slow.0.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        // One byte in every read that times out.
        while slow.0.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            slow.throw(b"p");
            target.is_serving();
        }
        for peer in &mut silent {
            assert_eq!(peer.read_to_end(AT_ONCE), Some(vec![]));
        }
        let took = began.elapsed();
        assert!(took > FRAME_TIME - AT_ONCE / 2 && took < FRAME_TIME + AT_ONCE, "{took:?}");
        drop((silent, slow));
        target.is_unharmed();
    }

    fn a_half_close_after_a_complete_request_is_answered(backend: Backend) {
        let target = Target::start(backend);
        let mut peer = target.connect();
        peer.throw(PING);
        peer.0.shutdown(Shutdown::Write).unwrap();
        assert_eq!(peer.read_to_end(DEADLINE), Some(frames(["pong"])));
        drop(peer);
        target.is_unharmed();
    }

    fn many_frames_in_one_write_are_answered_in_order(backend: Backend) {
        let target = Target::start(backend);
        let mut peer = target.connect();
        peer.throw(&frames(["ping", "one", "ping"]));
        assert_eq!(peer.receive().unwrap(), b"pong");
        assert!(clean_text(peer.receive().unwrap()).contains("`one`"));
        assert_eq!(peer.receive().unwrap(), b"pong");

        let all = frames((0..10_000).map(|number| format!("n{number}")));
        let mut writer = peer.0.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || writer.write_all(&all).unwrap());
            for number in 0..10_000 {
                let answer = clean_text(peer.receive().unwrap());
                assert!(answer.contains(&format!("`n{number}`")), "{number}: {answer}");
                if number % 1000 == 0 {
                    target.is_serving();
                }
            }
        });
        drop(peer);
        target.is_unharmed();
    }

    fn a_frame_may_come_in_any_pieces(backend: Backend) {
        let target = Target::start(backend);
        let mut other = target.connect();
        for cut in 0..=PING.len() {
            let mut peer = target.connect();
            peer.throw(&PING[..cut]);
            // By the time of this answer the first piece has been seen alone.
            assert_eq!(other.ask("ping").unwrap(), "pong");
            peer.throw(&PING[cut..]);
            assert_eq!(peer.receive().unwrap(), b"pong", "cut at {cut}");
        }
        let mut peer = target.connect();
        for byte in frames(["ping", "ping", "ping"]) {
            peer.throw(&[byte]);
            assert_eq!(other.ask("ping").unwrap(), "pong");
        }
        for _ in 0..3 {
            assert_eq!(peer.receive().unwrap(), b"pong");
        }
        drop((peer, other));
        target.is_unharmed();
    }

    fn truncated_frames_are_never_executed(backend: Backend) {
        let target = Target::start(backend);
        // Each would be `ping` if what had come were taken for the whole.
        for bytes in [&b"\0\0\0\x05ping"[..], b"\0\0\0\x40ping", b"\0\0\0", b"\0\0\0\x04"] {
            let mut peer = target.connect();
            peer.throw(bytes);
            peer.0.shutdown(Shutdown::Write).unwrap();
            assert_eq!(peer.read_to_end(AT_ONCE), Some(vec![]), "{bytes:?}");
        }
        target.is_unharmed();
    }

    fn odd_payloads_are_answered_or_refused(backend: Backend) {
        let target = Target::start(backend);
        let mut peer = target.connect();
        assert!(peer.ask("").unwrap().starts_with("error: "));
        let control: Vec<u8> = (0..32).collect();
        peer.send(&control).unwrap();
        assert!(clean_text(peer.receive().unwrap()).starts_with("error: "));
        peer.throw(&frames(["caf\u{e9}\r\nforged: yes\x1b[2J"]));
        assert!(clean_text(peer.receive().unwrap()).starts_with("error: "));
        for bad in [&b"\xff\xfe"[..], b"ping\xc3", b"\xed\xa0\x80"] {
            is_not_silent(&target, &frames([bad]));
        }
        let mut noise = Noise::new(1);
        for _ in 0..200 {
            let payload = noise.bytes(200);
            is_not_silent(&target, &payload);
            is_not_silent(&target, &frames([payload]));
        }
        drop(peer);
        target.is_unharmed();
    }

    fn a_broadcast_cannot_forge_lines_of_the_log(backend: Backend) {
        let target = Target::start(backend);
        let text = "broadcast begin\nFORGED line\r\x1b[31mend";
        assert_eq!(target.connect().ask(text).unwrap(), "sent 1");
        eventually("the worker has logged it", || target.service.stderr().contains("begin"));
        let log = target.service.stderr();
        assert!(!log.lines().any(|line| line.starts_with("FORGED")), "{log}");
        assert!(!log.contains(['\r', '\x1b']), "{log:?}");
        target.is_unharmed();
    }

    fn descriptors_that_nobody_asked_for_are_closed(backend: Backend) {
        let target = Target::start(backend);
        for (bytes, count) in [(PING, 1), (PING, 253), (&PING[..6], 1), (&PING[..2], 253), (b"\0", 1)] {
            let (mut peer, reader) = with_descriptors(&target, bytes, count);
            assert_eof(reader);
            // Where the kernel refuses them nothing has come.
            if knows_refusals() {
                peer.throw(PING);
                assert!(peer.receive().is_ok_and(|answer| answer == b"pong"));
                continue;
            }
            // The connection is still open on this side, and has no further use.
            peer.throw(PING);
            assert!(peer.read_to_end(AT_ONCE).is_some());
            target.is_serving();
        }
        let flood: Vec<_> = (0..100).map(|_| with_descriptors(&target, PING, 253)).collect();
        target.is_serving();
        assert!(target.service.process().descriptors().len() < 200);
        for (peer, reader) in flood {
            assert_eof(reader);
            drop(peer);
        }
        target.is_unharmed();
    }
}

/// Sends bytes with so many copies of a pipe's write end, which this process then closes.
fn with_descriptors(target: &Target, bytes: &[u8], count: usize) -> (ControlClient, PipeReader) {
    let (reader, writer): (PipeReader, PipeWriter) = io::pipe().unwrap();
    let mut peer = target.connect();
    let fds: Vec<BorrowedFd<'_>> = vec![writer.as_fd(); count];
    // The kernel limits how many descriptors of one user are on their way: those of the tests that
    // run at the same time have to arrive first.
    eventually("the descriptors can be sent", || match peer.send_with(bytes, &fds) {
        Ok(sent) => sent == bytes.len() && !knows_refusals(),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => knows_refusals(),
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(Errno::ETOOMANYREFS as i32), "{error}");
            false
        }
    });
    drop(fds);
    (peer, reader)
}

/// Nobody holds the write end any more; a test that hangs here has found somebody who does.
fn assert_eof(mut reader: PipeReader) {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(reader.read(&mut [0]).ok()));
    let read = receiver.recv_timeout(DEADLINE);
    assert_eq!(read, Ok(Some(0)), "somebody keeps the descriptors");
}

on_every_backend! {
    fn a_peer_that_was_refused_can_come_again(backend: Backend) {
        let target = Target::start(backend);
        for _ in 0..50 {
            target.connect().throw(&u32::MAX.to_be_bytes());
            assert_eq!(try_control(&target.service.control(), "ping").unwrap(), "pong");
        }
        target.is_unharmed();
    }
}
