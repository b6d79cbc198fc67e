//! interprocess on tokio: a stream, with frames by hand.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Socket;
use std::sync::Arc;
use std::time::Instant;

use interprocess::os::unix::uds_local_socket::tokio::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Server;
use crate::cells::{AnyError, SMALL, Task, Times};

/// The length before each message.
const HEADER: usize = 4;

pub(crate) async fn serve(
    socket: Socket,
    task: &Task,
    server: Arc<Server>,
) -> Result<(), AnyError> {
    let mut stream = Stream::try_from(OwnedFd::from(socket))?;
    let mut request = [0; HEADER + SMALL];
    let answer = vec![b'x'; HEADER + task.cell.answer()];
    for _ in 0..task.batches() {
        stream.read_exact(&mut request).await?;
        server.count().await;
        stream.write_all(&answer).await?;
    }
    Ok(())
}

pub(crate) async fn ask(socket: Socket, task: &Task) -> Result<Times, AnyError> {
    let mut stream = Stream::try_from(OwnedFd::from(socket))?;
    let mut answer = vec![0; HEADER + task.cell.answer()];
    let mut times = Times::default();
    for _ in 0..task.batches() {
        let began = Instant::now();
        stream.write_all(&[b'x'; HEADER + SMALL]).await?;
        stream.read_exact(&mut answer).await?;
        times.add(began);
    }
    Ok(times)
}
