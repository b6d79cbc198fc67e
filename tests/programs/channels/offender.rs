//! A worker that speaks bytes on its standard input and on its channels: first as it should, then as it
//! is told.

use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recv, recvmsg, send};
use release::Exit;
use release::ipc::{Codec, Postcard};

const READY: u8 = 2;
const REQUEST: u8 = 3;
const NOTICE: u8 = 6;
const SERVICE: u8 = 13;

/// The kind of the library's requests about channels, and their own kinds.
const CHANNEL: u8 = 4;
const CALL: u8 = 0;
const NEXT: u8 = 2;
const ENDED: u8 = 3;

/// The answers of the master.
const DONE: u8 = 0;
const REFUSED: u8 = 6;

/// A frame, and the descriptors that came with it.
type Received = (Vec<u8>, Vec<RawFd>);

struct Offender {
    master: UnixStream,
    /// The number of its latest request.
    number: u32,
}

pub(super) fn run() -> Exit {
    let stdin = io::stdin().as_fd().try_clone_to_owned().expect("a socket");
    let mut offender = Offender { master: UnixStream::from(stdin), number: 0 };
    offender.receive();
    offender.send(&[READY]);
    loop {
        let (notice, _) = offender.receive();
        if notice[0] != NOTICE {
            continue;
        }
        let attack: String = Postcard.decode(&notice[1..]).expect("an attack");
        let saw = offender.act(&attack);
        let mut words = vec![REQUEST, 0xFF, 0, 0, 0, 0, 0, 0, 0];
        Postcard.encode(&format!("{attack}: {saw}"), &mut words).expect("words");
        offender.send(&words);
    }
}

impl Offender {
    fn act(&mut self, attack: &str) -> String {
        match attack {
            "calls others" => {
                let kinds = ["front", "silent", "nobody"].map(|group| self.declare(group));
                format!("{:?}", kinds.map(|kind| kind == REFUSED))
            }
            "waits twice" => {
                self.declare("back");
                let first = self.ask(&[NEXT]);
                // Both workers have given it a channel; a third change does not come.
                let second = self.ask(&[NEXT]);
                let waiting = self.send_request(&[NEXT]);
                let third = self.ask(&[NEXT]);
                let kinds = [&first, &second, &third].map(|(frame, _)| kind(frame));
                format!("{kinds:?} {waiting}")
            }
            "ends without end" => {
                let kinds = (0..1000).map(|_| kind(&self.ask(&[ENDED, 0, 2]).0));
                format!("{}", kinds.filter(|kind| *kind == DONE).count())
            }
            attack => {
                self.declare("back");
                let sockets = [self.channel(), self.channel()];
                sockets.map(|socket| abuse(attack, socket)).join(" ")
            }
        }
    }

    /// Says that it calls a group, and returns the kind of the answer.
    fn declare(&mut self, group: &str) -> u8 {
        let length = u8::try_from(group.len()).expect("a short name");
        kind(&self.ask(&[&[CALL, length], group.as_bytes(), &[0]].concat()).0)
    }

    /// Waits for a channel.
    fn channel(&mut self) -> RawFd {
        loop {
            if let Some(socket) = self.ask(&[NEXT]).1.pop() {
                return socket;
            }
        }
    }

    fn ask(&mut self, request: &[u8]) -> Received {
        let number = self.send_request(request).to_be_bytes();
        loop {
            let (mut frame, descriptors) = self.receive();
            // The count of the descriptors is behind the kind.
            if !descriptors.is_empty() {
                frame.remove(1);
            }
            if frame[1..5] == number {
                return (frame, descriptors);
            }
        }
    }

    fn send_request(&mut self, request: &[u8]) -> u32 {
        self.number += 1;
        let number = self.number.to_be_bytes();
        self.send(&[&[SERVICE], &number[..], &[CHANNEL], request].concat());
        self.number
    }

    fn send(&mut self, payload: &[u8]) {
        self.master.write_all(&frame(payload)).expect("the master reads");
    }

    fn receive(&mut self) -> Received {
        let (header, mut descriptors) = read(&self.master, 4);
        let length = u32::from_be_bytes(header.try_into().expect("four bytes"));
        let (payload, more) = read(&self.master, usize::try_from(length).expect("a length"));
        descriptors.extend(more);
        (payload, descriptors)
    }
}

/// The kind of the answer to a request.
fn kind(frame: &[u8]) -> u8 {
    frame[5]
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length");
    [&length.to_be_bytes()[..], payload].concat()
}

fn request(number: u32, words: &str) -> Vec<u8> {
    let mut payload = [&[REQUEST], &number.to_be_bytes()[..], &[0; 4]].concat();
    Postcard.encode(&words.to_owned(), &mut payload).expect("a request");
    payload
}

/// Sends what no caller sends, and says what became of the channel.
fn abuse(attack: &str, socket: RawFd) -> String {
    let bytes = match attack {
        "garbage" => vec![0xA5; 65536],
        "too long" => u32::MAX.to_be_bytes().to_vec(),
        "hello" => frame(&[1]),
        "asks the library" => frame(&[SERVICE, 0, 0, 0, 1, CHANNEL, NEXT]),
        "too many" => (1..=1100).flat_map(|number| frame(&request(number, "sleep 60000 x"))).collect(),
        "undecodable" => frame(&[REQUEST, 0, 0, 0, 1, 0, 0, 0, 0, 0xFF]),
        "panics" => frame(&request(1, "panic")),
        other => format!("unknown: {other}").into_bytes(),
    };
    let mut left = &bytes[..];
    // The other side may close it at any time.
    while let Ok(count) = send(socket, left, MsgFlags::MSG_NOSIGNAL)
        && count < left.len()
    {
        left = &left[count..];
    }
    let mut answer = [0; 5];
    match recv(socket, &mut answer, MsgFlags::MSG_WAITALL) {
        Ok(5) => format!("answer {}", answer[4]),
        Ok(0) | Err(Errno::ECONNRESET) => "closed".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Reads so many bytes, and the descriptors that come with them.
fn read(socket: &UnixStream, count: usize) -> Received {
    let (mut bytes, mut descriptors) = (vec![0; count], Vec::new());
    let mut done = 0;
    while done < count {
        let mut space = cmsg_space!([i32; 8]);
        let mut parts = [IoSliceMut::new(&mut bytes[done..])];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags);
        let message = message.expect("the master writes");
        if message.bytes == 0 {
            // The master has hung up; what it does next is its own part.
            loop {
                std::thread::sleep(Duration::from_secs(60));
            }
        }
        for control in message.cmsgs().expect("all of it") {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                descriptors.extend(numbers);
            }
        }
        done += message.bytes;
    }
    (bytes, descriptors)
}
