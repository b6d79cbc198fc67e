//! tarpc over its own transport, with bincode.

use std::os::unix::net::UnixStream as Socket;
use std::sync::Arc;

use futures::StreamExt;
use serde_bytes::ByteBuf;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::tokio_util::codec::LengthDelimitedCodec;
use tarpc::{client, context, serde_transport};
use tokio::net::UnixStream;

use crate::cells::{AnyError, Blob, Task, Times};
use crate::{Server, in_turn, request};

#[tarpc::service]
trait Calls {
    async fn ask(bytes: ByteBuf) -> Blob;
}

#[derive(Clone)]
struct Answers(Arc<Server>);

impl Calls for Answers {
    async fn ask(self, _: context::Context, _: ByteBuf) -> Blob {
        self.0.count().await;
        self.0.blob.clone()
    }
}

pub(crate) async fn serve(socket: Socket, server: Arc<Server>) -> Result<(), AnyError> {
    let framed = LengthDelimitedCodec::builder().new_framed(UnixStream::from_std(socket)?);
    let transport = serde_transport::new(framed, Bincode::default());
    BaseChannel::with_defaults(transport)
        .execute(Answers(server).serve())
        .for_each(|answer| async move {
            tokio::spawn(answer);
        })
        .await;
    Ok(())
}

pub(crate) async fn ask(socket: Socket, task: &Task) -> Result<Times, AnyError> {
    let framed = LengthDelimitedCodec::builder().new_framed(UnixStream::from_std(socket)?);
    let transport = serde_transport::new(framed, Bincode::default());
    let client = CallsClient::new(client::Config::default(), transport).spawn();
    in_turn(task, move || {
        let client = client.clone();
        async move { Ok(client.ask(context::current(), request()).await?) }
    })
    .await
}
