//! A worker that speaks bytes on its standard input: first as it should, then as it is told.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use release::Exit;
use release::ipc::{Codec, Postcard};

use super::{Ask, PATIENCE};

const HELLO: u8 = 1;
const READY: u8 = 2;
const REQUEST: u8 = 3;
const ANSWER: u8 = 4;
const REFUSAL: u8 = 5;
const NOT_UNDERSTOOD: u8 = 11;
const NOTICE: u8 = 6;
const CANCEL: u8 = 7;
const PULSE: u8 = 8;
const BEAT: u8 = 9;
const WITH_DESCRIPTORS: u8 = 0x80;

/// What [`Ask::Keep`] begins with.
const KEEP: u8 = 9;

/// The honest worker would notice if it were not served in that time.
const LONG: Duration = PATIENCE.saturating_add(Duration::from_secs(1));

/// The number of the request in which it says what it saw.
const SAYING: u32 = 4_000_000_000;

pub(super) fn run() -> Exit {
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().expect("a socket"));
    assert_eq!(read(&mut socket)[0], HELLO);
    write(&mut socket, &[READY]);
    loop {
        let notice = read(&mut socket);
        if notice[0] != NOTICE {
            continue;
        }
        let attack: String = Postcard.decode(&notice[1..]).expect("an attack");
        if let Some(saw) = act(&attack, &mut socket) {
            write(&mut socket, &request(SAYING, &Ask::Saw(format!("{attack}: {saw}"))));
        }
    }
}

/// In plain mode: asks its master whatever its master says.
pub(super) fn run_plain() -> Exit {
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().expect("a socket"));
    loop {
        let text = read(&mut socket);
        write(&mut socket, &text);
    }
}

/// Attacks. What it saw is said over the same connection, which must still be of use then.
fn act(attack: &str, socket: &mut UnixStream) -> Option<String> {
    match attack {
        "garbage" => flood(socket, 1, &[0xA5; 65536]),
        "unknown kind" => write(socket, &[99, 1, 2, 3]),
        "empty frame" => write(socket, &[]),
        "hello" => write(socket, &[HELLO]),
        "cut beat" => write(socket, &[BEAT, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0]),
        "cut header" => write(socket, &[REQUEST, 0, 0]),
        "too long" => flood(socket, 1, &u32::MAX.to_be_bytes()),
        "half a frame" => flood(socket, 1, b"\0\0\0\x40\x03half"),
        "closes" => socket.shutdown(Shutdown::Both).expect("a socket"),
        "closes its side" => socket.shutdown(Shutdown::Write).expect("a socket"),
        "descriptors" => {
            let is_sent = attach_bytes(socket, 200, &frame(&request(1, &Ask::Next)));
            return (!is_sent).then(|| "the kernel refuses".to_owned());
        }
        "253 descriptors" => attach(socket, 253, &with_descriptors(253)),
        "no descriptors" => attach(socket, 0, &with_descriptors(16)),
        "half a frame of descriptors" => {
            attach_bytes(socket, 16, &frame(&with_descriptors(16))[..30]);
        }
        "descriptors without end" => {
            while attach_bytes(socket, 16, &frame(&with_descriptors(16))) {}
        }
        "16 descriptors without room" => {
            attach(socket, 16, &with_descriptors(16));
            return Some(answer(socket));
        }
        "16 descriptors" => attach(socket, 16, &with_descriptors(16)),
        "forbidden" => write(socket, &request(1, &Ask::Forbidden)),
        "forbidden notice" => write(socket, &notice(&Ask::Forbidden)),
        "too early" => write(socket, &request(1, &Ask::Second)),
        "twice" => {
            write(socket, &request(1, &Ask::Once));
            write(socket, &request(2, &Ask::Once));
        }
        "in order" => {
            ask(socket, &request(1, &Ask::First));
            return Some(ask(socket, &request(2, &Ask::Second)));
        }
        "dies in a frame" => {
            // The whole request but for one byte that the length promises.
            let mut bytes = frame(&request(1, &Ask::Count));
            bytes[3] += 1;
            flood(socket, 1, &bytes);
            return_to_system();
        }
        "readies" => return Some(after(socket, 10_000, &[READY])),
        "notices" => return Some(after(socket, 10_000, &notice(&Ask::Next))),
        "bad notices" => return Some(after(socket, 10_000, &[NOTICE, 0xFF, 0xFF])),
        "cancels" => return Some(after(socket, 10_000, &[CANCEL, 1, 2, 3, 4])),
        "pulses" => return Some(after(socket, 10_000, &[PULSE])),
        "beats" => return Some(after(socket, 10_000, &[[BEAT].as_slice(), &[0xFF; 12]].concat())),
        "answers" => return Some(after(socket, 10_000, &[ANSWER, 0, 0, 0, 1, 9])),
        "refusals" => return Some(after(socket, 10_000, &[REFUSAL, 9, 9, 9, 9, 9])),
        "undecodable" => return Some(ask(socket, &[REQUEST, 0, 0, 0, 1, 0, 0, 0, 0, 0xFF])),
        "panic" => return Some(ask(socket, &request(1, &Ask::Panic))),
        "panic at once" => return Some(ask(socket, &request(1, &Ask::PanicAtOnce))),
        "unread" => return Some(unread(socket, 1_000)),
        "too many unread" => return Some(unread(socket, 3_000)),
        "in flight" => return Some(in_flight(socket, 1_000)),
        "too many in flight" => return Some(in_flight(socket, 1_100)),
        "hold" => return Some(hold(socket)),
        "torrent" => return Some(torrent(socket, &request(1, &Ask::Next))),
        "torrent of answers" => return Some(torrent(socket, &[ANSWER, 0, 0, 0, 1, 9])),
        "torrent of notices" => return Some(torrent(socket, &notice(&Ask::Next))),
        "torrent of beats" => {
            return Some(torrent(socket, &[[BEAT].as_slice(), &[0xFF; 12]].concat()));
        }
        "torrent of bad notices" => return Some(torrent(socket, &[NOTICE, 0xFF, 0xFF])),
        "nesting bomb" => return Some(nesting_bomb(socket)),
        "endless" => return Some(endless(socket)),
        _ => return Some("no such attack".to_owned()),
    }
    // What follows is the master's part: it kills this process, or the test fails.
    wait_for_the_end()
}

fn wait_for_the_end() -> ! {
    std::thread::sleep(Duration::from_secs(60));
    return_to_system()
}

fn return_to_system() -> ! {
    panic!("the end of the offender")
}

/// A harmless request behind a flood tells that all of it was read.
fn after(socket: &mut UnixStream, count: usize, payload: &[u8]) -> String {
    flood(socket, count, &frame(payload));
    ask(socket, &request(7, &Ask::Bytes(3)))
}

fn ask(socket: &mut UnixStream, payload: &[u8]) -> String {
    write(socket, payload);
    answer(socket)
}

fn answer(socket: &mut UnixStream) -> String {
    let answer = read(socket);
    let words = String::from_utf8_lossy(&answer[5..]);
    match answer[0] {
        REFUSAL => return format!("refused {words}"),
        NOT_UNDERSTOOD => return format!("not understood {words}"),
        _ => {}
    }
    let body: Vec<u8> = Postcard.decode(&answer[5..]).expect("an answer");
    format!("answered {}", String::from_utf8_lossy(&body))
}

/// Asks for so many times 16 KiB, and reads nothing until the master must have stopped.
fn unread(socket: &mut UnixStream, count: u32) -> String {
    let mut writer = socket.try_clone().expect("a socket");
    let asking = std::thread::spawn(move || {
        for number in 0..count {
            write(&mut writer, &request(number, &Ask::Bytes(16 * 1024)));
        }
    });
    std::thread::sleep(Duration::from_millis(1500));
    let mut numbers: Vec<u32> = (0..count).map(|_| number(&read(socket))).collect();
    asking.join().expect("all is asked");
    numbers.sort_unstable();
    numbers.dedup();
    format!("{} answers", numbers.len())
}

/// So many requests at a time, given up in the end; the one behind them is answered.
fn in_flight(socket: &mut UnixStream, count: u32) -> String {
    for number in 0..count {
        write(socket, &request(number, &Ask::Later));
    }
    let answer = ask(socket, &request(count, &Ask::Bytes(3)));
    for number in 0..count {
        write(socket, &[&[CANCEL], &number.to_be_bytes()[..]].concat());
    }
    answer
}

/// Requests whose handlers wait, each with as many bytes as a frame may have.
fn hold(socket: &mut UnixStream) -> String {
    let payload = frame(&request(1, &Ask::Hold(vec![7; 3 * 1024 * 1024])));
    let held = (0..16).take_while(|_| socket.write_all(&payload).is_ok()).count();
    format!("{held} held")
}

/// Asks for [`LONG`], as much at a time as it may, so that there is always more to read.
fn endless(socket: &mut UnixStream) -> String {
    let mut reader = socket.try_clone().expect("a socket");
    let (answered, may_ask) = std::sync::mpsc::sync_channel(2);
    let reading = std::thread::spawn(move || {
        while (0..300).all(|_| number(&read(&mut reader)) != 9) && answered.send(()).is_ok() {}
    });
    let nonsense = [&request(1, &Ask::Next)[..9], &[0xFF; 1000]].concat();
    let batch = frame(&nonsense).repeat(300);
    let end = Instant::now() + LONG;
    flood(socket, 2, &batch);
    while Instant::now() < end && may_ask.recv().is_ok() {
        flood(socket, 1, &batch);
    }
    write(socket, &request(9, &Ask::Next));
    may_ask.iter().for_each(drop);
    reading.join().expect("all is answered");
    "answered".to_owned()
}

/// Sends this as fast as it can for [`LONG`], and reads all answers.
fn torrent(socket: &mut UnixStream, payload: &[u8]) -> String {
    let mut reader = socket.try_clone().expect("a socket");
    let reading = std::thread::spawn(move || while number(&read(&mut reader)) != 9 {});
    let batch = frame(payload).repeat(4000);
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        flood(socket, 1, &batch);
    }
    write(socket, &request(9, &Ask::Next));
    reading.join().expect("all is answered");
    "answered".to_owned()
}

/// Ten million boxes, one in the other; small frames behind it, which make the master give the
/// memory of the large one back.
fn nesting_bomb(socket: &mut UnixStream) -> String {
    let mut bomb = request(1, &Ask::Deep(Box::new(Ask::Next)));
    let deep = bomb[9];
    bomb.truncate(9);
    bomb.resize(10_000_000, deep);
    let saw = ask(socket, &bomb);
    after(socket, 100, &[READY]);
    saw
}

/// A request that says that it has so many descriptors, to be kept.
fn with_descriptors(count: u8) -> Vec<u8> {
    let mut payload = vec![REQUEST | WITH_DESCRIPTORS, count, 0, 0, 0, 1, 0, 0, 0, 0, KEEP];
    let places: Vec<u32> = (0..count.into()).collect();
    Postcard.encode(&places, &mut payload).expect("encoded");
    payload
}

fn attach(socket: &UnixStream, count: usize, payload: &[u8]) {
    attach_bytes(socket, count, &frame(payload));
}

/// Sends bytes with so many descriptors, as soon as the kernel takes them; whether it did.
fn attach_bytes(socket: &UnixStream, count: usize, bytes: &[u8]) -> bool {
    let (_reader, writer) = io::pipe().expect("a pipe");
    let fds = vec![writer.as_raw_fd(); count];
    let control = [ControlMessage::ScmRights(&fds)];
    let control = if count > 0 { &control[..] } else { &[] };
    let parts = [IoSlice::new(bytes)];
    loop {
        let flags = MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<()>(socket.as_raw_fd(), &parts, control, flags, None) {
            // Others of this user have sent too many.
            Err(nix::errno::Errno::ETOOMANYREFS) => std::thread::sleep(Duration::from_millis(1)),
            sent => return sent.is_ok(),
        }
    }
}

fn flood(socket: &mut UnixStream, times: usize, bytes: &[u8]) {
    // The master may have heard enough.
    let _ = socket.write_all(&bytes.repeat(times));
}

fn request(number: u32, ask: &Ask) -> Vec<u8> {
    let mut payload = vec![REQUEST];
    payload.extend(number.to_be_bytes());
    payload.extend([0; 4]);
    Postcard.encode(ask, &mut payload).expect("encoded");
    payload
}

fn notice(ask: &Ask) -> Vec<u8> {
    let mut payload = vec![NOTICE];
    Postcard.encode(ask, &mut payload).expect("encoded");
    payload
}

fn number(answer: &[u8]) -> u32 {
    u32::from_be_bytes(answer[1..5].try_into().expect("a number"))
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length");
    [&length.to_be_bytes()[..], payload].concat()
}

fn write(socket: &mut UnixStream, payload: &[u8]) {
    flood(socket, 1, &frame(payload));
}

fn read(socket: &mut UnixStream) -> Vec<u8> {
    let mut header = [0; 4];
    if socket.read_exact(&mut header).is_err() {
        // The master has hung up; what it does next is its own part.
        wait_for_the_end();
    }
    let length = usize::try_from(u32::from_be_bytes(header)).expect("a length");
    let mut payload = vec![0; length];
    socket.read_exact(&mut payload).expect("a payload");
    payload
}
