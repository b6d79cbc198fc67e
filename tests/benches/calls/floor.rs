//! What calls are compared with: the same bytes sent back and forth without any library, blocking
//! and by hand on a runtime's own readiness.

use std::future::Future;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use async_io::Async;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{AnyError, Task, Times};

/// One process asks and prints how long it took; a second one, `echo`, answers.
pub(crate) fn measure(task: &Task) -> Result<(), AnyError> {
    let (here, there) = UnixStream::pair()?;
    let mut echo = Command::new(std::env::current_exe()?)
        .args(["--echo", &task.candidate, &task.size.to_string()])
        .stdin(OwnedFd::from(there))
        .stdout(Stdio::null())
        .spawn()?;
    let times = match task.candidate.as_str() {
        "tokio by hand" => on_tokio(here, async |socket| ask(&socket, task).await),
        "smol by hand" => on_smol(here, async |socket| ask(&socket, task).await),
        _ => ask_blocking(here, task),
    }?;
    echo.wait()?;
    println!("{}", serde_json::to_string(&times.summary(task.calls))?);
    Ok(())
}

/// Sends back what comes to standard input until that ends.
pub(crate) fn echo(candidate: &str, size: &str) -> Result<(), AnyError> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut frame = vec![0; 4 + size.parse::<usize>()?];
    let ended = match candidate {
        "tokio by hand" => on_tokio(socket, async |socket| answer(&socket, &mut frame).await),
        "smol by hand" => on_smol(socket, async |socket| answer(&socket, &mut frame).await),
        _ => answer_blocking(socket, &mut frame),
    };
    match ended {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error.into()),
        _ => Ok(()),
    }
}

fn frame_of(size: usize) -> io::Result<Vec<u8>> {
    let length = u32::try_from(size).map_err(io::Error::other)?;
    let mut frame = vec![b'x'; 4 + size];
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

fn ask_blocking(mut socket: UnixStream, task: &Task) -> io::Result<Times> {
    let frame = frame_of(task.size)?;
    let mut answer = frame.clone();
    let mut times = Times::default();
    for _ in 0..task.rounds() {
        let began = Instant::now();
        socket.write_all(&frame)?;
        socket.read_exact(&mut answer)?;
        times.add(began);
    }
    Ok(times)
}

fn answer_blocking(mut socket: UnixStream, frame: &mut [u8]) -> io::Result<()> {
    loop {
        socket.read_exact(frame)?;
        socket.write_all(frame)?;
    }
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

async fn ask(socket: &impl Ready, task: &Task) -> io::Result<Times> {
    let frame = frame_of(task.size)?;
    let mut answer = frame.clone();
    let mut times = Times::default();
    for _ in 0..task.rounds() {
        let began = Instant::now();
        write_all(socket, &frame).await?;
        read_exact(socket, &mut answer).await?;
        times.add(began);
    }
    Ok(times)
}

async fn answer(socket: &impl Ready, frame: &mut [u8]) -> io::Result<()> {
    loop {
        read_exact(socket, frame).await?;
        write_all(socket, frame).await?;
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
    socket: UnixStream,
    main: impl FnOnce(AsyncFd<UnixStream>) -> F,
) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    socket.set_nonblocking(true)?;
    runtime.block_on(async { main(watch(socket, Interest::READABLE)?).await })
}

fn on_smol<T, F: Future<Output = io::Result<T>>>(
    socket: UnixStream,
    main: impl FnOnce(Async<UnixStream>) -> F,
) -> io::Result<T> {
    let executor = smol::LocalExecutor::new();
    async_io::block_on(executor.run(async { main(Async::new(socket)?).await }))
}
