//! `ConnectionRelay`: hands connections on and takes them, whatever the types of the worker are.

use std::os::fd::AsFd;
use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use super::hand_on::{HandOnClient, HandOnError};
use crate::ipc::link::Link;
use crate::ipc::service::ServiceRequest;
use crate::ipc::{Codec, Descriptor, Postcard};
use crate::net::Stream;
use crate::rt::Rt;
use crate::stopping::Stopping;
use crate::sys::socket::is_stream;
use crate::{Error, ErrorKind};

/// Hands connections on, whatever the types of the worker are.
#[derive(Clone)]
pub(crate) struct ConnectionRelay {
    pub(super) client: Arc<HandOnClient>,
    pub(super) link: Arc<Link>,
    pub(super) stopping: Stopping,
    pub(super) rt: Rt,
    pub(super) listener: Option<Arc<str>>,
}

impl ConnectionRelay {
    /// Limits it to connections that an address has accepted: it gives them to workers that listen there,
    /// and takes no others.
    #[cfg(feature = "http")]
    pub(crate) fn of_listener(self, address: &str) -> Self {
        Self { listener: Some(address.into()), ..self }
    }

    /// Hands a connection on: see [`Me::hand_on`](crate::Me::hand_on).
    pub(crate) async fn give<T>(&self, connection: &impl AsFd, state: &T) -> Result<(), HandOnError>
    where
        T: Serialize + DeserializeOwned,
    {
        let request = give_request(connection, state).map_err(HandOnError::Failed)?;
        self.client.give::<T>(&self.link, &request, self.listener.as_deref()).await
    }

    /// Waits for a connection of another worker: see [`Me::handed_on`](crate::Me::handed_on).
    pub(crate) async fn take<T>(&self) -> Result<Option<(Stream, T)>, Error>
    where
        T: Serialize + DeserializeOwned,
    {
        loop {
            let listener = self.listener.as_deref();
            let taken = self.client.take::<T>(&self.link, &self.stopping, listener).await?;
            let Some((state, socket)) = taken else { return Ok(None) };
            // Another worker has chosen both.
            let stream = match is_stream(&socket) {
                true => Stream::new(&self.rt, socket).map_err(|error| error.to_string()),
                false => Err("its descriptor is no stream socket".to_owned()),
            };
            let state = Codec::<T>::decode(&Postcard, &state).map_err(|error| error.to_string());
            match stream.and_then(|stream| Ok((stream, state?))) {
                Ok(taken) => return Ok(Some(taken)),
                Err(reason) => log_error!(reason, "a connection of another worker is closed"),
            }
        }
    }
}

fn give_request<T>(connection: &impl AsFd, state: &T) -> Result<ServiceRequest, Error>
where
    T: Serialize + DeserializeOwned,
{
    if !is_stream(connection) {
        return Err(Error::new(ErrorKind::Usage, "only stream sockets can be handed on"));
    }
    let mut bytes = Vec::new();
    Postcard.encode(state, &mut bytes).map_err(|error| {
        Error::new(ErrorKind::Usage, "the state of a connection cannot be sent").caused_by(error)
    })?;
    let socket = connection.as_fd().try_clone_to_owned();
    let socket = socket.map_err(|error| Error::system("cannot duplicate a connection", error))?;
    Ok(ServiceRequest::Give { state: bytes, socket: Descriptor::new(socket) })
}
