//! Plain connections and streams as a program uses them, in this process.

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{join, join_all};
use release_core::ipc::plain::{Client, Server};
use release_core::ipc::{CallError, Codec, CodecError, Ended, Postcard, ReadError, Request, Text};
use release_core::net::{Read, Stream};
use release_core::rt::Rt;
use release_tests::{ControlClient, DEADLINE, frames, on_every_backend, run_on};
use serde::{Deserialize, Serialize};

/// A client, and the other end for a thread that speaks bytes.
fn client(
    rt: &Rt,
    peer: impl FnOnce(ControlClient) + Send + 'static,
) -> (Client<String, Text>, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let peer = std::thread::spawn(move || peer(ControlClient(theirs)));
    (Client::new(rt, ours.into(), Text).expect("a client"), peer)
}

/// A server, and the other end.
fn server<R: Request, C>(rt: &Rt, codec: C) -> (Server<R, C>, ControlClient)
where
    C: Codec<R> + Codec<R::Response>,
{
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    theirs.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    (Server::new(rt, ours.into(), codec).expect("a server"), ControlClient(theirs))
}

/// Both ends here; the server answers in the background, `slow` requests late.
fn pair(rt: &Rt) -> Client<String, Text> {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let (mut server, later) = (Server::new(rt, theirs.into(), Text).expect("a server"), rt.clone());
    let serving = rt.spawn(async move {
        let answer = |request: String| {
            let rt = later.clone();
            async move {
                if request.starts_with("slow") {
                    rt.sleep(Duration::from_millis(20)).await;
                }
                Ok(request.to_uppercase())
            }
        };
        let _ = server.handle_requests(answer).await;
    });
    serving.detach();
    Client::new(rt, ours.into(), Text).expect("a client")
}

fn ask(text: impl Into<String>) -> String {
    text.into()
}

const SOON: Duration = Duration::from_millis(20);

on_every_backend! {
    fn a_late_answer_is_not_the_next_ones(backend: Backend) {
        run_on(backend, |rt| async move {
            let (client, peer) = client(&rt, |mut peer| {
                assert_eq!(peer.receive().unwrap(), b"first");
                assert_eq!(peer.receive().unwrap(), b"second");
                // Only now, and in pieces, the answer that nobody awaits any more.
                for byte in frames(["late answer to first", "ok:second"]) {
                    peer.throw(&[byte]);
                }
                assert_eq!(peer.receive().unwrap(), b"third");
                peer.send(b"ok:third").unwrap();
            });
            let first = client.call_within(SOON, &ask("first")).await;
            assert!(matches!(first, Err(CallError::TimedOut)), "{first:?}");
            assert_eq!(client.call(&ask("second")).await.unwrap(), "ok:second");
            assert_eq!(client.call(&ask("third")).await.unwrap(), "ok:third");
            peer.join().unwrap();
        });
    }

    fn a_timeout_inside_an_answer_loses_no_byte(backend: Backend) {
        run_on(backend, |rt| async move {
            let (client, peer) = client(&rt, |mut peer| {
                assert_eq!(peer.receive().unwrap(), b"first");
                peer.throw(b"\0\0\0\x14hello");
                assert_eq!(peer.receive().unwrap(), b"second");
                peer.throw(b"ABCDEFGHIJKLMNO\0\0\0\x02ok");
            });
            let first = client.call_within(SOON, &ask("first")).await;
            assert!(matches!(first, Err(CallError::TimedOut)), "{first:?}");
            assert_eq!(client.call(&ask("second")).await.unwrap(), "ok");
            peer.join().unwrap();
        });
    }

    fn calls_given_up_at_any_time_disturb_no_other(backend: Backend) {
        run_on(backend, |rt| async move {
            let client = pair(&rt);
            for round in 0..100_u64 {
                let slow = ask(format!("slow {round}"));
                let given_up = client.call_within(Duration::from_micros(round * 97), &slow);
                let question = ask(format!("question {round}"));
                let (_, answer) = join(given_up, client.call(&question)).await;
                assert_eq!(answer.unwrap(), format!("QUESTION {round}"));
            }
        });
    }

    fn large_requests_at_the_same_time_are_not_mixed(backend: Backend) {
        run_on(backend, |rt| async move {
            let client = pair(&rt);
            let requests = ["a", "b", "c", "d"].map(|letter| letter.repeat(1 << 20));
            let answers = join_all(requests.iter().map(|request| client.call(request))).await;
            for (answer, request) in answers.into_iter().zip(&requests) {
                assert!(answer.unwrap() == request.to_uppercase());
            }
        });
    }

    fn a_truncated_frame_is_an_error_at_every_byte(backend: Backend) {
        run_on(backend, |rt| async move {
            let frame = frames(["hello"]);
            for cut in 0..=frame.len() {
                let (mut server, mut peer) = server::<String, _>(&rt, Text);
                peer.throw(&frame[..cut]);
                drop(peer);
                let read = server.read_request().await;
                match cut {
                    0 => assert!(matches!(read, Ok(None)), "{read:?}"),
                    9 => assert_eq!(read.unwrap().as_deref(), Some("hello")),
                    _ => assert!(
                        matches!(read, Err(ReadError::Ended(Ended::Truncated))),
                        "{cut}: {read:?}"
                    ),
                }
            }
        });
    }

    fn an_empty_message_is_a_message(backend: Backend) {
        run_on(backend, |rt| async move {
            let client = pair(&rt);
            assert_eq!(client.call(&ask("")).await.unwrap(), "");
            assert_eq!(client.call(&ask("more")).await.unwrap(), "MORE");
            let (mut server, mut peer) = server::<String, _>(&rt, Text);
            peer.throw(&frames(["", "x"]));
            assert_eq!(server.read_request().await.unwrap().as_deref(), Some(""));
            assert_eq!(server.read_request().await.unwrap().as_deref(), Some("x"));
        });
    }

    fn a_frame_over_the_limit_is_named_with_the_limit(backend: Backend) {
        run_on(backend, |rt| async move {
            let (mut server, mut peer) = server::<String, _>(&rt, Text);
            peer.throw(&u32::MAX.to_be_bytes());
            let error = server.read_request().await.unwrap_err();
            let ReadError::Ended(Ended::FrameTooLong(too_long)) = error else {
                panic!("{error:?}");
            };
            assert_eq!((too_long.length, too_long.limit), (0xFFFF_FFFF, 16 << 20));
            let words = "a frame of 4294967295 bytes is over the limit of 16777216 bytes";
            assert_eq!(too_long.to_string(), words);

            let client = pair(&rt);
            let error = client.call(&"x".repeat((16 << 20) + 1)).await.unwrap_err();
            assert!(matches!(error, CallError::TooLong(_)), "{error:?}");
            assert_eq!(client.call(&ask("more")).await.unwrap(), "MORE");
        });
    }

    fn a_message_of_another_type_is_an_error_of_its_own(backend: Backend) {
        run_on(backend, |rt| async move {
            let (mut numbers, mut peer) = server::<Number, _>(&rt, Postcard);
            peer.throw(&frames([&b"\xff"[..], b"\x0e", b"\x0e\x0e", b"", b"\0"]));
            assert!(matches!(numbers.read_request().await, Err(ReadError::Codec(_))));
            assert!(matches!(numbers.read_request().await, Ok(Some(Number(7)))));
            numbers.write_response(&49).await.unwrap();
            assert_eq!(peer.receive().unwrap(), b"\x62");
            assert!(matches!(numbers.read_request().await, Err(ReadError::Codec(_))));
            assert!(matches!(numbers.read_request().await, Err(ReadError::Codec(_))));
            assert!(matches!(numbers.read_request().await, Ok(Some(Number(0)))));

            let (client, peer) = client(&rt, |mut peer| {
                peer.receive().unwrap();
                peer.send(b"\xff").unwrap();
                peer.receive().unwrap();
                peer.send(b"fine").unwrap();
            });
            let answer = client.call(&ask("one")).await;
            assert!(matches!(answer, Err(CallError::Codec(_))), "{answer:?}");
            assert_eq!(client.call(&ask("two")).await.unwrap(), "fine");
            peer.join().unwrap();
        });
    }

    fn a_codec_of_ones_own(backend: Backend) {
        run_on(backend, |rt| async move {
            let (mut server, mut peer) = server::<String, _>(&rt, Rot13);
            peer.throw(&frames(["uryyb"]));
            assert_eq!(server.read_request().await.unwrap().as_deref(), Some("hello"));
            server.write_response(&ask("hello")).await.unwrap();
            assert_eq!(peer.receive().unwrap(), b"uryyb");
        });
    }

    fn messages_that_nobody_asked_for_are_kept_and_harm_no_call(backend: Backend) {
        run_on(backend, |rt| async move {
            let (client, peer) = client(&rt, |mut peer| {
                peer.throw(&frames((0..300).map(|number| format!("push {number}"))));
                for _ in 0..2 {
                    let request = peer.receive().unwrap();
                    peer.send(&request).unwrap();
                }
            });
            for number in 0..300 {
                let message = client.next_message().await.unwrap();
                assert_eq!(message, Some(format!("push {number}")));
            }
            let (one, two) = (ask("one"), ask("two"));
            let (first, second) = join(client.call(&one), client.call(&two)).await;
            assert_eq!((first.unwrap(), second.unwrap()), (one, two));
            peer.join().unwrap();
            assert_eq!(client.next_message().await.unwrap(), None);
        });
    }

    fn messages_that_nobody_takes_do_not_stop_calls(backend: Backend) {
        run_on(backend, |rt| async move {
            let (sent, all_sent) = oneshot::channel();
            let (client, peer) = client(&rt, |mut peer| {
                peer.throw(&frames(vec!["push"; 300]));
                sent.send(()).unwrap();
                for _ in 0..2 {
                    let request = peer.receive().unwrap();
                    peer.throw(&frames([request]));
                }
            });
            all_sent.await.unwrap();
            // Plain frames do not say what they are: the answers may be messages.
            let (one, two) = (ask("one"), ask("two"));
            let (first, second) = join(client.call(&one), client.call(&two)).await;
            assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
            peer.join().unwrap();
        });
    }

    fn a_peer_that_has_gone_is_an_error_and_no_signal(backend: Backend) {
        run_on(backend, |rt| async move {
            let (client, peer) = client(&rt, drop);
            peer.join().unwrap();
            for _ in 0..3 {
                let answer = client.call(&ask("anybody?")).await;
                assert!(matches!(answer, Err(CallError::Ended(Ended::Closed))), "{answer:?}");
            }
        });
    }

    fn a_read_with_a_limit_keeps_what_came(backend: Backend) {
        run_on(backend, |rt| async move {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (stream, mut peer) = (Stream::from_unix(&rt, ours).unwrap(), ControlClient(theirs));
            assert_eq!(stream.read(4, Some(SOON)).await.unwrap(), Read::TimedOut(vec![]));
            peer.throw(b"abc");
            assert_eq!(stream.read(4, Some(SOON)).await.unwrap(), Read::TimedOut(b"abc".to_vec()));
            peer.throw(b"defgh");
            assert_eq!(stream.read(4, None).await.unwrap(), Read::Data(b"defg".to_vec()));
            drop(peer);
            assert_eq!(stream.read(4, Some(SOON)).await.unwrap(), Read::Eof(b"h".to_vec()));
            assert_eq!(stream.read(0, None).await.unwrap(), Read::Data(vec![]));
            let error = stream.write_all(b"anybody?").await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        });
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Number(i32);

impl Request for Number {
    type Response = i32;
}

#[derive(Clone)]
struct Rot13;

fn rotate(byte: u8) -> u8 {
    if byte.is_ascii_lowercase() { (byte - b'a' + 13) % 26 + b'a' } else { byte }
}

impl Codec<String> for Rot13 {
    fn encode(&self, value: &String, payload: &mut Vec<u8>) -> Result<(), CodecError> {
        payload.extend(value.bytes().map(rotate));
        Ok(())
    }

    fn decode(&self, payload: &[u8]) -> Result<String, CodecError> {
        String::from_utf8(payload.iter().copied().map(rotate).collect()).map_err(CodecError::new)
    }
}
