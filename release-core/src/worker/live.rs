//! Connections that a worker hands on to the workers that replace it, and takes from those before it.

use std::os::fd::AsFd;

use serde::{Serialize, de::DeserializeOwned};

use super::hand_on::{HandOnError, NotHandedOn};
use super::me::Me;
use crate::Error;
use crate::net::Stream;

impl<Context, M, C> Me<Context, M, C> {
    /// Hands a connection on to a ready worker of the newest generation of this group, with the state that
    /// the worker needs to go on: what was read and not used yet, the name of the user, ...
    ///
    /// Call this when the worker [should stop](Me::stopping), between two requests of the connection, after
    /// everything was written. The other worker gets the connection from [`Me::handed_on`]. The group must
    /// permit it with [`Workers::hand_on`](crate::Workers::hand_on). Sockets with state in this process,
    /// such as those of TLS, cannot be handed on.
    ///
    /// When this succeeds, another worker has the connection, and it was dropped here. A connection is
    /// never with two workers: the master decides. If it dies in the middle, the connection is closed. If
    /// the other worker dies before it has the connection, a third one gets it, or the connection stays
    /// here. During an [upgrade](crate::MasterHandle::upgrade) the connection stays here, and the new
    /// version of the master is asked again.
    ///
    /// All states of a group have one type. The new workers may know more variants of an enum, added at
    /// its end.
    ///
    /// # Errors
    ///
    /// Returns the connection and a [`HandOnError`]. Go on serving it until the client closes it, or try
    /// again later.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection here. Another worker may get it nevertheless.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    /// use release_core::net::Stream;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Session {
    ///     user: String,
    ///     unread: Vec<u8>,
    /// }
    ///
    /// async fn leave(me: &Me, client: Stream, session: Session) {
    ///     if let Err(refused) = me.hand_on(client, &session).await {
    ///         tracing::warn!(%refused, "a connection ends with this worker");
    ///     }
    /// }
    /// # let _ = leave;
    /// ```
    pub async fn hand_on<S, T>(&self, connection: S, state: &T) -> Result<(), NotHandedOn<S>>
    where
        S: AsFd,
        T: Serialize + DeserializeOwned,
    {
        let given = self.connection_relay().give(&connection, state).await;
        given.map_err(|reason| {
            let is_lost = matches!(reason, HandOnError::Lost);
            NotHandedOn { connection: (!is_lost).then_some(connection), reason }
        })
    }

    /// Waits for the next connection that another worker of the group [hands on](Me::hand_on). Returns
    /// `None` when this worker should stop.
    ///
    /// Call this in a task of its own from the start, in a loop. The master gives connections only to
    /// workers that are [ready](Me::ready) and wait here, and to each in turn.
    ///
    /// # Errors
    ///
    /// Returns an error if the group hands no connections on, if the type of the state has no encoding or
    /// is not the only one of this process, or if the connection to the master has ended.
    ///
    /// # Cancel safety
    ///
    /// A connection that is on its way when the future is dropped is given to another worker after 5
    /// seconds, or is returned by the next call. Therefore go on calling this until it returns `None`,
    /// also when the worker should stop: otherwise that connection is closed at the end of the process.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::Stream;
    /// use release_core::{Error, Me};
    ///
    /// async fn serve(mut client: Stream, unread: Vec<u8>) {}
    ///
    /// async fn take_over(me: Me) -> Result<(), Error> {
    ///     while let Some((client, unread)) = me.handed_on::<Vec<u8>>().await? {
    ///         me.rt().spawn(serve(client, unread)).detach();
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = take_over;
    /// ```
    pub async fn handed_on<T>(&self) -> Result<Option<(Stream, T)>, Error>
    where
        T: Serialize + DeserializeOwned,
    {
        self.connection_relay().take().await
    }
}
