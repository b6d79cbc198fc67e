//! Rings in shared memory: how both sides agree on them, and what a hostile one does with them.

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::super::socket::{Received, receive, transmit};
use super::room::Counter;
use super::*;
use crate::ipc::wire::body::Draft;
use crate::ipc::wire::frame::Inbox;
use crate::ipc::wire::header::{self, Header};
use crate::ipc::wire::outbox::Outbox;
use crate::ipc::wire::ring::{RingReader, RingWriter, words_for};
use crate::ipc::{Descriptor, FrameTooLong, SendError};
use crate::rt::give_way;
use crate::sys::bell;
use crate::sys::fds::set_blocking;
use crate::sys::shared_memory::SharedMemory;

const BYTES: u32 = 4096;

fn answering(rt: &Rt, link: Link) -> Side {
    Side::new(rt, link, |ask| async move { Ok(ask.number) })
}

async fn until(rt: &Rt, mut is_so: impl FnMut() -> bool) {
    let so = async {
        while !is_so() {
            give_way().await;
        }
    };
    within(rt, so).await;
}

/// Calls until frames come through the ring.
async fn warmed_up(rt: &Rt, side: &Side) {
    for number in 0..10 {
        assert_eq!(within(rt, side.peer.call(&Ask::new(number))).await.ok(), Some(number));
    }
    assert!(is_ringed(side));
}

fn is_ringed(side: &Side) -> bool {
    side.link.lock().rings.is_read()
}

#[test]
fn both_sides_have_to_ask() {
    for (one, other) in [(None, None), (Some(BYTES), None), (Some(BYTES), Some(65_536))] {
        on_local(async |rt| {
            let (here, there) = UnixStream::pair().unwrap();
            let side = |socket, bytes| match bytes {
                Some(bytes) => answering(&rt, ringed(&rt, socket, bytes)),
                None => answering(&rt, link(&rt, socket)),
            };
            let (one, other) = (side(here, one), side(there, other));
            for number in 0..10 {
                assert_eq!(within(&rt, one.peer.call(&Ask::new(number))).await.ok(), Some(number));
            }
            let both = one.link.limits().ring > 0 && other.link.limits().ring > 0;
            assert_eq!([is_ringed(&one), is_ringed(&other)], [both; 2]);
        });
    }
}

#[test]
fn a_message_that_does_not_fit_or_has_descriptors_goes_another_way_and_comes_in_order() {
    on_local(async |rt| {
        let (here, there) = UnixStream::pair().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let noting = move |ask: Ask| {
            noted.lock().unwrap().push((ask.number, ask.descriptors.len()));
            async move { Ok(ask.number) }
        };
        let one = answering(&rt, ringed(&rt, here, BYTES));
        let other = Side::new(&rt, ringed(&rt, there, BYTES), noting);
        warmed_up(&rt, &one).await;
        seen.lock().unwrap().clear();
        let mut expected = Vec::new();
        for number in 0..500 {
            let filling = vec![7; [0, 10, 5000, 300, 100_000][number as usize % 5]];
            let count = if number % 7 == 0 { 2 } else { 0 };
            let null = || OwnedFd::from(File::open("/dev/null").unwrap()).into();
            let descriptors = (0..count).map(|_| null()).collect();
            let message = Ask { number, filling, descriptors };
            while matches!(one.peer.notify(&message), Err(SendError::Full)) {
                give_way().await;
            }
            expected.push((number, count));
        }
        until(&rt, || seen.lock().unwrap().len() == expected.len()).await;
        assert_eq!(*seen.lock().unwrap(), expected);
        warmed_up(&rt, &one).await;
        assert!(is_ringed(&other));
    });
}

#[test]
fn a_full_ring_is_left_and_entered_again_whenever_its_reader_comes() {
    on_local(async |rt| {
        let (here, there) = UnixStream::pair().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let one = answering(&rt, ringed(&rt, here, BYTES));
        let other = Side::new(&rt, ringed(&rt, there, BYTES), move |ask| {
            noted.lock().unwrap().push((ask.number, ask.filling.len()));
            async move { Ok(ask.number) }
        });
        warmed_up(&rt, &one).await;
        seen.lock().unwrap().clear();
        let mut expected = Vec::new();
        // Up to the last bytes of the ring, at every length, without a turn of the reader between.
        for number in 0..2000_u32 {
            let length = number as usize % 97 + if number % 3 == 0 { 1900 } else { 0 };
            let message = Ask { filling: vec![7; length], ..Ask::new(number) };
            while one.peer.notify(&message).is_err() {
                give_way().await;
            }
            expected.push((number, length));
            if number % 50 == 0 {
                give_way().await;
            }
        }
        until(&rt, || seen.lock().unwrap().len() == expected.len()).await;
        assert_eq!(*seen.lock().unwrap(), expected);
        assert!(other.link.ended().is_none());
        warmed_up(&rt, &one).await;
    });
}

#[test]
fn a_ring_that_takes_the_backlog_makes_room_for_callers() {
    on_local(async |rt| {
        let (here, there) = UnixStream::pair().unwrap();
        let one = answering(&rt, ringed(&rt, here, 4 * 1024 * 1024));
        let other = answering(&rt, ringed(&rt, there, 4 * 1024 * 1024));
        warmed_up(&rt, &one).await;
        assert!(is_ringed(&other));
        let message = Ask { filling: vec![7; 100_000], ..Ask::new(1) };
        while !one.link.is_choked() {
            let queued = one.link.queue(Some(Header::Notice), |draft| -> Result<(), SendError> {
                draft.encode(&Postcard, &message).unwrap();
                Ok(())
            });
            queued.unwrap();
        }
        let (counter, ask) = (Arc::<Counter>::default(), Ask::new(2));
        let mut call = Box::pin(one.peer.call(&ask));
        let waker = Waker::from(Arc::clone(&counter));
        assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(one.link.lock().room.len(), 1);
        one.link.flush_now();
        assert!(!one.link.is_choked());
        assert_eq!(counter.0.load(Ordering::Relaxed), 1, "nobody has woken the caller");
        assert_eq!(within(&rt, call).await.ok(), Some(2));
    });
}

#[test]
fn what_was_sent_before_the_end_is_still_read() {
    on_local(async |rt| {
        let (here, there) = UnixStream::pair().unwrap();
        let seen = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&seen);
        let one = answering(&rt, ringed(&rt, here, BYTES));
        let other = Side::new(&rt, ringed(&rt, there, BYTES), move |ask| {
            *counted.lock().unwrap() += 1;
            async move { Ok(ask.number) }
        });
        warmed_up(&rt, &one).await;
        *seen.lock().unwrap() = 0;
        for number in 0..20 {
            one.peer.notify(Ask::new(number)).unwrap();
        }
        one.link.end(Ended::Here);
        until(&rt, || other.link.ended().is_some()).await;
        assert!(matches!(other.link.ended(), Some(Ended::Closed)), "{:?}", other.link.ended());
        assert_eq!(*seen.lock().unwrap(), 20);
    });
}

#[test]
fn a_socket_without_descriptors_has_no_rings() {
    on_local(async |rt| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let here = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let there = listener.accept().unwrap().0;
        let side = |socket: OwnedFd| {
            let limits = limits().with_ring(BYTES);
            let link = Link::new(&rt, socket, Mode::Calls, limits).unwrap();
            link.ask_for_rings();
            answering(&rt, link)
        };
        let (one, other) = (side(here.into()), side(there.into()));
        for number in 0..10 {
            assert_eq!(within(&rt, one.peer.call(&Ask::new(number))).await.ok(), Some(number));
        }
        assert!(!is_ringed(&one) && !is_ringed(&other));
    });
}

#[test]
fn both_ends_may_close_at_once() {
    on_local(async |rt| {
        for _ in 0..50 {
            let (here, there) = UnixStream::pair().unwrap();
            let one = answering(&rt, ringed(&rt, here, BYTES));
            let other = answering(&rt, ringed(&rt, there, BYTES));
            warmed_up(&rt, &one).await;
            let (peer, ask) = (one.peer.clone(), Ask::new(1));
            let call = rt.spawn(async move { peer.call(&ask).await });
            give_way().await;
            drop((one, other));
            let _ = within(&rt, call).await;
        }
    });
}

/// A peer by hand, on the other side of a link with rings.
struct Hostile {
    rt: Rt,
    side: Side,
    socket: UnixStream,
    reader: RingReader<SharedMemory>,
    writer: RingWriter<SharedMemory>,
    /// The memory into which this peer writes, and the bell of the link.
    memory: SharedMemory,
    bell: OwnedFd,
    /// This peer's own bell.
    own: OwnedFd,
}

fn frame(header: Header, body: &[u8], descriptors: Vec<OwnedFd>) -> Outbox {
    let mut outbox = Outbox::new(u32::MAX);
    let pushed = outbox.push::<_, FrameTooLong>(|payload| {
        let start = payload.len();
        header.write(payload);
        payload.extend_from_slice(body);
        if !descriptors.is_empty() {
            header::add_descriptors(payload, start, descriptors.len());
        }
        Ok(())
    });
    pushed.unwrap();
    outbox.attach(descriptors.into_iter().map(Descriptor::from).collect());
    outbox
}

fn notice_body(number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut draft = Draft::new(&mut bytes, 0);
    draft.encode(&Postcard, &Ask::new(number)).unwrap();
    bytes
}

fn notice(number: u32) -> Vec<u8> {
    frame(Header::Notice, &notice_body(number), Vec::new()).unsent().to_vec()
}

fn wish() -> Outbox {
    let body = [&b"ring"[..], &BYTES.to_be_bytes()].concat();
    frame(Header::Cancel { number: 0 }, &body, Vec::new())
}

fn send(socket: &UnixStream, outbox: &Outbox) {
    transmit(socket.as_fd(), outbox.next()).unwrap();
}

/// Reads frames until one has descriptors.
async fn offered(rt: &Rt, socket: &UnixStream) -> [OwnedFd; 2] {
    let mut inbox = Inbox::new(1000);
    let arrival = async {
        loop {
            match receive(socket.as_fd(), inbox.space(), 2) {
                Ok((Received::Rights(_, descriptors), _)) => break descriptors,
                Ok((Received::Bytes(_), _)) => {}
                Ok(_) => panic!("it has ended"),
                Err(_) => give_way().await,
            }
        }
    };
    let descriptors = within(rt, arrival).await;
    let descriptors: Vec<OwnedFd> = descriptors.into_iter().map(OwnedFd::from).collect();
    descriptors.try_into().unwrap()
}

/// A link that has asked for rings, and heard that its peer wants them too; and its offer.
async fn asked(rt: &Rt) -> (Side, UnixStream, [OwnedFd; 2]) {
    let (here, there) = UnixStream::pair().unwrap();
    let side = answering(rt, ringed(rt, here, BYTES));
    send(&there, &wish());
    let offer = offered(rt, &there).await;
    (side, there, offer)
}

async fn ended(rt: &Rt, side: &Side) -> String {
    until(rt, || side.link.ended().is_some()).await;
    side.link.ended().unwrap().to_string()
}

impl Hostile {
    async fn new(rt: &Rt) -> Self {
        let (side, socket, [memory, bell]) = asked(rt).await;
        let map = |file: OwnedFd| SharedMemory::of_peer(file, words_for(BYTES)).unwrap();
        let (own_memory, own) =
            (SharedMemory::new(words_for(BYTES)).unwrap(), bell::create().unwrap());
        let offer = [own_memory.as_fd(), own.as_fd()].map(|fd| fd.try_clone_to_owned().unwrap());
        send(&socket, &frame(Header::Ring, b"", offer.into()));
        (&socket).write_all(&[0; 4]).unwrap();
        let writer = RingWriter::new(map(memory.try_clone().unwrap()));
        let reader = RingReader::new(own_memory);
        let this =
            Self { rt: rt.clone(), side, socket, reader, writer, memory: map(memory), bell, own };
        until(rt, || is_ringed(&this.side)).await;
        this
    }

    fn write(&mut self, bytes: &[u8]) {
        self.writer.write(bytes);
        let _ = self.writer.publish();
        bell::ring(self.bell.as_fd()).unwrap();
    }

    async fn ended(&self) -> String {
        ended(&self.rt, &self.side).await
    }
}

/// Where the numbers are in the memory: bytes written, bytes read, whether the reader sleeps.
const PLACES: [usize; 3] = [0, 16, 32];

#[test]
fn indices_that_cannot_be_end_the_connection_with_the_reason() {
    for written in [5000, u64::MAX, u64::MAX - 100] {
        on_local(async |rt| {
            let hostile = Hostile::new(&rt).await;
            hostile.memory.words()[PLACES[0]].store(written, Ordering::SeqCst);
            bell::ring(hostile.bell.as_fd()).unwrap();
            let why = hostile.ended().await;
            assert!(why.contains("index"), "{why}");
        });
    }
    on_local(async |rt| {
        let mut hostile = Hostile::new(&rt).await;
        hostile.write(&notice(1));
        until(&rt, || hostile.memory.words()[PLACES[1]].load(Ordering::SeqCst) > 0).await;
        hostile.memory.words()[PLACES[0]].store(1, Ordering::SeqCst);
        bell::ring(hostile.bell.as_fd()).unwrap();
        assert!(hostile.ended().await.contains("index"));
    });
    on_local(async |rt| {
        let hostile = Hostile::new(&rt).await;
        // The number of the side that reads.
        hostile.reader.memory().words()[PLACES[1]].store(77, Ordering::SeqCst);
        for number in 0..3 {
            let _ = hostile.side.peer.notify(Ask::new(number));
        }
        assert!(hostile.ended().await.contains("index"));
    });
}

#[test]
fn bytes_that_change_while_they_are_read_are_frames_or_the_end() {
    on_local(async |rt| {
        let mut hostile = Hostile::new(&rt).await;
        let words = hostile.memory.as_fd().try_clone_to_owned().unwrap();
        let words = SharedMemory::of_peer(words, words_for(BYTES)).unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let scribbler = std::thread::spawn(move || {
            let mut value = 1_u64;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                for word in &words.words()[64..] {
                    value = value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    word.store(value, Ordering::Relaxed);
                }
            }
        });
        for _ in 0..1000 {
            if hostile.side.link.ended().is_some() {
                break;
            }
            let Ok(room) = hostile.writer.room() else { break };
            hostile.write(&notice(1).repeat(room / 50));
            give_way().await;
        }
        hostile.ended().await;
        drop(stop);
        scribbler.join().unwrap();
    });
}

#[test]
fn a_ring_that_is_never_emptied_is_left_for_the_socket_until_that_is_full_too() {
    on_local(async |rt| {
        let hostile = Hostile::new(&rt).await;
        let message = Ask { filling: vec![7; 500], ..Ask::new(1) };
        let mut sent = 0_u32;
        let error = loop {
            match hostile.side.peer.notify(&message) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, SendError::Full) && sent > 2000, "{sent}: {error}");
        assert!(hostile.side.link.deadline().is_some(), "it has to read in time");
    });
}

#[test]
fn a_signal_that_never_comes_keeps_only_its_own_messages_and_the_end_is_noticed() {
    on_local(async |rt| {
        let mut hostile = Hostile::new(&rt).await;
        hostile.writer.write(&notice(1));
        let _ = hostile.writer.publish();
        let Hostile { side, socket, .. } = hostile;
        drop(socket);
        let why = ended(&rt, &side).await;
        assert!(why.contains("closed"), "{why}");
    });
}

#[test]
fn a_peer_that_dies_in_the_middle_of_a_frame_is_noticed() {
    on_local(async |rt| {
        let mut hostile = Hostile::new(&rt).await;
        hostile.write(&notice(1)[..5]);
        let Hostile { side, socket, .. } = hostile;
        give_way().await;
        drop(socket);
        let why = ended(&rt, &side).await;
        assert!(why.contains("in the middle of a frame"), "{why}");
    });
}

#[test]
fn signals_without_bytes_are_an_offence_sometime() {
    // Its clock stands still, so that nothing is forgiven.
    let driver = Local::with_virtual_time().unwrap();
    let rt = driver.handle();
    run(&driver, async {
        let hostile = Hostile::new(&rt).await;
        let mut count = 0;
        while hostile.side.link.ended().is_none() {
            bell::ring(hostile.bell.as_fd()).unwrap();
            give_way().await;
            count += 1;
        }
        let why = hostile.ended().await;
        assert!(why.contains("signals") && count > 100_000, "{why} after {count}");
    });
}

#[test]
fn a_bell_whose_flags_the_peer_has_changed_makes_nobody_wait() {
    on_local(async |rt| {
        let hostile = Hostile::new(&rt).await;
        for bell in [&hostile.bell, &hostile.own] {
            set_blocking(bell).unwrap();
        }
        bell::ring(hostile.own.as_fd()).unwrap();
        // Would hang here.
        hostile.reader.memory().words()[PLACES[2]].store(1, Ordering::SeqCst);
        hostile.side.peer.notify(Ask::new(1)).unwrap();
        bell::ring(hostile.bell.as_fd()).unwrap();
        for _ in 0..20 {
            give_way().await;
        }
        assert!(hostile.side.link.ended().is_none());
    });
}

#[test]
fn bytes_on_the_socket_that_the_ring_does_not_announce_are_a_violation() {
    on_local(async |rt| {
        let hostile = Hostile::new(&rt).await;
        (&hostile.socket).write_all(&notice(1)).unwrap();
        let why = hostile.ended().await;
        assert!(why.contains("does not announce"), "{why}");
    });
}

#[test]
fn turns_without_frames_are_a_violation() {
    on_local(async |rt| {
        let mut hostile = Hostile::new(&rt).await;
        hostile.write(&notice(1));
        hostile.write(&[0; 4]);
        (&hostile.socket).write_all(&[0; 4]).unwrap();
        hostile.write(&[0; 4]);
        (&hostile.socket).write_all(&[0; 4]).unwrap();
        let why = hostile.ended().await;
        assert!(why.contains("turns"), "{why}");
    });
}

fn memfd(words: usize, seals: SealFlag) -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = memfd_create(c"test", flags).unwrap();
    File::from(file.try_clone().unwrap()).set_len(words as u64 * 8).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file
}

#[test]
fn other_memory_than_agreed_is_not_mapped() {
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    let words = words_for(BYTES);
    let bell = || bell::create().unwrap();
    let (file, other) = pipe().unwrap();
    let cases: Vec<(OwnedFd, OwnedFd, &str)> = vec![
        (memfd(words, SealFlag::empty()), bell(), "not sealed"),
        (memfd(words, seals - SealFlag::F_SEAL_SHRINK), bell(), "not sealed"),
        (memfd(words - 1, seals), bell(), "another size"),
        (memfd(words * 2, seals), bell(), "another size"),
        (memfd(0, seals), bell(), "another size"),
        (memfd(words, seals | SealFlag::F_SEAL_WRITE), bell(), "cannot be written"),
        (file.into(), bell(), "not a memfd"),
        (bell(), bell(), "not a memfd"),
        (memfd(words, seals), other.into(), "without a timer"),
        (bell(), memfd(words, seals), "without a timer"),
    ];
    for (memory, bell, expected) in cases {
        on_local(async |rt| {
            let (side, socket, _offer) = asked(&rt).await;
            send(&socket, &frame(Header::Ring, b"", vec![memory, bell]));
            let why = ended(&rt, &side).await;
            assert!(why.contains(expected), "{why}");
        });
    }
}

#[test]
fn rings_out_of_turn_are_violations() {
    let offer = || {
        let memory = memfd(words_for(BYTES), SealFlag::empty());
        frame(Header::Ring, b"", vec![memory, bell::create().unwrap()])
    };
    on_local(async |rt| {
        let (here, there) = UnixStream::pair().unwrap();
        let side = answering(&rt, ringed(&rt, here, BYTES));
        send(&there, &offer());
        assert!(ended(&rt, &side).await.contains("nobody asked for"));
        let (side, socket, _offer) = asked(&rt).await;
        send(&socket, &wish());
        assert!(ended(&rt, &side).await.contains("second ring"));
        for bytes in [0, 1, 4097, u32::MAX] {
            let (here, there) = UnixStream::pair().unwrap();
            let side = answering(&rt, ringed(&rt, here, BYTES));
            let body = [&b"ring"[..], &u32::to_be_bytes(bytes)].concat();
            send(&there, &frame(Header::Cancel { number: 0 }, &body, Vec::new()));
            assert!(ended(&rt, &side).await.contains("size"), "{bytes}");
        }
    });
}

#[test]
fn the_descriptors_of_a_ring_are_no_room_for_those_of_messages() {
    on_local(async |rt| {
        for (agreed, arriving) in [(0, 1), (0, 2), (1, 2)] {
            let (here, there) = UnixStream::pair().unwrap();
            let limits = Limits::IPC.with_descriptors(agreed).with_ring(BYTES);
            let link = Link::new(&rt, here.into(), Mode::Calls, limits).unwrap();
            link.ask_for_rings();
            let side = answering(&rt, link);
            let files = (0..arriving).map(|_| File::open("/dev/null").unwrap().into()).collect();
            send(&there, &frame(Header::Notice, &notice_body(1), files));
            let why = ended(&rt, &side).await;
            assert!(why.contains("descriptors"), "{agreed} agreed, {arriving} came: {why}");
        }
    });
}

#[test]
fn a_peer_that_knows_no_rings_is_not_disturbed() {
    on_local(async |rt| {
        let (here, mut there) = UnixStream::pair().unwrap();
        let side = answering(&rt, ringed(&rt, here, BYTES));
        let mut bytes = vec![0; 4 + 13];
        there.read_exact(&mut bytes).unwrap();
        // The end of a request, as far as an earlier version is concerned.
        let (header, count, _) = Header::parse(&bytes[4..]).unwrap();
        assert_eq!((header, count), (Header::Cancel { number: 0 }, 0));
        let old = answering(&rt, link(&rt, there));
        assert_eq!(within(&rt, old.peer.call(&Ask::new(5))).await.ok(), Some(5));
        assert_eq!(within(&rt, side.peer.call(&Ask::new(6))).await.ok(), Some(6));
        assert!(!is_ringed(&side) && !is_ringed(&old));
    });
}
