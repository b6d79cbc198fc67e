//! `Me`: the identity, data and connections of a running worker.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use super::channels::WorkerChannels;
use super::hand_on::HandOnClient;
use super::in_flight::{InFlight, Work};
use super::relay::ConnectionRelay;
use crate::ipc::link::Link;
use crate::ipc::plain::Client;
use crate::ipc::{Ended, Header, Never, Peer, Postcard, SendError};
use crate::net::{Address, Datagrams, Flows, Passive, QuicIds, Socket};
use crate::rt::{Rt, Task};
use crate::stopping::Stopping;
use crate::{Error, ErrorKind};

/// A running worker: its identity, its data, and the connection to its master.
///
/// Cheap to clone: all clones are the same worker. The worker ends when its main function returns,
/// whether clones are left or not; dropping them all ends nothing.
///
/// `Context` is the value that [`Workers::context`](crate::Workers::context) created for this
/// worker. `M` is the type of its requests to the master.
///
/// # Examples
///
/// ```no_run
/// use release_core::ipc::CallError;
/// use release_core::rt::local::Local;
/// use release_core::{Exit, Me, me};
///
/// /// Asks the master a question, and serves until it should stop.
/// async fn worker(me: Me<(), String>) -> Result<(), CallError> {
///     let answer = me.master().call(&"which colour?".to_owned()).await?;
///     tracing::info!(worker = me.id(), answer);
///     me.ready()?;
///     me.stopping().await;
///     Ok(())
/// }
///
/// fn main() -> Exit {
///     me().run(Local::new, worker)
/// }
/// ```
pub struct Me<Context = (), M = Never, C = Postcard> {
    shared: Arc<WorkerData<Context>>,
    master: Peer<M, C>,
}

/// The parts that all clones share.
pub(crate) struct WorkerData<Context> {
    pub(crate) id: u32,
    pub(crate) generation: u32,
    pub(crate) group: String,
    pub(crate) context: Context,
    pub(crate) listeners: Mutex<Vec<(String, OwnedFd)>>,
    pub(crate) link: Arc<Link>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) hand_on: Arc<HandOnClient>,
    pub(crate) channels: Arc<WorkerChannels>,
    pub(crate) stopping: Stopping,
    pub(crate) rt: Rt,
}

impl<Context, M, C: Clone> Clone for Me<Context, M, C> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared), self.master.clone())
    }
}

impl<Context, M, C> fmt::Debug for Me<Context, M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Me")
            .field("id", &self.shared.id)
            .field("group", &self.shared.group)
            .finish_non_exhaustive()
    }
}

impl<Context, M, C> Me<Context, M, C> {
    pub(crate) fn new(shared: Arc<WorkerData<Context>>, master: Peer<M, C>) -> Self {
        Self { shared, master }
    }

    pub(super) fn shared(&self) -> &WorkerData<Context> {
        &self.shared
    }

    /// Returns the worker's id, which is stable across restarts.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    ///
    /// fn port(me: &Me) -> u32 {
    ///     8000 + me.id()
    /// }
    /// # let _ = port;
    /// ```
    #[must_use]
    pub fn id(&self) -> u32 {
        self.shared.id
    }

    /// Returns the generation of this process: 1 for the first workers of the master, and a higher
    /// number after each reload.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    ///
    /// fn hello(me: &Me) {
    ///     tracing::info!(worker = me.id(), generation = me.generation(), "hello");
    /// }
    /// # let _ = hello;
    /// ```
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.shared.generation
    }

    /// Returns the name of the group.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    ///
    /// fn cache_directory(me: &Me) -> String {
    ///     format!("/var/cache/service/{}/{}", me.group(), me.id())
    /// }
    /// # let _ = cache_directory;
    /// ```
    #[must_use]
    pub fn group(&self) -> &str {
        &self.shared.group
    }

    /// Returns the context sent by the master.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Settings {
    ///     motto: String,
    /// }
    ///
    /// fn greet(me: &Me<Settings>) {
    ///     tracing::info!("{}", me.context().motto);
    /// }
    /// # let _ = greet;
    /// ```
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.shared.context
    }

    /// Returns the runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::Me;
    ///
    /// /// Reports every minute that the worker is up.
    /// fn report(me: &Me) {
    ///     let rt = me.rt().clone();
    ///     let report = async move {
    ///         loop {
    ///             rt.sleep(Duration::from_secs(60)).await;
    ///             tracing::info!("still here");
    ///         }
    ///     };
    ///     me.rt().spawn(report).detach();
    /// }
    /// # let _ = report;
    /// ```
    #[must_use]
    pub fn rt(&self) -> &Rt {
        &self.shared.rt
    }

    /// Takes the shared listening socket of this name. You can take each socket once, on any clone.
    ///
    /// `try_into` converts it to a listener of the standard library, of tokio, async-io or smol (features
    /// `tokio`, `async-io` and `async-net`, which the backends enable).
    ///
    /// # Errors
    ///
    /// Returns an error if there is no socket of this name (any more), if it is not a listening
    /// socket of this kind of address, or if the runtime cannot watch it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::Me;
    /// use release_core::net::{Passive, Socket, Unix};
    ///
    /// fn listeners(me: &Me) -> Result<(), Box<dyn std::error::Error>> {
    ///     let ours: Socket<Passive, Unix> = me.listener("admin")?;
    ///     let standard: std::net::TcpListener = me.listener("http")?.try_into()?;
    ///     Ok(())
    /// }
    /// # let _ = listeners;
    /// ```
    pub fn listener<A: Address>(&self, name: &str) -> Result<Socket<Passive, A>, Error> {
        let socket = Socket::inherited(&self.shared.rt, self.descriptor(name)?);
        socket.map_err(|error| unusable(name, error))
    }

    /// Takes the socket for datagrams of this name. You can take each socket once, on any clone.
    ///
    /// A socket of [`Workers::listen_udp`](crate::Workers::listen_udp) belongs to this process alone.
    /// Do not connect it: a connected socket disturbs the delivery to the other processes.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no socket of this name (any more), if it is not a socket for
    /// datagrams with this kind of address, or if the runtime cannot watch it.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    /// use release_core::net::{Datagrams, Unix};
    ///
    /// fn sockets(me: &Me) -> Result<(), Box<dyn std::error::Error>> {
    ///     let dns: Datagrams = me.datagrams("dns")?;
    ///     let log: Datagrams<Unix> = me.datagrams("log")?;
    ///     Ok(())
    /// }
    /// # let _ = sockets;
    /// ```
    pub fn datagrams<A: Address>(&self, name: &str) -> Result<Datagrams<A>, Error> {
        let socket = Datagrams::inherited(&self.shared.rt, self.descriptor(name)?);
        socket.map_err(|error| unusable(name, error))
    }

    /// Takes the connection ids for the QUIC listener of this name, whose socket
    /// [`datagrams`](Self::datagrams) returns. You can take them once, on any clone.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no QUIC listener of this name, or if its ids were taken already.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    ///
    /// fn first_id(me: &Me) -> Result<[u8; 7], release_core::Error> {
    ///     Ok(me.quic_ids("h3")?.generate())
    /// }
    /// # let _ = first_id;
    /// ```
    pub fn quic_ids(&self, name: &str) -> Result<QuicIds, Error> {
        QuicIds::inherited(self.descriptor(&format!("{name}.ids"))?)
    }

    /// Takes the flows of the UDP socket of this name, which is steered by
    /// [`Steer::flows`](crate::net::Steer::flows). You can take them once, on any clone.
    ///
    /// # Errors
    ///
    /// Returns an error if there are none (any more): the socket is steered in another way.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::Me;
    /// fn connected(me: &Me, peer: std::net::SocketAddr) -> Result<(), release_core::Error> {
    ///     let flows = me.flows("game")?;
    ///     let flow = flows.begin(peer);
    ///     # drop(flow);
    ///     Ok(())
    /// }
    /// # let _ = connected;
    /// ```
    pub fn flows(&self, name: &str) -> Result<Flows, Error> {
        Flows::inherited(&self.shared.rt, self.descriptor(&format!("{name}.flows"))?)
    }

    /// Takes the descriptor of this name, of any kind: one of
    /// [`Workers::inherit`](crate::Workers::inherit), or a listening socket. You can take each
    /// descriptor once, on any clone.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no descriptor of this name (any more).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::File;
    /// use release_core::{Error, Me};
    ///
    /// fn table(me: &Me) -> Result<File, Error> {
    ///     Ok(me.descriptor("table")?.into())
    /// }
    /// # let _ = table;
    /// ```
    pub fn descriptor(&self, name: &str) -> Result<OwnedFd, Error> {
        let mut listeners = self.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = listeners.iter().position(|(known, _)| known == name) else {
            let left: Vec<_> = listeners.iter().map(|(name, _)| format!("`{name}`")).collect();
            let left = if left.is_empty() { "none".to_owned() } else { left.join(", ") };
            let message =
                format!("no listener `{name}` here (any more: each is taken once); left: {left}");
            return Err(Error::new(ErrorKind::Usage, message));
        };
        Ok(listeners.swap_remove(index).1)
    }

    /// Tells the master that this worker serves from now on. Call it once, on any clone, within the group's
    /// [`ready_timeout`](crate::supervise::RestartPolicy::ready_timeout): otherwise the worker is
    /// killed and restarted.
    ///
    /// # Errors
    ///
    /// Returns an error if the connection has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    /// use release_core::ipc::SendError;
    ///
    /// async fn worker(me: Me) -> Result<(), SendError> {
    ///     // Everything that can fail at the start comes before.
    ///     me.ready()?;
    ///     me.stopping().await;
    ///     Ok(())
    /// }
    /// # let _ = worker;
    /// ```
    pub fn ready(&self) -> Result<(), SendError> {
        self.shared.link.queue(Some(Header::Ready), |_| Ok::<(), SendError>(()))?;
        self.shared.link.flush_now();
        Ok(())
    }

    /// Marks a unit of work, such as a request, as in flight. It finishes when the guard is
    /// dropped, for any reason.
    ///
    /// [`LifeLimits::max_requests`](crate::supervise::LifeLimits::max_requests) counts these units.
    /// A unit that is unfinished for the time of the group's
    /// [`heartbeat`](crate::Workers::heartbeat) indicates that the worker hangs. If the group has
    /// neither setting, this method has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::Me;
    /// async fn answer(me: &Me) {
    ///     let _work = me.begin_work();
    ///     // What is done here counts, as long as it takes.
    /// }
    /// # let _ = answer;
    /// ```
    pub fn begin_work(&self) -> Work {
        self.shared.in_flight.begin(self.shared.rt.now())
    }

    /// Returns the part of this worker that hands connections on, without its types.
    pub(crate) fn connection_relay(&self) -> ConnectionRelay {
        let WorkerData { hand_on, link, stopping, rt, .. } = self.shared();
        ConnectionRelay {
            client: Arc::clone(hand_on),
            link: Arc::clone(link),
            stopping: stopping.clone(),
            rt: rt.clone(),
            listener: None,
        }
    }

    #[cfg(feature = "http")]
    pub(crate) fn in_flight(&self) -> Arc<InFlight> {
        Arc::clone(&self.shared.in_flight)
    }

    /// Returns a future that completes when this worker should shut down: the master requested it,
    /// or the connection to the master was lost.
    ///
    /// Finish the work in flight and return from the main function: the process is killed after the
    /// master's stop deadline.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::Me;
    ///
    /// async fn work(me: Me) {
    ///     let mut stopping = me.stopping();
    ///     // Does a step every second until the worker should stop.
    ///     while me.rt().timeout(Duration::from_secs(1), &mut stopping).await.is_err() {
    ///         tracing::info!("a step");
    ///     }
    /// }
    /// # let _ = work;
    /// ```
    #[must_use]
    pub fn stopping(&self) -> Stopping {
        self.shared.stopping.clone()
    }

    /// Returns whether this worker should shut down, without waiting: see
    /// [`stopping`](Self::stopping).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    ///
    /// /// Does the steps that are left, unless the worker should stop.
    /// fn work(me: &Me, steps: &mut Vec<fn()>) {
    ///     while let (false, Some(step)) = (me.is_stopping(), steps.pop()) {
    ///         step();
    ///     }
    /// }
    /// # let _ = work;
    /// ```
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.shared.stopping.is_stopping()
    }

    /// Returns the reason why the connection to the master has ended, if it has.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    ///
    /// async fn wait(me: Me) {
    ///     me.stopping().await;
    ///     if let Some(reason) = me.disconnected() {
    ///         tracing::warn!(%reason, "the master is gone");
    ///     }
    /// }
    /// # let _ = wait;
    /// ```
    #[must_use]
    pub fn disconnected(&self) -> Option<Ended> {
        self.shared.link.ended()
    }
}

impl<Context, M, C: Clone> Me<Context, M, C> {
    /// Returns the peer for requests to the master. It is cheap to clone and pass to tasks.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    /// use release_core::ipc::CallError;
    ///
    /// async fn colour(me: &Me<(), String>) -> Result<String, CallError> {
    ///     me.master().call(&"which colour?".to_owned()).await
    /// }
    /// # let _ = colour;
    /// ```
    #[must_use]
    pub fn master(&self) -> Peer<M, C> {
        self.master.clone()
    }
}

#[cold]
fn unusable(name: &str, error: Error) -> Error {
    Error::new(error.kind(), format!("cannot use listener `{name}`")).caused_by(error)
}

/// A running worker in plain mode.
///
/// # Examples
///
/// ```no_run
/// use release_core::rt::local::Local;
/// use release_core::{Exit, PlainMe, me};
///
/// fn main() -> Exit {
///     me().run_plain(Local::new, |me: PlainMe<String>| async move {
///         let answer = me.master().call(&"which colour?".to_owned()).await?;
///         tracing::info!(answer);
///         me.stopping().await;
///         Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
///     })
/// }
/// ```
pub struct PlainMe<M, C = Postcard> {
    pub(crate) master: Client<M, C>,
    pub(crate) stopping: Stopping,
    pub(crate) rt: Rt,
    pub(crate) _signals: Task<()>,
}

impl<M, C> fmt::Debug for PlainMe<M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainMe").field("master", &self.master).finish_non_exhaustive()
    }
}

impl<M, C> PlainMe<M, C> {
    /// Returns the client for requests to the master.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::PlainMe;
    ///
    /// async fn ask(me: &PlainMe<String>) -> Option<String> {
    ///     me.master().call(&"which colour?".to_owned()).await.ok()
    /// }
    /// # let _ = ask;
    /// ```
    #[must_use]
    pub fn master(&self) -> &Client<M, C> {
        &self.master
    }

    /// Returns the runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::PlainMe;
    ///
    /// async fn pause(me: &PlainMe<String>) {
    ///     me.rt().sleep(Duration::from_secs(1)).await;
    /// }
    /// # let _ = pause;
    /// ```
    #[must_use]
    pub fn rt(&self) -> &Rt {
        &self.rt
    }

    /// Returns a future that completes when this worker should shut down: the master requested it,
    /// or the connection to the master was lost.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::PlainMe;
    ///
    /// async fn wait(me: &PlainMe<String>) {
    ///     me.stopping().await;
    ///     tracing::info!("stopping");
    /// }
    /// # let _ = wait;
    /// ```
    #[must_use]
    pub fn stopping(&self) -> Stopping {
        self.stopping.clone()
    }

    /// Returns whether this worker should shut down, without waiting: see
    /// [`stopping`](Self::stopping).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::PlainMe;
    ///
    /// /// Does the steps that are left, unless the worker should stop.
    /// fn work(me: &PlainMe<String>, steps: &mut Vec<fn()>) {
    ///     while let (false, Some(step)) = (me.is_stopping(), steps.pop()) {
    ///         step();
    ///     }
    /// }
    /// # let _ = work;
    /// ```
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_stopping()
    }
}
