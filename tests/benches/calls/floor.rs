//! The floor: the same bytes sent back and forth by blocking system calls, without any library.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::unistd::close;

use crate::cells::{
    AnyError, BURST, Cell, Clients, Latency, Meter, SMALL, Task, Times, own_socket,
};

/// The length before each message.
pub(crate) const HEADER: usize = 4;

/// What a client sends in one batch, and what it receives.
pub(crate) fn frames(task: &Task) -> (Vec<u8>, Vec<u8>) {
    let batch = usize::try_from(task.cell.in_flight()).unwrap_or(1);
    (vec![b'x'; (HEADER + SMALL) * batch], vec![b'x'; (HEADER + task.cell.answer()) * batch])
}

/// Answers the clients, each in a thread of its own.
pub(crate) fn measure(task: &Task) -> Result<(), AnyError> {
    if task.cell == Cell::Broadcast {
        return broadcast(task);
    }
    let meter = Meter::new(task, task.cell.clients());
    let clients = Clients::start(task, &meter)?;
    thread::scope(|scope| {
        let served: Vec<_> = clients
            .sockets
            .iter()
            .map(|socket| scope.spawn(|| serve(socket, task, &meter)))
            .collect();
        served.into_iter().try_for_each(|served| {
            served.join().unwrap_or_else(|_| Err(io::Error::other("a server has panicked")))
        })
    })?;
    meter.print(clients.end()?)
}

fn serve(mut socket: &UnixStream, task: &Task, meter: &Meter) -> io::Result<()> {
    let (mut asked, answer) = frames(task);
    let list = vec![b'x'; task.cell.answer()];
    for number in 0..task.batches() {
        let passed = match task.cell {
            Cell::Descriptor => Some(receive(socket, &mut asked)?),
            _ => socket.read_exact(&mut asked).map(|()| None)?,
        };
        meter.before_blocking(number);
        match (task.cell, passed) {
            (_, Some(passed)) => send(socket, &answer, passed).and_then(|()| Ok(close(passed)?))?,
            (Cell::List, _) => {
                socket.write_all(&postcard::to_allocvec(&list).map_err(io::Error::other)?)?;
            }
            _ => socket.write_all(&answer)?,
        }
        meter.after_blocking(number);
    }
    Ok(())
}

/// Asks the process at the other end of standard input.
pub(crate) fn ask(task: &Task) -> Result<Latency, AnyError> {
    let mut socket = own_socket()?;
    let (request, mut answer) = frames(task);
    if task.cell == Cell::List {
        answer = postcard::to_allocvec(&vec![b'x'; task.cell.answer()])?;
    }
    let file = File::open("/dev/null")?;
    let mut times = Times::default();
    for _ in 0..task.batches() {
        let began = Instant::now();
        match task.cell {
            Cell::Broadcast => {
                (0..BURST).try_for_each(|_| socket.read_exact(&mut answer))?;
                socket.write_all(&request)?;
            }
            Cell::Descriptor => {
                send(&socket, &request, file.as_raw_fd())?;
                close(receive(&socket, &mut answer)?)?;
            }
            Cell::List => {
                socket.write_all(&request)?;
                socket.read_exact(&mut answer)?;
                std::hint::black_box(postcard::from_bytes::<Vec<u8>>(&answer)?);
            }
            _ => {
                socket.write_all(&request)?;
                socket.read_exact(&mut answer)?;
            }
        }
        times.add(began);
    }
    Ok(times.latency(task))
}

/// Writes each notice to each client, and waits after each burst until all have it.
fn broadcast(task: &Task) -> Result<(), AnyError> {
    let meter = Meter::new(task, 1);
    let clients = Clients::start(task, &meter)?;
    let (mut heard, notice) = frames(task);
    for number in 0..task.batches() {
        meter.before_blocking(number);
        for _ in 0..BURST {
            clients.sockets.iter().try_for_each(|mut socket| socket.write_all(&notice))?;
        }
        clients.sockets.iter().try_for_each(|mut socket| socket.read_exact(&mut heard))?;
        meter.after_blocking(number);
    }
    meter.print(clients.end()?)
}

fn send(socket: &UnixStream, bytes: &[u8], passed: RawFd) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(&[passed])];
    let bytes = [IoSlice::new(bytes)];
    sendmsg::<()>(socket.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None)?;
    Ok(())
}

fn receive(socket: &UnixStream, buffer: &mut [u8]) -> io::Result<RawFd> {
    let mut space = cmsg_space!([RawFd; 1]);
    let mut buffer = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut buffer, Some(&mut space), flags)?;
    let passed = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(passed) => passed.first().copied(),
        _ => None,
    });
    passed.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
