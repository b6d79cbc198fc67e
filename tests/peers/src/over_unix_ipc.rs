//! tokio-unix-ipc: typed channels, which do not tell which message answers which.

use std::fs::File;
use std::os::unix::net::UnixStream as Socket;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio_unix_ipc::channel_from_std;
use tokio_unix_ipc::serde::Handle;

use crate::cells::{AnyError, BURST, Blob, Cell, Meter, Task, Times};
use crate::{Server, request};

#[derive(Serialize, Deserialize)]
enum Message {
    Small(ByteBuf),
    Blob(Blob),
    File(ByteBuf, Handle<File>),
}

pub(crate) async fn serve(
    socket: Socket,
    task: &Task,
    server: Arc<Server>,
) -> Result<(), AnyError> {
    let (sender, receiver) = channel_from_std::<Message, Message>(socket)?;
    for _ in 0..task.batches() * task.cell.in_flight() {
        let asked = receiver.recv().await?;
        server.count().await;
        let answer = match asked {
            Message::Small(_) if task.cell == Cell::Large => Message::Blob(server.blob.clone()),
            asked => asked,
        };
        sender.send(answer).await?;
    }
    Ok(())
}

/// Sends each notice to each client, and waits after each burst until all have it.
pub(crate) async fn broadcast(
    sockets: Vec<Socket>,
    task: &Task,
    meter: &Meter,
) -> Result<(), AnyError> {
    let mut channels = Vec::new();
    for socket in sockets {
        socket.set_nonblocking(true)?;
        channels.push(channel_from_std::<Message, Message>(socket)?);
    }
    for number in 0..task.batches() {
        meter.before(number).await;
        for _ in 0..BURST {
            for (sender, _) in &channels {
                sender.send(Message::Small(request())).await?;
            }
        }
        for (_, receiver) in &channels {
            receiver.recv().await?;
        }
        meter.after(number).await;
    }
    Ok(())
}

pub(crate) async fn ask(socket: Socket, task: &Task) -> Result<Times, AnyError> {
    let (sender, receiver) = channel_from_std::<Message, Message>(socket)?;
    let mut times = Times::default();
    let mut file = Handle::new(File::open("/dev/null")?);
    for _ in 0..task.batches() {
        let began = Instant::now();
        match task.cell {
            Cell::Broadcast => {
                for _ in 0..BURST {
                    receiver.recv().await?;
                }
                sender.send(Message::Small(request())).await?;
            }
            Cell::Descriptor => {
                sender.send(Message::File(request(), file)).await?;
                let Message::File(_, passed) = receiver.recv().await? else {
                    return Err("another answer".into());
                };
                file = passed;
            }
            _ => {
                for _ in 0..task.cell.in_flight() {
                    sender.send(Message::Small(request())).await?;
                }
                for _ in 0..task.cell.in_flight() {
                    receiver.recv().await?;
                }
            }
        }
        times.add(began);
    }
    Ok(times)
}
