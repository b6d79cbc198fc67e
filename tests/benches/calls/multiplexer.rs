//! A multiplexer by hand on tokio: numbered frames, a slot for each call, what many tasks send in one
//! system call. It checks, limits and cancels nothing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::os::unix::net::UnixStream as Socket;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use futures_util::future::join_all;
use tokio::net::UnixStream;
use tokio::task::{LocalSet, yield_now};

use crate::cells::{AnyError, Clients, Latency, Meter, SMALL, Task, Times, own_socket};

/// A number and the message: all are of one size.
const FRAME: usize = 4 + SMALL;

/// Answers the client.
pub(crate) fn measure(task: &Task) -> Result<(), AnyError> {
    let meter = Meter::new(task, 1);
    let clients = Clients::start(task, &meter)?;
    on_tokio(clients.sockets[0].try_clone()?, async |socket| serve(&socket, task, &meter).await)?;
    meter.print(clients.end()?)
}

/// Asks the process at the other end of standard input.
pub(crate) fn ask(task: &Task) -> Result<Latency, AnyError> {
    let times = on_tokio(own_socket()?, async |socket| ask_all(Rc::new(socket), task).await)?;
    Ok(times.latency(task))
}

fn on_tokio<T>(
    socket: Socket,
    main: impl AsyncFnOnce(UnixStream) -> io::Result<T>,
) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    socket.set_nonblocking(true)?;
    let local = LocalSet::new();
    local.block_on(&runtime, async { main(UnixStream::from_std(socket)?).await })
}

/// Answers all frames of one read with one write.
async fn serve(socket: &UnixStream, task: &Task, meter: &Meter) -> io::Result<()> {
    let mut frames = Frames::default();
    let batch = task.cell.in_flight();
    let mut answered = 0;
    let mut answers = Vec::new();
    while answered < task.batches() * batch {
        frames.read(socket).await?;
        while let Some(frame) = frames.next() {
            if answered.is_multiple_of(batch) {
                meter.before(answered / batch).await;
            }
            answers.extend_from_slice(&frame);
            answered += 1;
        }
        write_all(socket, &answers).await?;
        answers.clear();
        if answered.is_multiple_of(batch) {
            meter.after(answered / batch - 1).await;
        }
    }
    Ok(())
}

/// The calls of all tasks that wait for an answer, and what is to be sent.
#[derive(Default)]
struct Calls {
    next: u32,
    waiting: HashMap<u32, Slot>,
    to_send: Vec<u8>,
    sender: Option<Waker>,
}

enum Slot {
    Waits(Waker),
    Answered([u8; SMALL]),
}

async fn call(calls: &RefCell<Calls>, message: [u8; SMALL]) -> [u8; SMALL] {
    let mut number = None;
    poll_fn(|cx| {
        let calls = &mut *calls.borrow_mut();
        let Some(number) = number else {
            calls.next += 1;
            number = Some(calls.next);
            calls.to_send.extend_from_slice(&calls.next.to_be_bytes());
            calls.to_send.extend_from_slice(&message);
            calls.waiting.insert(calls.next, Slot::Waits(cx.waker().clone()));
            if let Some(sender) = calls.sender.take() {
                sender.wake();
            }
            return Poll::Pending;
        };
        match calls.waiting.remove(&number) {
            Some(Slot::Answered(answer)) => Poll::Ready(answer),
            _ => {
                calls.waiting.insert(number, Slot::Waits(cx.waker().clone()));
                Poll::Pending
            }
        }
    })
    .await
}

async fn send_all(socket: &UnixStream, calls: &RefCell<Calls>) -> io::Result<()> {
    loop {
        let bytes = poll_fn(|cx| {
            let mut calls = calls.borrow_mut();
            if calls.to_send.is_empty() {
                calls.sender = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        });
        bytes.await;
        // The other tasks that are awake now have their calls sent with this one.
        yield_now().await;
        let bytes = std::mem::take(&mut calls.borrow_mut().to_send);
        write_all(socket, &bytes).await?;
    }
}

async fn receive_all(socket: &UnixStream, calls: &RefCell<Calls>) -> io::Result<()> {
    let mut frames = Frames::default();
    loop {
        frames.read(socket).await?;
        let mut calls = calls.borrow_mut();
        while let Some(frame) = frames.next() {
            let (number, message) = frame.split_at(4);
            let number = u32::from_be_bytes(number.try_into().map_err(io::Error::other)?);
            let answer = message.try_into().map_err(io::Error::other)?;
            if let Some(Slot::Waits(caller)) = calls.waiting.insert(number, Slot::Answered(answer))
            {
                caller.wake();
            }
        }
    }
}

async fn ask_all(socket: Rc<UnixStream>, task: &Task) -> io::Result<Times> {
    let calls = Rc::new(RefCell::new(Calls::default()));
    let (sender, receiver) = (socket.clone(), socket);
    let (to_send, received) = (calls.clone(), calls.clone());
    tokio::task::spawn_local(async move { send_all(&sender, &to_send).await });
    tokio::task::spawn_local(async move { receive_all(&receiver, &received).await });
    let callers = (0..task.cell.in_flight()).map(|_| {
        let (calls, batches) = (calls.clone(), task.batches());
        tokio::task::spawn_local(async move {
            let mut times = Times::default();
            let mut message = [b'x'; SMALL];
            for _ in 0..batches {
                let began = Instant::now();
                message = call(&calls, message).await;
                times.add(began);
            }
            times
        })
    });
    let mut times = join_all(callers).await.into_iter();
    times.next().ok_or("no caller").map_err(io::Error::other)?.map_err(io::Error::other)
}

/// What was read, and how far it was taken.
#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    taken: usize,
}

impl Frames {
    async fn read(&mut self, socket: &UnixStream) -> io::Result<()> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        loop {
            socket.readable().await?;
            self.bytes.reserve(1 << 14);
            match socket.try_read_buf(&mut self.bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done.map(drop),
            }
        }
    }

    fn next(&mut self) -> Option<[u8; FRAME]> {
        let frame = self.bytes.get(self.taken..self.taken + FRAME)?.try_into().ok()?;
        self.taken += FRAME;
        Some(frame)
    }
}

async fn write_all(socket: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
