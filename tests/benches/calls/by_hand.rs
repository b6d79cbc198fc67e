//! The floor on an async runtime: its readiness, and no library above it.

use std::future::Future;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use async_io::Async;
use futures_util::future::try_join_all;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::cells::{AnyError, BURST, Cell, Clients, Latency, Meter, Task, Times, own_socket};
use crate::floor::frames;

/// Answers the clients, each in a part of one future.
pub(crate) fn measure(task: &Task) -> Result<(), AnyError> {
    let is_broadcast = task.cell == Cell::Broadcast;
    let meter = Meter::new(task, if is_broadcast { 1 } else { task.cell.clients() });
    let clients = Clients::start(task, &meter)?;
    let sockets = clients.sockets.iter().map(UnixStream::try_clone).collect::<io::Result<_>>()?;
    if task.candidate == "tokio by hand" {
        on_tokio(sockets, async |sockets| answer(&sockets, task, &meter).await)?;
    } else {
        on_smol(sockets, async |sockets| answer(&sockets, task, &meter).await)?;
    }
    meter.print(clients.end()?)
}

/// Asks the process at the other end of standard input.
pub(crate) fn ask(task: &Task) -> Result<Latency, AnyError> {
    let socket = vec![own_socket()?];
    let times = if task.candidate == "tokio by hand" {
        on_tokio(socket, async |sockets| ask_one(&sockets[0], task).await)
    } else {
        on_smol(socket, async |sockets| ask_one(&sockets[0], task).await)
    };
    Ok(times?.latency(task))
}

async fn answer(sockets: &[impl Ready], task: &Task, meter: &Meter) -> io::Result<()> {
    if task.cell == Cell::Broadcast {
        return broadcast(sockets, task, meter).await;
    }
    let serve = async |socket| {
        let (mut asked, answer) = frames(task);
        for number in 0..task.batches() {
            read_exact(socket, &mut asked).await?;
            meter.before(number).await;
            write_all(socket, &answer).await?;
            meter.after(number).await;
        }
        Ok(())
    };
    try_join_all(sockets.iter().map(serve)).await.map(|_| ())
}

async fn broadcast(sockets: &[impl Ready], task: &Task, meter: &Meter) -> io::Result<()> {
    let (mut heard, notice) = frames(task);
    for number in 0..task.batches() {
        meter.before(number).await;
        for _ in 0..BURST {
            for socket in sockets {
                write_all(socket, &notice).await?;
            }
        }
        for socket in sockets {
            read_exact(socket, &mut heard).await?;
        }
        meter.after(number).await;
    }
    Ok(())
}

async fn ask_one(socket: &impl Ready, task: &Task) -> io::Result<Times> {
    let (request, mut answer) = frames(task);
    let mut burst = answer.repeat(usize::try_from(BURST).unwrap_or(1));
    let mut times = Times::default();
    for _ in 0..task.batches() {
        let began = Instant::now();
        if task.cell == Cell::Broadcast {
            read_exact(socket, &mut burst).await?;
            write_all(socket, &request).await?;
        } else {
            write_all(socket, &request).await?;
            read_exact(socket, &mut answer).await?;
        }
        times.add(began);
    }
    Ok(times)
}

/// A socket that says when it is ready.
trait Ready {
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    async fn write(&self, bytes: &[u8]) -> io::Result<usize>;
}

impl Ready for AsyncFd<UnixStream> {
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.readable().await?;
            let mut socket = guard.get_inner();
            let done = socket.read(buffer);
            // A read takes all there is: the next one waits for an event first.
            guard.clear_ready();
            if !is_blocked(&done) {
                return done;
            }
        }
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut socket = self.get_ref();
            let done = socket.write(bytes);
            if !is_blocked(&done) {
                return done;
            }
            watch(self.get_ref().try_clone()?, Interest::WRITABLE)?.writable().await?.clear_ready();
        }
    }
}

/// With an interest in both, the reactor would be woken whenever the peer reads.
#[allow(
    deprecated,
    reason = "its successor is unsafe, to make callers promise what UnixStream does"
)]
fn watch(socket: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(socket, interest)
}

fn is_blocked(done: &io::Result<usize>) -> bool {
    done.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

impl Ready for Async<UnixStream> {
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // Nothing can have come since the last message: to try first would cost a system call.
        self.readable().await?;
        self.read_with(|mut socket| socket.read(buffer)).await
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.write_with(|mut socket| socket.write(bytes)).await
    }
}

async fn write_all(socket: &impl Ready, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        bytes = &bytes[socket.write(bytes).await?..];
    }
    Ok(())
}

async fn read_exact(socket: &impl Ready, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match socket.read(buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => buffer = &mut buffer[count..],
        }
    }
    Ok(())
}

fn on_tokio<T, F: Future<Output = io::Result<T>>>(
    sockets: Vec<UnixStream>,
    main: impl FnOnce(Vec<AsyncFd<UnixStream>>) -> F,
) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let watched = sockets.into_iter().map(|socket| {
            socket.set_nonblocking(true)?;
            watch(socket, Interest::READABLE)
        });
        main(watched.collect::<io::Result<_>>()?).await
    })
}

fn on_smol<T, F: Future<Output = io::Result<T>>>(
    sockets: Vec<UnixStream>,
    main: impl FnOnce(Vec<Async<UnixStream>>) -> F,
) -> io::Result<T> {
    let executor = smol::LocalExecutor::new();
    async_io::block_on(
        executor.run(async {
            main(sockets.into_iter().map(Async::new).collect::<io::Result<_>>()?).await
        }),
    )
}
