//! QUIC servers in workers, on [quinn], whose connections survive reloads and upgrades.
//!
//! The master opens the sockets with [`Steer::quic`](release_core::net::Steer::quic). In the worker,
//! [`endpoint`] makes quinn's endpoint on the socket of this process, and [`serve`] accepts connections
//! until the worker should stop, then waits until they have ended:
//!
//! ```
//! use release_core::net::{ListenOn, Steer};
//! use release_core::{Me, Workers};
//! use release_quinn::quinn::{Connection, ConnectionError, ServerConfig};
//!
//! type BoxError = Box<dyn std::error::Error + Send + Sync>;
//!
//! fn workers() -> Result<Workers, BoxError> {
//!     let listen = ListenOn::udp("127.0.0.1:4433".parse()?).steer(Steer::quic()).slots(64);
//!     Ok(Workers::same_executable("echo", 4).listen("quic", listen))
//! }
//!
//! async fn worker(me: Me, config: ServerConfig) -> Result<(), BoxError> {
//!     let endpoint = release_quinn::endpoint(&me, "quic", config)?;
//!     me.ready()?;
//!     release_quinn::serve(&me, endpoint, echo).await?;
//!     Ok(())
//! }
//!
//! /// Sends back what arrives on each stream.
//! async fn echo(connection: Connection) -> Result<(), BoxError> {
//!     loop {
//!         let (mut send, mut receive) = match connection.accept_bi().await {
//!             Err(ConnectionError::ApplicationClosed(_)) => return Ok(()),
//!             streams => streams?,
//!         };
//!         send.write_all(&receive.read_to_end(65_536).await?).await?;
//!         send.finish()?;
//!     }
//! }
//! # let _ = (workers, worker);
//! ```
//!
//! The crate has no runtime of its own: quinn's tasks, timers and sockets run on the worker's
//! [`Rt`](release_core::rt::Rt), so it runs on every backend. Enable none of quinn's `runtime-` features.
//!
//! # What is different from `quinn::Endpoint::server`
//!
//! * Connection ids contain the slot of the process, from [`QuicIds`](release_core::net::QuicIds).
//! * The socket never has `UDP_GRO`, with which the kernel gives packets to wrong processes. quinn's own
//!   socket turns it on.
//! * Stateless resets and address validation tokens have the keys of the listener, which an upgrade
//!   keeps. A reset is sent only for connections of this process, and of processes that have ended.

#![forbid(unsafe_code)]

use std::net::UdpSocket;
use std::sync::Arc;

pub use quinn;
use quinn::{Endpoint, ServerConfig};
use release_core::net::{Datagrams, Inet};
use release_core::{Error, ErrorKind, Me};

mod keys;
mod runtime;
mod serve;
mod socket;

pub use runtime::QuinnRuntime;
pub use serve::{Serve, serve};
use socket::Socket;

/// Makes the endpoint of this process on its socket of the listener `name`, which must be steered by
/// [`Steer::quic`](release_core::net::Steer::quic). Call it once for each listener, before
/// [`Me::ready`].
///
/// Replaces the token key in `config` by that of the listener. A preferred address in `config` must not
/// be set: packets to it are not steered.
///
/// Session tickets are those of `config`. Unless all processes share their key, clients make full
/// handshakes after a reload.
///
/// # Errors
///
/// Returns an error if the worker has no QUIC listener of this name (any more), or if the system has no
/// descriptors left.
///
/// # Examples
///
/// ```
/// use release_core::Me;
/// use release_quinn::quinn::ServerConfig;
///
/// type BoxError = Box<dyn std::error::Error + Send + Sync>;
///
/// async fn worker(me: Me, config: ServerConfig) -> Result<(), BoxError> {
///     let endpoint = release_quinn::endpoint(&me, "quic", config)?;
///     me.ready()?;
///     release_quinn::serve(&me, endpoint, async |_| Ok::<_, BoxError>(())).await?;
///     Ok(())
/// }
/// # let _ = worker;
/// ```
pub fn endpoint<Context, M, C>(
    me: &Me<Context, M, C>,
    name: &str,
    mut config: ServerConfig,
) -> Result<Endpoint, Error> {
    let ids = me.quic_ids(name)?;
    let socket: Datagrams<Inet> = me.datagrams(name)?;
    config.token_key(keys::for_tokens(&ids));
    let made = socket.into_descriptor().and_then(|socket| {
        let socket = Socket::new(me.rt(), UdpSocket::from(socket))?;
        let runtime = Arc::new(QuinnRuntime::new(me.rt()));
        Endpoint::new_with_abstract_socket(
            keys::config(ids),
            Some(config),
            Arc::new(socket),
            runtime,
        )
    });
    made.map_err(|error| {
        let message = format!("cannot serve QUIC on listener `{name}`");
        Error::new(ErrorKind::System, message).caused_by(error)
    })
}
