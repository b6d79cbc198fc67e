//! remoc's remote traits, with its default codec.

use std::os::unix::net::UnixStream as Socket;
use std::sync::Arc;

use remoc::prelude::*;
use remoc::rch::base::{Receiver, Sender};
use remoc::rtc::CallError;
use remoc::{Cfg, Connect};
use serde_bytes::ByteBuf;
use tokio::net::UnixStream;

use crate::cells::{AnyError, Blob, Task, Times};
use crate::{Server, in_turn, request};

#[remoc::rtc::remote]
trait Calls {
    async fn ask(&self, bytes: ByteBuf) -> Result<Blob, CallError>;
}

struct Answers(Arc<Server>);

impl Calls for Answers {
    async fn ask(&self, _: ByteBuf) -> Result<Blob, CallError> {
        self.0.count().await;
        Ok(self.0.blob.clone())
    }
}

pub(crate) async fn serve(socket: Socket, server: Arc<Server>) -> Result<(), AnyError> {
    let (input, output) = UnixStream::from_std(socket)?.into_split();
    let (connection, mut sender, _receiver): (_, Sender<CallsClient>, Receiver<()>) =
        Connect::io(Cfg::default(), input, output).await?;
    tokio::spawn(connection);
    let (server, client) = CallsServerShared::new(Arc::new(Answers(server)));
    sender.send(client).await?;
    let _ = server.serve().await;
    Ok(())
}

pub(crate) async fn ask(socket: Socket, task: &Task) -> Result<Times, AnyError> {
    let (input, output) = UnixStream::from_std(socket)?.into_split();
    let (connection, _sender, mut receiver): (_, Sender<()>, Receiver<CallsClient>) =
        Connect::io(Cfg::default(), input, output).await?;
    tokio::spawn(connection);
    let client = Arc::new(receiver.recv().await?.ok_or("the server has gone")?);
    in_turn(task, move || {
        let client = client.clone();
        async move { Ok(client.ask(request()).await?) }
    })
    .await
}
