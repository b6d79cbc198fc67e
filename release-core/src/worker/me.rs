//! What a running worker knows and can do.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use super::in_flight::{InFlight, Work};
use crate::ipc::link::Link;
use crate::ipc::plain::Client;
use crate::ipc::{Ended, Header, Never, Peer, Postcard, SendError};
use crate::net::{Address, Passive, Socket};
use crate::rt::{Rt, Task};
use crate::stopping::Stopping;
use crate::{Error, ErrorKind};

/// A running worker: who it is, what it was given, and its master.
///
/// `Context` is what [`Workers::context`](crate::Workers::context) made for it, `M` what it may ask
/// its master.
pub struct Me<Context = (), M = Never, C = Postcard> {
    pub(crate) id: u32,
    pub(crate) generation: u32,
    pub(crate) group: String,
    pub(crate) context: Context,
    pub(crate) listeners: Mutex<Vec<(String, OwnedFd)>>,
    pub(crate) master: Peer<M, C>,
    pub(crate) link: Arc<Link>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) stopping: Stopping,
    pub(crate) rt: Rt,
    pub(crate) _tasks: [Task<()>; 2],
}

impl<Context, M, C> fmt::Debug for Me<Context, M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Me")
            .field("id", &self.id)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

impl<Context, M, C> Me<Context, M, C> {
    /// The identity, kept over restarts.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The generation of this process: 1 for those that the master started with, and a higher number
    /// with every reload.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The name of the group.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// What the master has sent along.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The runtime.
    #[must_use]
    pub fn rt(&self) -> &Rt {
        &self.rt
    }

    /// The shared listening socket of this name; it can be taken once.
    ///
    /// # Errors
    ///
    /// When there is none of this name (any more), when it is not a listening socket of this kind
    /// of address, or when the runtime cannot watch it.
    pub fn listener<A: Address>(&self, name: &str) -> Result<Socket<Passive, A>, Error> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = listeners.iter().position(|(known, _)| known == name) else {
            let left: Vec<_> = listeners.iter().map(|(name, _)| format!("`{name}`")).collect();
            let left = if left.is_empty() { "none".to_owned() } else { left.join(", ") };
            let message =
                format!("no listener `{name}` here (any more: each is taken once); left: {left}");
            return Err(Error::new(ErrorKind::Usage, message));
        };
        let (_, socket) = listeners.swap_remove(index);
        Socket::inherited(&self.rt, socket).map_err(|error| {
            Error::new(error.kind(), format!("cannot use listener `{name}`")).caused_by(error)
        })
    }

    /// Tells the master that this worker serves from now on. Say it once, within the group's
    /// [`ready_timeout`](crate::supervise::RestartPolicy::ready_timeout): a worker that does not is
    /// killed and started again.
    ///
    /// # Errors
    ///
    /// When the connection has ended.
    pub fn ready(&self) -> Result<(), SendError> {
        self.link.queue(Some(Header::Ready), |_| Ok::<(), SendError>(()))?;
        self.link.flush_now();
        Ok(())
    }

    /// Marks a unit of work, such as a request: begun now, and finished when the guard is dropped,
    /// however that happens.
    ///
    /// It is what [`LifeLimits::max_requests`](crate::supervise::LifeLimits::max_requests) counts. One
    /// that is unfinished for as long as the group's [`heartbeat`](crate::Workers::heartbeat) shows
    /// that the worker hangs. Where the group has neither, it does nothing.
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
        self.in_flight.begin(self.rt.now())
    }

    /// Done when this worker is to stop: it was told to, or its master has gone.
    ///
    /// Finish what is in hand and return from the main function: after the master's stop deadline
    /// the process is killed.
    #[must_use]
    pub fn stopping(&self) -> Stopping {
        self.stopping.clone()
    }

    /// Why the connection to the master has ended, if it has.
    #[must_use]
    pub fn disconnected(&self) -> Option<Ended> {
        self.link.ended()
    }
}

impl<Context, M, C: Clone> Me<Context, M, C> {
    /// The master, to be asked. Cheap to clone and give to tasks.
    #[must_use]
    pub fn master(&self) -> Peer<M, C> {
        self.master.clone()
    }
}

/// A running worker in plain mode.
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
    /// The master, to be asked.
    #[must_use]
    pub fn master(&self) -> &Client<M, C> {
        &self.master
    }

    /// The runtime.
    #[must_use]
    pub fn rt(&self) -> &Rt {
        &self.rt
    }

    /// Done when this worker is to stop: it was told to, or its master has gone.
    #[must_use]
    pub fn stopping(&self) -> Stopping {
        self.stopping.clone()
    }
}
