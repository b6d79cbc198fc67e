//! Sockets for any runtime, implemented once on top of readiness.
//!
//! The type of a [`Socket`] carries its state and its kind of address. You cannot, for example,
//! accept on a socket that does not listen:
//!
//! | from | by | to |
//! |---|---|---|
//! | nothing | [`Socket::unconnected`] | [`Unconnected`], which takes options |
//! | [`Unconnected`] | `bind` | [`Bound`] |
//! | [`Bound`] | `listen`, or `into_listening` for another process | [`Passive`] |
//! | a descriptor | [`Socket::inherited`] | [`Passive`] |
//! | [`Passive`] | [`accept`](Socket::accept), [`accept_loop`](Socket::accept_loop) | [`Active`] |
//! | [`Unconnected`], [`Bound`] | `connect` | [`Active`] |
//!
//! # Examples
//!
//! A server that answers one client, then exits:
//!
//! ```
//! use std::time::Duration;
//! use futures_channel::oneshot;
//! use futures_util::FutureExt;
//! use release_core::net::{Active, Inet, Read, Socket};
//! use release_core::rt::{Driver, local::Local, run};
//!
//! let driver = Local::new()?;
//! let rt = driver.handle();
//! let address: Inet = "127.0.0.1:0".parse()?;
//! let socket = Socket::unconnected(&address)?.no_delay(true)?.bind(&address)?.listen(&rt, 128)?;
//! let address = socket.local()?;
//!
//! let (stop, stopped) = oneshot::channel::<()>();
//! let server = socket
//!     .accept_loop()
//!     .connections(100)
//!     .timeout(Duration::from_secs(10))
//!     .until(stopped.map(drop))
//!     .stop_deadline(Duration::from_secs(5))
//!     .run(|client: Socket<Active, Inet>| async move { client.write_all(b"hello").await });
//! let server = rt.spawn(server);
//!
//! run(&driver, async {
//!     let client = Socket::unconnected(&address)?;
//!     let client = client.connect(&rt, &address, Duration::from_secs(5)).await?;
//!     assert_eq!(client.read(5, None).await?, Read::Data(b"hello".to_vec()));
//!     drop(stop);
//!     assert_eq!(server.await?.finished, 1);
//!     Ok::<(), Box<dyn std::error::Error>>(())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Operations that a state does not allow do not compile: accepting on a socket that does not
//! listen,
//!
//! ```compile_fail,E0599
//! # use release_core::{net::{Inet, Socket}, rt::Rt};
//! # async fn wrong(address: Inet) -> Result<(), Box<dyn std::error::Error>> {
//! Socket::unconnected(&address)?.bind(&address)?.accept().await?;
//! # Ok(()) }
//! ```
//!
//! listening before the socket has an address,
//!
//! ```compile_fail,E0599
//! # use release_core::{net::{Inet, Socket}, rt::Rt};
//! # fn wrong(rt: &Rt, address: Inet) -> Result<(), Box<dyn std::error::Error>> {
//! Socket::unconnected(&address)?.listen(rt, 128)?;
//! # Ok(()) }
//! ```
//!
//! options after `bind`, where they would come too late,
//!
//! ```compile_fail,E0599
//! # use release_core::{net::{Inet, Socket}, rt::Rt};
//! # fn wrong(rt: &Rt, address: Inet) -> Result<(), Box<dyn std::error::Error>> {
//! Socket::unconnected(&address)?.bind(&address)?.reuse_port(true)?;
//! # Ok(()) }
//! ```
//!
//! reading from a socket that listens, or connecting it,
//!
//! ```compile_fail,E0599
//! # use release_core::{net::{Inet, Passive, Socket}, rt::Rt};
//! # async fn wrong(socket: Socket<Passive, Inet>) -> std::io::Result<()> {
//! socket.read(1, None).await?;
//! # Ok(()) }
//! ```
//!
//! ```compile_fail,E0599
//! # use release_core::{net::{Inet, Passive, Socket}, rt::Rt};
//! # async fn wrong(rt: &Rt, address: Inet, socket: Socket<Passive, Inet>) -> std::io::Result<()> {
//! socket.connect(rt, &address, std::time::Duration::MAX).await?;
//! # Ok(()) }
//! ```
//!
//! binding twice (a transition takes the socket),
//!
//! ```compile_fail,E0382
//! # use release_core::{net::{Inet, Socket}, rt::Rt};
//! # fn wrong(address: Inet) -> Result<(), Box<dyn std::error::Error>> {
//! let socket = Socket::unconnected(&address)?;
//! socket.bind(&address)?;
//! socket.bind(&address)?;
//! # Ok(()) }
//! ```
//!
//! an option of TCP on a Unix socket, or an address of the other kind:
//!
//! ```compile_fail,E0599
//! # use release_core::net::{Socket, Unix};
//! # fn wrong(path: Unix) -> Result<(), Box<dyn std::error::Error>> {
//! Socket::unconnected(&path)?.no_delay(true)?;
//! # Ok(()) }
//! ```
//!
//! ```compile_fail,E0308
//! # use release_core::net::{Inet, Socket, Unix};
//! # fn wrong(path: Unix, address: Inet) -> Result<(), Box<dyn std::error::Error>> {
//! Socket::unconnected(&path)?.bind(&address)?;
//! # Ok(()) }
//! ```

mod accept_loop;
mod active;
mod address;
mod connect;
mod convert;
mod datagrams;
mod flows;
mod inherited;
mod listen_on;
mod passive;
mod quic_ids;
mod socket;
mod socket_file;
mod stream;

pub use accept_loop::{AcceptLoop, Served};
pub use active::{Active, Credentials};
pub use address::{Address, AnyAddress, Inet, Unix};
pub use datagrams::Datagrams;
pub(crate) use flows::{FLOW_KEY, FLOWS, FLOWS_AT, IN_USE_AT};
pub use flows::{Flow, Flows};
pub(crate) use inherited::{STORED, stored_sockets};
pub use inherited::{activated_sockets, inherited_socket};
pub(crate) use listen_on::{DatagramSettings, MOST_SLOTS, SteeredBy, Traffic};
pub use listen_on::{ListenOn, Steer};
pub use passive::Passive;
pub use quic_ids::QuicIds;
pub(crate) use quic_ids::{IdSecret, LIVING, LIVING_AT};
pub(crate) use socket::local;
pub use socket::{Bound, Socket, Unconnected};
pub(crate) use socket_file::{FileIdentity, give_away};
pub use stream::{Read, Stream};
