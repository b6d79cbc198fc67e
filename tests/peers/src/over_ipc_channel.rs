//! ipc-channel: blocking channels. Its descriptors are ends of other channels.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream as Socket;
use std::sync::Arc;
use std::time::Instant;

use ipc_channel::ipc::{self, IpcOneShotServer, IpcReceiver, IpcSender};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::cells::{AnyError, Blob, Cell, Task, Times};
use crate::{Server, request};

#[derive(Serialize, Deserialize)]
enum Message {
    Small(ByteBuf),
    Blob(Blob),
    File(ByteBuf, IpcSender<()>),
}

/// What the server answers on, and where its requests come from.
type Ends = (IpcSender<Message>, IpcReceiver<Message>);

/// The socket tells the client the name of the server.
pub(crate) fn serve(mut socket: &Socket, server: &Arc<Server>) -> Result<(), AnyError> {
    let (named, name) = IpcOneShotServer::<Ends>::new()?;
    writeln!(socket, "{name}")?;
    let (_, (answers, requests)) = named.accept()?;
    // Ends when the client has gone.
    while let Ok(asked) = requests.recv() {
        smol::block_on(server.count());
        answers.send(match asked {
            Message::Small(_) => Message::Blob(server.blob.clone()),
            asked => asked,
        })?;
    }
    Ok(())
}

pub(crate) fn ask(socket: Socket, task: &Task) -> Result<Times, AnyError> {
    let mut name = String::new();
    BufReader::new(socket).read_line(&mut name)?;
    let (requests, asked) = ipc::channel::<Message>()?;
    let (answers, answered) = ipc::channel::<Message>()?;
    IpcSender::<Ends>::connect(name.trim().to_owned())?.send((answers, asked))?;
    let (mut file, _other_end) = ipc::channel::<()>()?;
    let mut times = Times::default();
    for _ in 0..task.batches() {
        let began = Instant::now();
        requests.send(match task.cell {
            Cell::Descriptor => Message::File(request(), file.clone()),
            _ => Message::Small(request()),
        })?;
        match answered.recv()? {
            Message::File(_, passed) => file = passed,
            Message::Blob(blob) => assert_eq!(blob.len(), task.cell.answer()),
            Message::Small(_) => {}
        }
        times.add(began);
    }
    Ok(times)
}
