//! Call mode over a socket of the program's own, and its options.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::limits::Limits;
use super::link::{Link, Mode};
use super::serve::{Heard, serve};
use super::{Codec, Ended, Peer, Refused, Request};
use crate::rt::{Rt, Task};

/// Starts call mode over a connected stream socket of your own. The peer answers requests of type
/// `R`; `handler` answers its requests of type `S`.
///
/// Master and workers are already connected in this way; this function is for other pairs of
/// processes. The task serves the connection and returns the reason when it has ended. Dropping
/// the task ends the connection. [`ConnectOptions`] has other limits than the defaults.
///
/// # Errors
///
/// Returns an error if the runtime cannot register the socket.
///
/// # Examples
///
/// ```
/// use std::os::unix::net::UnixStream;
/// use release_core::ipc::{Never, Postcard, Request, connect};
/// use release_core::rt::{Driver, local::Local, run};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Double(u32);
/// impl Request for Double {
///     type Response = u32;
/// }
///
/// let driver = Local::new()?;
/// let (here, there) = UnixStream::pair()?;
/// run(&driver, async {
///     let rt = driver.handle();
///     let double = |Double(number)| async move { Ok(2 * number) };
///     let (_, _serving) = connect::<Never, Double, _, _, _>(&rt, there.into(), Postcard, double)?;
///     let refuse = |never: Never| async move { match never {} };
///     let (peer, _task) = connect::<Double, _, _, _, _>(&rt, here.into(), Postcard, refuse)?;
///     assert_eq!(peer.call(&Double(21)).await.ok(), Some(42));
///     Ok::<(), std::io::Error>(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn connect<R, S, C, H, F>(
    rt: &Rt,
    socket: OwnedFd,
    codec: C,
    handler: H,
) -> io::Result<(Peer<R, C>, Task<Ended>)>
where
    R: Request,
    S: Request,
    C: Codec<R> + Codec<R::Response> + Codec<S> + Codec<S::Response>,
    H: Fn(S) -> F + Send + Sync + 'static,
    F: Future<Output = Result<S::Response, Refused>> + Send + 'static,
{
    ConnectOptions::new().connect(rt, socket, codec, handler)
}

/// The options of a connection in call mode over a socket of your own.
///
/// # Examples
///
/// Requests whose answers contain open files:
///
/// ```
/// use std::io::{self, Read};
/// use std::os::{fd::OwnedFd, unix::net::UnixStream};
/// use release_core::ipc::{ConnectOptions, Descriptor, Postcard, Request};
/// use release_core::rt::{Driver, local::Local, run};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Open;
/// impl Request for Open {
///     type Response = Descriptor;
/// }
///
/// let driver = Local::new()?;
/// let (here, there) = UnixStream::pair()?;
/// run(&driver, async {
///     let (rt, options) = (driver.handle(), ConnectOptions::new().descriptors(1));
///     let open = |Open| async { Ok(Descriptor::new(std::fs::File::open("/proc/self/comm")?)) };
///     let (_, _serving) =
///         options.connect::<Open, Open, _, _, _>(&rt, there.into(), Postcard, open)?;
///     let (peer, _task) =
///         options.connect::<Open, Open, _, _, _>(&rt, here.into(), Postcard, open)?;
///     let answer = peer.call(&Open).await.map_err(io::Error::other)?;
///     let mut name = String::new();
///     std::fs::File::from(OwnedFd::from(answer)).read_to_string(&mut name)?;
///     assert!(!name.is_empty());
///     Ok::<(), io::Error>(())
/// })?;
/// # Ok::<(), io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ConnectOptions {
    limits: Limits,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ConnectOptions {
    /// Creates the options of [`connect`]: frames of up to
    /// [`DEFAULT_FRAME_LIMIT`](super::DEFAULT_FRAME_LIMIT) bytes, no descriptors, and no polling.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::ConnectOptions;
    ///
    /// let options = ConnectOptions::new().frame_limit(64 * 1024);
    /// # let _ = options;
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self { limits: Limits::IPC }
    }

    /// Sets the maximum length of a message in bytes, in both directions. Both sides must use the
    /// same limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::{ConnectOptions, DEFAULT_FRAME_LIMIT};
    ///
    /// let options = ConnectOptions::new().frame_limit(4 * DEFAULT_FRAME_LIMIT);
    /// # let _ = options;
    /// ```
    #[must_use]
    pub fn frame_limit(mut self, bytes: u32) -> Self {
        self.limits = self.limits.with_frame(bytes);
        self
    }

    /// Allows messages that contain a [`Descriptor`](super::Descriptor), over a Unix socket: up to
    /// `most` in one message, at most 253, and as many in all unanswered requests of one side
    /// together. Both sides must use the same limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::ConnectOptions;
    ///
    /// let options = ConnectOptions::new().descriptors(1);
    /// # let _ = options;
    /// ```
    #[must_use]
    pub fn descriptors(mut self, most: u8) -> Self {
        self.limits = self.limits.with_descriptors(most);
        self
    }

    /// Sets how long a call polls for its response before it sleeps: at most a millisecond, and not
    /// at all by default. See [`Worker::spin`](crate::Worker::spin).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::ipc::ConnectOptions;
    ///
    /// let options = ConnectOptions::new().spin(Duration::from_micros(20));
    /// # let _ = options;
    /// ```
    #[must_use]
    pub fn spin(mut self, time: Duration) -> Self {
        self.limits = self.limits.with_spin(time);
        self
    }

    /// Sends messages through rings in shared memory, if the peer asks for them too: one of `bytes` for
    /// each direction, rounded up to a power of two from 4 KiB to 64 MiB. Of two sizes, the smaller one
    /// is used. Otherwise, and with a peer that knows no rings, all messages go over the socket.
    ///
    /// A message through a ring costs a system call only if the other side sleeps, and none together
    /// with [`spin`](Self::spin). Messages with descriptors, messages that do not fit into the ring and
    /// those behind a full ring go over the socket, in order. The memory of a ring is allocated by the
    /// side that reads it, for as long as the connection lives.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use release_core::ipc::{ConnectOptions, Text};
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::new()?;
    /// let (here, there) = UnixStream::pair()?;
    /// run(&driver, async {
    ///     let (rt, options) = (driver.handle(), ConnectOptions::new().ring(64 * 1024));
    ///     let upper = |text: String| async move { Ok(text.to_uppercase()) };
    ///     let (_, _serving) =
    ///         options.connect::<String, String, _, _, _>(&rt, there.into(), Text, upper)?;
    ///     let (peer, _task) =
    ///         options.connect::<String, String, _, _, _>(&rt, here.into(), Text, upper)?;
    ///     assert_eq!(peer.call(&"hello".to_owned()).await.ok().as_deref(), Some("HELLO"));
    ///     Ok::<(), std::io::Error>(())
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn ring(mut self, bytes: u32) -> Self {
        self.limits = self.limits.with_ring(bytes);
        self
    }

    /// Starts call mode with these options, like [`connect`].
    ///
    /// # Errors
    ///
    /// Returns an error if the runtime cannot register the socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    /// use std::time::Duration;
    /// use release_core::ipc::{ConnectOptions, Text};
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::new()?;
    /// let (here, there) = UnixStream::pair()?;
    /// run(&driver, async {
    ///     let (rt, options) = (driver.handle(), ConnectOptions::new());
    ///     let upper = |text: String| async move { Ok(text.to_uppercase()) };
    ///     let (_, _serving) =
    ///         options.connect::<String, String, _, _, _>(&rt, there.into(), Text, upper)?;
    ///     let (peer, _task) = options
    ///         .spin(Duration::from_micros(20))
    ///         .connect::<String, String, _, _, _>(&rt, here.into(), Text, upper)?;
    ///     assert_eq!(peer.call(&"hello".to_owned()).await.ok().as_deref(), Some("HELLO"));
    ///     Ok::<(), std::io::Error>(())
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn connect<R, S, C, H, F>(
        self,
        rt: &Rt,
        socket: OwnedFd,
        codec: C,
        handler: H,
    ) -> io::Result<(Peer<R, C>, Task<Ended>)>
    where
        R: Request,
        S: Request,
        C: Codec<R> + Codec<R::Response> + Codec<S> + Codec<S::Response>,
        H: Fn(S) -> F + Send + Sync + 'static,
        F: Future<Output = Result<S::Response, Refused>> + Send + 'static,
    {
        let link = Arc::new(Link::new(rt, socket, Mode::Calls, self.limits)?);
        link.ask_for_rings();
        let peer = Peer::new(Arc::clone(&link), codec.clone());
        let heard = hear(&link);
        let serving = rt.spawn(serve(link, codec, move |request| Ok(handler(request)), heard));
        Ok((peer, serving))
    }
}

/// Handles what a peer that is neither master nor worker of this process says beside requests.
pub(super) fn hear(link: &Arc<Link>) -> impl FnMut(Heard) + Send + use<> {
    let served = Arc::clone(link);
    move |word| match word {
        Heard::NotUnderstood { why, unsaid } => {
            log_warning!(why, unsaid, "a message of another type arrived: it is not handled");
        }
        Heard::Service(..) => served.end(Ended::Violation("a request for a master")),
        Heard::Ready | Heard::Heartbeat | Heard::HeartbeatReply(_) | Heard::Cancelled(_) => {}
    }
}
