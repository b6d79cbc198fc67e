//! Files, sockets and pipes inside messages, both ways, on every backend.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{join, join_all};
use nix::sys::resource::{Resource, getrlimit};
use release_core::ipc::plain::Client;
use release_core::ipc::{
    CallError, Codec, CodecError, ConnectOptions, Ended, Never, Peer, Postcard, Request, SendError,
};
use release_tests::{
    Descriptor, Pass, Passed, Passing, Witness, connect_end, copy, frames, on_every_backend, pass,
    poll_once, run_on,
};
use serde::{Serialize, de::DeserializeOwned};

/// What identifies an open file, whatever its number.
fn identity(of: &impl AsFd) -> (u64, u64) {
    let stat = nix::sys::stat::fstat(of).expect("fstat");
    (stat.st_dev, stat.st_ino)
}

fn back(after: u64, passed: Vec<Option<Descriptor>>) -> Pass {
    Pass::Back { after, words: "words".to_owned(), passed }
}

/// A file with these words, to be read from its beginning.
fn file(words: &str) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(words.as_bytes()).expect("written");
    file.rewind().expect("rewound");
    file
}

/// Sends copies to a peer that does not read, until they wait on this side.
fn fill(peer: &Peer<Pass>, witness: &Witness) {
    let words = "x".repeat(100_000);
    let full = loop {
        let to = copy(&witness.writer).unwrap();
        if let Err(error) = peer.notify(Pass::Write { words: words.clone(), to }) {
            break error;
        }
    };
    assert!(matches!(full, SendError::Full), "{full:?}");
}

on_every_backend! {
    fn files_sockets_and_pipes_travel_both_ways(backend: Backend) {
        run_on(backend, |rt| async move {
            let passing = Passing::new(&rt, 16);
            for (asking, words) in [(&passing.peer, "there"), (&passing.other, "back")] {
                let answer = asking.call(&Pass::Read(Descriptor::new(file(words)))).await.unwrap();
                assert_eq!(answer.words, words);
                let (socket, mut other_end) = UnixStream::pair().unwrap();
                let pipe = Witness::default();
                let sent = [identity(&socket), identity(&pipe.writer)];
                let passed = vec![Some(Descriptor::new(socket)), None, Some(copy(&pipe.writer).unwrap())];
                let answer = asking.call(&back(0, passed)).await.unwrap();
                assert_eq!(answer.words, "words");
                let [Some(first), None, Some(second)] = &answer.passed[..] else {
                    panic!("{answer:?}");
                };
                assert_eq!([identity(first), identity(second)], sent);
                nix::unistd::write(first, b"through").unwrap();
                let mut read = [0; 7];
                other_end.read_exact(&mut read).unwrap();
                assert_eq!(&read, b"through");
                drop(answer);
                pipe.is_alone(&rt).await;
            }
        });
    }

    fn notices_have_them_too(backend: Backend) {
        run_on(backend, |rt| async move {
            let passing = Passing::new(&rt, 1);
            let (mut reader, writer) = std::io::pipe().unwrap();
            let to = Descriptor::new(writer);
            passing.peer.notify(Pass::Write { words: "noticed".to_owned(), to }).unwrap();
            passing.peer.call(&Pass::Nothing("after it".to_owned())).await.unwrap();
            let mut words = String::new();
            reader.read_to_string(&mut words).unwrap();
            assert_eq!(words, "noticed");
        });
    }

    fn a_message_has_as_many_as_the_kernel_takes_and_no_more(backend: Backend) {
        run_on(backend, |rt| async move {
            let passing = Passing::new(&rt, u8::MAX);
            let witness = Witness::default();
            for (asking, count) in [(&passing.peer, 253), (&passing.other, 252), (&passing.peer, 1)] {
                let passed = witness.copies(count).into_iter().map(Some).collect();
                let answer = asking.call(&back(0, passed)).await.unwrap();
                assert_eq!(answer.passed.iter().flatten().count(), count);
            }
            let passed = witness.copies(254).into_iter().map(Some).collect();
            let error = passing.peer.call(&back(0, passed)).await.unwrap_err();
            assert!(matches!(&error, CallError::Codec(why)
                if why.to_string() == "a message here has at most 253 descriptors"), "{error:?}");
            // The handler's answer has too many: it is refused instead.
            let copies = Pass::Copies(254, copy(&witness.writer).unwrap());
            let error = passing.peer.call(&copies).await.unwrap_err();
            assert!(matches!(&error, CallError::Refused(why) if why.contains("at most 253")),
                "{error:?}");
            drop(copies);
            passing.peer.call(&Pass::Nothing("goes on".to_owned())).await.unwrap();
            witness.is_alone(&rt).await;
        });
    }

    fn each_of_many_callers_gets_its_own(backend: Backend) {
        run_on(backend, |rt| async move {
            let passing = Passing::new(&rt, 200);
            let calls = (0..100_usize).flat_map(|number| [(&passing.peer, number), (&passing.other, number)]);
            join_all(calls.map(|(peer, number)| {
                async move {
                    let words = format!("{number}");
                    let own = file(&words);
                    let mut passed = vec![Some(copy(&own).unwrap())];
                    passed.resize_with(1 + number % 3, || None);
                    passed.push(Some(Descriptor::new(UnixStream::pair().unwrap().0)));
                    let asked = Pass::Back {
                        after: (number % 4) as u64,
                        // Some frames take many writes.
                        words: "x".repeat(if number % 10 == 0 { 300_000 } else { number }),
                        passed,
                    };
                    let answer = peer.call(&asked).await.unwrap();
                    let first = answer.passed.into_iter().next().flatten().unwrap();
                    assert_eq!(identity(&first), identity(&own), "{number} got another's");
                    peer.call(&Pass::Nothing(words.clone())).await.unwrap();
                    let answer = peer.call(&Pass::Read(first)).await.unwrap();
                    assert_eq!(answer.words, words);
                }
            }))
            .await;
        });
    }

    fn requests_wait_while_others_hold_as_many_as_there_may_be(backend: Backend) {
        run_on(backend, |rt| async move {
            let passing = Passing::new(&rt, 4);
            let witness = Witness::default();
            let slow = (0..20).map(|number| {
                let passed = witness.copies(1 + number % 4).into_iter().map(Some).collect();
                let (peer, request) = (&passing.peer, back(3, passed));
                async move { peer.call(&request).await.unwrap().passed.len() }
            });
            let others = async {
                for number in 0..20 {
                    let words = number.to_string();
                    let answer = passing.peer.call(&Pass::Nothing(words.clone())).await.unwrap();
                    assert_eq!(answer.words, words);
                }
            };
            let (counts, ()) = join(join_all(slow), others).await;
            assert_eq!(counts.into_iter().sum::<usize>(), 50);
            witness.is_alone(&rt).await;

            let hold = Pass::Hold(Witness::default().copies(4));
            let mut holding = Box::pin(passing.peer.call(&hold));
            assert!(poll_once(&mut holding).await.is_pending());
            // Nothing but the one who holds them stands in the way of others.
            let read = Pass::Read(Descriptor::new(file("later")));
            let mut waiting = Box::pin(passing.peer.call(&read));
            assert!(poll_once(&mut waiting).await.is_pending());
            passing.peer.call(&Pass::Nothing("first".to_owned())).await.unwrap();
            assert!(poll_once(&mut waiting).await.is_pending());
            drop(holding);
            assert_eq!(waiting.await.unwrap().words, "later");
        });
    }

    fn calls_that_are_given_up_leave_nothing(backend: Backend) {
        run_on(backend, |rt| async move {
            let passing = Passing::new(&rt, 8);
            // In the handler's hands, and with an answer that comes too late.
            let (held, late, unsent) = (Witness::default(), Witness::default(), Witness::default());
            let short = Duration::from_millis(10);
            for asked in [
                Pass::Hold(held.copies(8)),
                back(30, late.copies(3).into_iter().map(Some).collect()),
            ] {
                let error = passing.peer.call_within(short, &asked).await.unwrap_err();
                assert!(matches!(error, CallError::TimedOut), "{error:?}");
            }
            // Dropped before it was polled, once, and after an answer has come that nobody took.
            let asked = back(0, unsent.copies(2).into_iter().map(Some).collect());
            drop(passing.peer.call(&asked));
            let mut call = Box::pin(passing.peer.call(&asked));
            assert!(poll_once(&mut call).await.is_pending());
            passing.peer.call(&Pass::Nothing("read by the background".to_owned())).await.unwrap();
            drop(call);
            drop(asked);
            for witness in [held, late, unsent] {
                witness.is_alone(&rt).await;
            }
            passing.peer.call(&Pass::Nothing("goes on".to_owned())).await.unwrap();
        });
    }

    fn what_a_connection_holds_is_closed_with_it(backend: Backend) {
        run_on(backend, |rt| async move {
            // One end whose peer does not read, and goes, with and without a word.
            for last_words in [&frames([[99]])[..], &[]] {
                let (here, mut there) = UnixStream::pair().unwrap();
                let (peer, serving) = connect_end(&rt, here, 100);
                let witness = Witness::default();
                fill(&peer, &witness);
                there.write_all(last_words).unwrap();
                if last_words.is_empty() {
                    drop(there);
                } else {
                    let _ = serving.await;
                    drop(there);
                }
                // `peer` lives on.
                witness.is_alone(&rt).await;
                assert!(peer.ended().is_some());
            }

            // An end that holds requests, and is dropped.
            let Passing { peer, other, serving } = Passing::new(&rt, 100);
            let witness = Witness::default();
            peer.notify(Pass::Hold(witness.copies(50))).unwrap();
            peer.call(&Pass::Nothing("it has them".to_owned())).await.unwrap();
            drop((serving, other));
            witness.is_alone(&rt).await;
        });
    }

    fn more_than_the_system_has_on_their_way_are_sent_later(backend: Backend) {
        // The system's limit is this process's own, too: there is room for one of these at a time.
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        run_on(backend, |rt| async move {
            let (here, mut there) = UnixStream::pair().unwrap();
            let (peer, _serving) = connect_end(&rt, here, 253);
            let witness = Witness::default();
            let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            let messages = usize::try_from(limit).unwrap() / 80 + 2;
            for _ in 0..messages {
                peer.notify(Pass::Hold(witness.copies(80))).unwrap();
                rt.sleep(Duration::from_millis(1)).await;
            }
            rt.sleep(Duration::from_millis(100)).await;
            assert!(peer.ended().is_none(), "{:?}", peer.ended());
            // Whoever reads without room for descriptors has none.
            let reading = std::thread::spawn(move || {
                let mut frame = [0; 4 + 2 + 2 + 80];
                (0..messages).for_each(|_| there.read_exact(&mut frame).unwrap());
                there
            });
            witness.is_alone(&rt).await;
            reading.join().unwrap();
        });
    }

    fn without_an_agreement_there_are_none(backend: Backend) {
        run_on(backend, |rt| async move {
            let passing = Passing::new(&rt, 0);
            let witness = Witness::default();
            let asked = Pass::Hold(witness.copies(1));
            let error = passing.peer.call(&asked).await.unwrap_err();
            assert!(matches!(&error, CallError::Codec(why)
                if why.to_string().contains("both sides have to allow them")), "{error:?}");
            assert!(matches!(passing.peer.notify(&asked), Err(SendError::Codec(_))));
            passing.peer.call(&Pass::Nothing("goes on".to_owned())).await.unwrap();

            // Plain mode has none, ever.
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let plain: Client<Pass> = Client::new(&rt, ours.into(), Postcard).unwrap();
            assert!(matches!(plain.call(&asked).await, Err(CallError::Codec(_))));
            assert!(plain.ended().is_none());

            // One side alone.
            let (here, there) = UnixStream::pair().unwrap();
            let ((peer, _first), (_other, second)) =
                (connect_end(&rt, here, 8), connect_end(&rt, there, 0));
            let error = peer.call(&asked).await.unwrap_err();
            assert!(matches!(error, CallError::Ended(_)), "{error:?}");
            let ended = second.await;
            // Newer kernels refuse to send them.
            let is_right = matches!(ended, Ended::Closed)
                || matches!(ended, Ended::Violation("descriptors that nobody asked for"));
            assert!(is_right, "{ended:?}");
            drop(asked);
            witness.is_alone(&rt).await;
        });
    }

    fn a_codec_of_ones_own_carries_them(backend: Backend) {
        run_on(backend, |rt| async move {
            let (here, there) = UnixStream::pair().unwrap();
            let clock = rt.clone();
            let answer = move |request| pass(clock.clone(), request);
            let options = ConnectOptions::new().descriptors(9);
            let (_, _serving) = options
                .connect::<Never, Pass, _, _, _>(&rt, there.into(), Json, answer)
                .unwrap();
            let refuse = |never: Never| async move { match never {} };
            let (peer, _task) =
                options.connect::<Pass, Never, _, _, _>(&rt, here.into(), Json, refuse).unwrap();
            let answer = peer.call(&Pass::Read(Descriptor::new(file("in json")))).await.unwrap();
            assert_eq!(answer.words, "in json");
            let witness = Witness::default();
            let Passed { passed, .. } =
                peer.call(&Pass::Copies(9, copy(&witness.writer).unwrap())).await.unwrap();
            assert_eq!(passed.len(), 9);
            let one: OwnedFd = passed.into_iter().next().flatten().unwrap().into();
            assert_eq!(identity(&one), identity(&witness.writer));
            drop(one);
            witness.is_alone(&rt).await;
        });
    }

    fn a_codec_that_panics_ends_its_connection_and_leaves_nothing(backend: Backend) {
        run_on(backend, |rt| async move {
            let (here, there) = UnixStream::pair().unwrap();
            let answer = |Fragile| async move { Ok(()) };
            let (_, serving) = ConnectOptions::new()
                .descriptors(9)
                .connect::<Never, Fragile, _, _, _>(&rt, there.into(), Panicking, answer)
                .unwrap();
            let (peer, _task) = connect_end(&rt, here, 9);
            let witness = Witness::default();
            peer.notify(Pass::Hold(witness.copies(9))).unwrap();
            let ended = serving.await;
            assert!(matches!(ended, Ended::Violation(why) if why.contains("codec")), "{ended:?}");
            witness.is_alone(&rt).await;
        });
    }
}

#[derive(Clone)]
struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn encode(&self, value: &T, payload: &mut Vec<u8>) -> Result<(), CodecError> {
        serde_json::to_writer(payload, value).map_err(CodecError::new)
    }

    fn decode(&self, payload: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(payload).map_err(CodecError::new)
    }
}

struct Fragile;

impl Request for Fragile {
    type Response = ();
}

#[derive(Clone)]
struct Panicking;

impl Codec<Fragile> for Panicking {
    fn encode(&self, _: &Fragile, _: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(())
    }

    /// Panics with descriptors in its hands and others not yet taken.
    fn decode(&self, payload: &[u8]) -> Result<Fragile, CodecError> {
        let _in_its_hands: Pass = Postcard.decode(payload)?;
        panic!("in a decoder")
    }
}

impl Codec<()> for Panicking {
    fn encode(&self, (): &(), _: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(())
    }

    fn decode(&self, _: &[u8]) -> Result<(), CodecError> {
        Ok(())
    }
}

impl Codec<Never> for Panicking {
    fn encode(&self, never: &Never, _: &mut Vec<u8>) -> Result<(), CodecError> {
        match *never {}
    }

    fn decode(&self, _: &[u8]) -> Result<Never, CodecError> {
        Err(CodecError::new("never"))
    }
}
