//! A peer that breaks the rules of descriptors: all that came are closed, while the connection of
//! an honest message goes on (gate G2).

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;
use release_core::ipc::{Codec, Ended, Postcard};
use release_core::rt::{Rt, Task};
use release_tests::{
    AT_ONCE, ControlClient, Pass, Witness, frames, hostile, knows_refusals, on_every_backend,
    run_on, send_descriptors,
};

const READY: u8 = 2;
const REQUEST: u8 = 3;
const ANSWER: u8 = 4;
const REFUSAL: u8 = 5;
const NOT_UNDERSTOOD: u8 = 11;
const NOTICE: u8 = 6;
const CANCEL: u8 = 7;
const WITH_DESCRIPTORS: u8 = 0x80;

/// What the connections here allow.
const MOST: u8 = 16;

/// A payload that says it has so many descriptors.
fn payload(kind: u8, count: u8, rest: &[u8]) -> Vec<u8> {
    [&[kind | WITH_DESCRIPTORS, count], rest].concat()
}

/// The encoding of [`Pass::Hold`] with descriptors of these places.
fn hold(places: &[u8]) -> Vec<u8> {
    let count = u8::try_from(places.len()).expect("a few");
    [&[4, count], places].concat()
}

/// A request that says it has so many descriptors.
fn request(number: u8, count: u8, body: &[u8]) -> Vec<u8> {
    payload(REQUEST, count, &[&[0, 0, 0, number, 0, 0, 0, 0], body].concat())
}

/// A request without any.
fn nothing(number: u8) -> Vec<u8> {
    let mut payload = vec![REQUEST, 0, 0, 0, number, 0, 0, 0, 0];
    Postcard.encode(&Pass::Nothing("x".to_owned()), &mut payload).expect("encoded");
    payload
}

/// Sends these bytes with so many descriptors: the connection ends for this reason, and keeps none.
async fn ends(rt: &Rt, bytes: &[u8], count: usize, reason: &str) {
    let (socket, serving) = hostile(rt, MOST);
    let witness = Witness::default();
    witness.send(&socket, bytes, count);
    ended(rt, serving, reason).await;
    // Whatever is still on its way is closed with the socket.
    drop(socket);
    witness.is_alone(rt).await;
}

async fn ended(rt: &Rt, serving: Task<Ended>, reason: &str) {
    let ended = rt.timeout(Duration::from_secs(15), serving).await.expect("it ends");
    let words = match &ended {
        Ended::Io(error) => error.to_string(),
        other => other.to_string(),
    };
    assert!(words.contains(reason), "{words}, not {reason}");
}

/// Sends these bytes with so many descriptors: none is kept, and the connection goes on.
async fn survives(rt: &Rt, bytes: &[u8], count: usize, answers: &[&str]) {
    let (socket, _serving) = hostile(rt, MOST);
    let witness = Witness::default();
    witness.send(&socket, bytes, count);
    witness.is_alone(rt).await;
    goes_on(rt, socket, answers).await;
}

/// Sends bytes with the last descriptor of a TCP connection that has unsent data, lingers, and is
/// never read, if the kernel lets it.
fn send_lingering(socket: &UnixStream, bytes: &[u8]) -> std::io::Result<[OwnedFd; 2]> {
    let (sent, others) = lingering();
    send_descriptors(socket, bytes, &[sent.as_fd()]).map(|_| others)
}

/// The same inside of a Unix socket, to close which is to close that connection.
fn send_hidden(socket: &UnixStream, bytes: &[u8]) -> [OwnedFd; 2] {
    let (sent, others) = lingering();
    let (inner, outer) = UnixStream::pair().expect("a pair");
    send_descriptors(&outer, b"x", &[sent.as_fd()]).expect("sent");
    send_descriptors(socket, bytes, &[inner.as_fd()]).expect("sent");
    // Where the receiver has closed them already, these are the last ones.
    std::thread::spawn(move || drop((inner, sent)));
    others
}

/// A TCP connection that has unsent data and lingers, and what keeps it as it is.
fn lingering() -> (TcpStream, [OwnedFd; 2]) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let mut sent = TcpStream::connect(listener.local_addr().expect("an address")).expect("TCP");
    let (reader, _) = listener.accept().expect("TCP");
    let linger = libc::linger { l_onoff: 1, l_linger: 5 };
    setsockopt(&sent, Linger, &linger).expect("set");
    sent.set_nonblocking(true).expect("set");
    while sent.write_all(&[7; 65536]).is_ok() {}
    (sent, [OwnedFd::from(reader), OwnedFd::from(listener)])
}

/// These words come in refusals, and then the answer to a request.
async fn goes_on(rt: &Rt, socket: UnixStream, refusals: &[&str]) {
    let mut peer = ControlClient(socket);
    peer.throw(&frames([nothing(77)]));
    let refusals: Vec<_> = refusals.iter().map(|&words| words.to_owned()).collect();
    let (sender, receiver) = futures_channel::oneshot::channel();
    let reading = std::thread::spawn(move || {
        for words in refusals {
            let refusal = peer.receive().expect("a refusal");
            let text = String::from_utf8_lossy(&refusal[5..]).into_owned();
            assert_eq!(refusal[0], NOT_UNDERSTOOD, "{text}");
            assert!(text.contains(&words), "{text}, not {words}");
        }
        let answer = peer.receive().expect("an answer");
        assert_eq!(&answer[..5], [ANSWER, 0, 0, 0, 77]);
        let _ = sender.send(peer);
    });
    let answered = rt.timeout(Duration::from_secs(15), receiver).await;
    reading.join().expect("what was expected");
    drop(answered.expect("in time"));
}

on_every_backend! {
    fn more_or_fewer_than_the_frame_says_end_the_connection(backend: Backend) {
        run_on(backend, |rt| async move {
            let miscounted = "not as many descriptors as the frame says";
            for (says, comes) in [(1, 0), (2, 1), (1, 2), (16, 15), (15, 16), (255, 16), (0, 16)] {
                let bytes = match says {
                    0 => frames([nothing(1)]),
                    says => frames([request(1, says, &hold(&[0]))]),
                };
                ends(&rt, &bytes, comes, miscounted).await;
            }
        });
    }

    fn more_than_agreed_end_the_connection(backend: Backend) {
        run_on(backend, |rt| async move {
            for count in [17, 18, 100, 253] {
                let says = u8::try_from(count).unwrap();
                let places: Vec<_> = (0..says.min(100)).collect();
                let bytes = frames([request(1, says, &hold(&places))]);
                ends(&rt, &bytes, count, "more descriptors with one message than agreed").await;
            }
        });
    }

    fn only_messages_may_have_any(backend: Backend) {
        run_on(backend, |rt| async move {
            for kind in [1, READY, REFUSAL, CANCEL, NOT_UNDERSTOOD] {
                let bytes = frames([payload(kind, 1, &[0, 0, 0, 1, 0])]);
                ends(&rt, &bytes, 1, "a frame of no known kind").await;
            }
            // A count of none is not written.
            ends(&rt, &frames([request(1, 0, &hold(&[]))]), 0, "a frame of no known kind").await;
            ends(&rt, &frames([vec![REQUEST | WITH_DESCRIPTORS]]), 1, "a frame of no known kind").await;
        });
    }

    fn descriptors_belong_to_the_bytes_they_came_with(backend: Backend) {
        run_on(backend, |rt| async move {
            let with_one = request(1, 1, &hold(&[0]));
            // With the second of two frames, although the first one says that they are its own.
            let both = frames([with_one.clone(), nothing(2)]);
            ends(&rt, &both, 1, "not as many descriptors as the frame says").await;
            // With two frames that say one each.
            let both = frames([with_one.clone(), request(2, 1, &hold(&[0]))]);
            ends(&rt, &both, 2, "not as many descriptors as the frame says").await;

            // Behind the first byte of the frame, in a write and a read of their own.
            let (mut socket, serving) = hostile(&rt, MOST);
            let (witness, bytes) = (Witness::default(), frames([with_one.clone()]));
            socket.write_all(&bytes[..7]).unwrap();
            rt.sleep(Duration::from_millis(20)).await;
            witness.send(&socket, &bytes[7..], 1);
            ended(&rt, serving, "descriptors in the middle of a frame").await;
            witness.is_alone(&rt).await;

            // Twice, with two parts of one frame.
            let (socket, serving) = hostile(&rt, MOST);
            let witness = Witness::default();
            witness.send(&socket, &bytes[..7], 1);
            witness.send(&socket, &bytes[7..], 1);
            ended(&rt, serving, "descriptors in the middle of a frame").await;
            witness.is_alone(&rt).await;

            // One byte at a time, the descriptors with the first.
            let (mut socket, _serving) = hostile(&rt, MOST);
            let (witness, cancel) = (Witness::default(), [&[CANCEL][..], &[0, 0, 0, 1]].concat());
            socket.write_all(&frames([nothing(0)])).unwrap();
            witness.send(&socket, &bytes[..1], 1);
            for byte in &bytes[1..] {
                rt.sleep(Duration::from_millis(1)).await;
                socket.write_all(&[*byte]).unwrap();
            }
            socket.write_all(&frames([cancel])).unwrap();
            witness.is_alone(&rt).await;
        });
    }

    fn half_a_frame_does_not_keep_its_descriptors(backend: Backend) {
        run_on(backend, |rt| async move {
            let bytes = frames([request(1, 3, &hold(&[0, 1, 2]))]);
            for sent in [1, 4, 6, bytes.len() - 1] {
                let (socket, serving) = hostile(&rt, MOST);
                let witness = Witness::default();
                witness.send(&socket, &bytes[..sent], 3);
                socket.shutdown(Shutdown::Write).unwrap();
                ended(&rt, serving, "in the middle of a frame").await;
                witness.is_alone(&rt).await;
            }
            // Silence, until the deadline.
            let (socket, serving) = hostile(&rt, MOST);
            let (witness, began) = (Witness::default(), Instant::now());
            witness.send(&socket, &bytes[..6], 3);
            ended(&rt, serving, "did not finish it in time").await;
            assert!(began.elapsed() > Duration::from_secs(9));
            witness.is_alone(&rt).await;
            drop(socket);
        });
    }

    fn what_a_message_does_not_take_is_closed_and_refused(backend: Backend) {
        run_on(backend, |rt| async move {
            let left = "2 descriptors came with the message that belong to none of its parts";
            survives(&rt, &frames([request(1, 3, &hold(&[1]))]), 3, &[left]).await;
            let missing = "is not with the message, or it is taken already";
            for places in [&[0, 0][..], &[0, 7], &[16, 1]] {
                survives(&rt, &frames([request(1, 2, &hold(places))]), 2, &[missing]).await;
            }
            survives(&rt, &frames([request(1, 2, &[0xFF; 3])]), 2, &[""]).await;
            survives(&rt, &frames([request(1, 2, &[])]), 2, &[""]).await;
            // A notice cannot be refused.
            survives(&rt, &frames([payload(NOTICE, 16, &hold(&[3]))]), 16, &[]).await;
            survives(&rt, &frames([payload(NOTICE, 1, &[0xFF])]), 1, &[]).await;
        });
    }

    fn answers_that_nobody_awaits_are_closed(backend: Backend) {
        run_on(backend, |rt| async move {
            for number in [0, 1, 255] {
                let bytes = frames([payload(ANSWER, 16, &[0, 0, 0, number, 1])]);
                survives(&rt, &bytes, 16, &[]).await;
            }
        });
    }

    fn unanswered_requests_have_so_many_together_and_no_more(backend: Backend) {
        run_on(backend, |rt| async move {
            let (socket, serving) = hostile(&rt, MOST);
            let witness = Witness::default();
            for number in 0..16 {
                witness.send(&socket, &frames([request(number, 1, &hold(&[0]))]), 1);
            }
            witness.send(&socket, &frames([request(99, 1, &hold(&[0]))]), 1);
            ended(&rt, serving, "more unanswered requests than agreed").await;
            witness.is_alone(&rt).await;
        });
    }

    fn notices_that_wait_have_so_many_together_and_the_rest_are_dropped(backend: Backend) {
        run_on(backend, |rt| async move {
            let (socket, serving) = hostile(&rt, MOST);
            let (held, dropped) = (Witness::default(), Witness::default());
            held.send(&socket, &frames([payload(NOTICE, 2, &hold(&[0, 1]))]), 2);
            let places: Vec<u8> = (0..15).collect();
            for _ in 0..100 {
                dropped.send(&socket, &frames([payload(NOTICE, 15, &hold(&places))]), 15);
            }
            dropped.is_alone(&rt).await;
            drop(serving);
            held.is_alone(&rt).await;
        });
    }

    fn a_socket_that_lingers_blocks_nobody(backend: Backend) {
        run_on(backend, |rt| async move {
            for most in [0, MOST] {
                let (socket, serving) = hostile(&rt, most);
                let Ok(_unread) = send_lingering(&socket, &frames([nothing(1)])) else {
                    assert!(most == 0 && knows_refusals());
                    continue;
                };
                // It is closed within this, on the only thread of the runtime.
                let began = Instant::now();
                let _ = serving.await;
                assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
            }
        });
    }

    fn a_socket_that_hides_one_that_lingers_blocks_nobody(backend: Backend) {
        run_on(backend, |rt| async move {
            let began = Instant::now();
            let mut kept = Vec::new();
            // It has no place in the message; the message is of no kind; nobody takes it any more.
            for bytes in [request(1, 1, &[0xFF]), payload(READY, 1, &[0, 0]), nothing(1)] {
                let (socket, serving) = hostile(&rt, MOST);
                kept.push(send_hidden(&socket, &frames([bytes])));
                let mut peer = ControlClient(socket);
                peer.throw(&frames([nothing(77)]));
                rt.sleep(Duration::from_millis(50)).await;
                drop(serving);
            }
            // A notice whose handler keeps it until the connection ends.
            let (socket, serving) = hostile(&rt, MOST);
            kept.push(send_hidden(&socket, &frames([payload(NOTICE, 1, &hold(&[0]))])));
            rt.sleep(Duration::from_millis(50)).await;
            drop((socket, serving));
            rt.sleep(Duration::from_millis(50)).await;
            assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        });
    }

    fn a_flood_ends_its_connection_and_nothing_else(backend: Backend) {
        run_on(backend, |rt| async move {
            let other = hostile(&rt, MOST);
            for _ in 0..20 {
                let (socket, serving) = hostile(&rt, MOST);
                let witness = Witness::default();
                let places: Vec<u8> = (0..16).collect();
                for number in 0..3 {
                    witness.send(&socket, &frames([request(number, 16, &hold(&places))]), 16);
                }
                ended(&rt, serving, "more unanswered requests than agreed").await;
                drop(socket);
                witness.is_alone(&rt).await;
            }
            goes_on(&rt, other.0, &[]).await;
        });
    }
}
