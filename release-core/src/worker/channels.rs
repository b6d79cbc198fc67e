//! Calls from one worker to the workers of another group.

use std::borrow::Borrow;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Serialize, de::DeserializeOwned};

pub(crate) use self::agent::WorkerChannels;
use self::route::Route;
use super::Me;
use super::me::WorkerData;
use crate::ipc::channel::{NotAnswered, ask};
use crate::ipc::{CallError, CodecError, OneOf, Refused, Request};
use crate::{Error, WorkerInfo};

mod agent;
mod answerer;
mod route;

/// Number of workers that may end with a call of an idempotent channel in hand. A request that ends
/// every worker must not end all of them.
const ATTEMPTS: u32 = 3;

/// The workers of another group, which answer requests of type `R`. Returned by [`Me::channel_to`].
///
/// Each call goes to the worker of the group with the fewest calls of this process in flight, over a
/// connection between the two processes: messages do not pass through the master. Restarts, reloads,
/// scaling and upgrades of both groups change the connections, not this value. Cheap to clone.
///
/// Each connection has the limits of one between master and worker: at most 1024 requests in flight, and 1
/// MiB of them; further calls wait. A message may have 1 MiB, and no descriptors.
///
/// # Examples
///
/// ```
/// use std::net::IpAddr;
/// use release_core::ipc::{CallError, Request};
/// use release_core::{Channel, Error, Me};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Resolve(String);
/// impl Request for Resolve {
///     type Response = Vec<IpAddr>;
/// }
///
/// fn resolver(me: &Me) -> Result<Channel<Resolve>, Error> {
///     Ok(me.channel_to("resolver")?.idempotent())
/// }
///
/// async fn addresses(resolver: &Channel<Resolve>, host: &str) -> Result<Vec<IpAddr>, CallError> {
///     resolver.call(&Resolve(host.to_owned())).await
/// }
/// # let _ = (resolver, addresses);
/// ```
pub struct Channel<R> {
    route: Arc<Route>,
    is_idempotent: bool,
    requests: PhantomData<fn(R)>,
}

impl<R> Clone for Channel<R> {
    fn clone(&self) -> Self {
        let Self { route, is_idempotent, requests } = self;
        Self { route: Arc::clone(route), is_idempotent: *is_idempotent, requests: *requests }
    }
}

impl<R> fmt::Debug for Channel<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("group", &self.route.group()).finish_non_exhaustive()
    }
}

impl<R> Channel<R> {
    /// Returns the same channel for requests that may be handled more than once.
    ///
    /// A call whose worker ends before it has answered is then sent to another worker, and fails with
    /// [`CallError::Gone`] only if three workers have ended with it. Without this, such a call fails at
    /// once: the worker may have handled the request.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::CallError;
    /// use release_core::Channel;
    ///
    /// async fn look_up(cache: &Channel<String>, key: &str) -> Result<String, CallError> {
    ///     // A second look does no harm.
    ///     cache.clone().idempotent().call(key.to_owned()).await
    /// }
    /// # let _ = look_up;
    /// ```
    #[must_use]
    pub fn idempotent(self) -> Self {
        Self { is_idempotent: true, ..self }
    }
}

impl<R> Channel<R>
where
    R: Request + Serialize + DeserializeOwned,
    R::Response: Serialize + DeserializeOwned,
{
    /// Sends a request to a worker of the group and waits for its response. While no worker of the group
    /// is ready, the call waits for one.
    ///
    /// `request` is a value of type `R`, a reference to one, or one of the requests of `R`
    /// ([`requests!`](crate::requests)), as in [`Peer::call`](crate::ipc::Peer::call).
    ///
    /// # Errors
    ///
    /// Returns [`CallError::Gone`] if the worker that had the request has ended; it may have handled it.
    /// Returns [`CallError::NotUnderstood`] if the types of the group are other ones,
    /// [`CallError::Refused`] if a handler refused, or if the master permits no calls to this group, and
    /// [`CallError::Ended`] if the master has gone and no worker of the group is left.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the call. A request that was sent is cancelled in the other worker,
    /// and a late answer is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::CallError;
    /// use release_core::Channel;
    ///
    /// async fn count(counter: &Channel<String>) -> Result<Option<String>, CallError> {
    ///     match counter.call("next".to_owned()).await {
    ///         // It may have been counted: asking again could count twice.
    ///         Err(CallError::Gone) => Ok(None),
    ///         answer => answer.map(Some),
    ///     }
    /// }
    /// # let _ = count;
    /// ```
    pub async fn call<Q: OneOf<R>>(&self, request: Q) -> Result<Q::Response, CallError> {
        self.ask_one(request, None).await
    }

    /// Sends a request to a worker of the group and waits for its response, at most for `timeout`: also
    /// while no worker of the group is ready.
    ///
    /// The time that is left is sent with the request, and the handler is dropped when it expires.
    ///
    /// # Errors
    ///
    /// Returns [`CallError::TimedOut`] after the timeout, and otherwise the errors of
    /// [`call`](Self::call).
    ///
    /// # Cancel safety
    ///
    /// Like [`call`](Self::call).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::ipc::CallError;
    /// use release_core::Channel;
    ///
    /// async fn look_up(cache: &Channel<String>, key: String) -> Result<Option<String>, CallError> {
    ///     match cache.call_within(Duration::from_millis(100), key).await {
    ///         Err(CallError::TimedOut) => Ok(None),
    ///         found => found.map(Some),
    ///     }
    /// }
    /// # let _ = look_up;
    /// ```
    pub async fn call_within<Q: OneOf<R>>(
        &self,
        timeout: Duration,
        request: Q,
    ) -> Result<Q::Response, CallError> {
        let rt = self.route.rt();
        let asked = self.ask_one(request, Some(rt.after(timeout)));
        rt.timeout(timeout, asked).await.unwrap_or(Err(CallError::TimedOut))
    }

    async fn ask_one<Q: OneOf<R>>(
        &self,
        request: Q,
        deadline: Option<Instant>,
    ) -> Result<Q::Response, CallError> {
        let answer = self.ask(request.into_all().borrow(), deadline).await?;
        Q::response(answer).ok_or_else(|| {
            CallError::Codec(CodecError::new("the answer is the response to another request"))
        })
    }

    /// Asks one worker after the other, until one has handled the request.
    async fn ask(&self, request: &R, deadline: Option<Instant>) -> Result<R::Response, CallError> {
        let mut lost = 0;
        loop {
            let lease = self.route.lease().await?;
            let now = self.route.rt().now();
            let timeout = deadline.map(|deadline| deadline.saturating_duration_since(now));
            match ask(lease.link(), request, timeout).await {
                Ok(Some(answer)) => return Ok(answer),
                // It has not begun to handle the request.
                Ok(None) => {}
                Err(NotAnswered { error: CallError::Ended(_), is_sent }) => {
                    lost += u32::from(is_sent);
                    if is_sent && (!self.is_idempotent || lost == ATTEMPTS) {
                        return Err(CallError::Gone);
                    }
                }
                Err(NotAnswered { error, .. }) => return Err(error),
            }
            lease.leave();
        }
    }
}

impl<Context, M, C> Me<Context, M, C> {
    /// Returns the workers of another group, to be called with requests of type `R`. The master must
    /// permit it with [`Workers::channel_to`](crate::Workers::channel_to).
    ///
    /// # Errors
    ///
    /// Returns an error if postcard does not support the types, or if this process calls the group with
    /// another type already.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::CallError;
    /// use release_core::{Channel, Me};
    ///
    /// async fn worker(me: Me) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    ///     let resolver: Channel<String> = me.channel_to("resolver")?;
    ///     me.ready()?;
    ///     tracing::info!("{}", resolver.call("localhost".to_owned()).await?);
    ///     me.stopping().await;
    ///     Ok(())
    /// }
    /// # let _ = worker;
    /// ```
    pub fn channel_to<R>(&self, group: &str) -> Result<Channel<R>, Error>
    where
        R: Request + Serialize + DeserializeOwned,
        R::Response: Serialize + DeserializeOwned,
    {
        let WorkerData { channels, link, .. } = self.shared();
        let route = channels.route::<R>(link, group)?;
        Ok(Channel { route, is_idempotent: false, requests: PhantomData })
    }

    /// Answers the calls of workers of other groups, which the master permits with
    /// [`Workers::channel_to`](crate::Workers::channel_to). They begin when this worker is
    /// [ready](Me::ready). Call it once.
    ///
    /// The handler gets the worker that calls, and runs in tasks of this process, many at a time. A
    /// handler that panics refuses its request. A caller that violates the protocol loses its channel, and
    /// no other one does.
    ///
    /// A worker that is told to stop gets no new calls before it hears of it. When its main function has
    /// returned, the calls in hand are finished, and callers that have not heard of the stop within a
    /// second are sent to other workers.
    ///
    /// # Errors
    ///
    /// Returns an error if postcard does not support the types, or if this process answers calls already.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, Me};
    ///
    /// fn answer(me: &Me) -> Result<(), Error> {
    ///     me.answer_channels(|caller, text: String| async move {
    ///         Ok(format!("{text}, worker {} of {}", caller.id, caller.group))
    ///     })
    /// }
    /// # let _ = answer;
    /// ```
    pub fn answer_channels<R, H, F>(&self, handler: H) -> Result<(), Error>
    where
        R: Request + Serialize + DeserializeOwned,
        R::Response: Serialize + DeserializeOwned,
        H: Fn(WorkerInfo, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        let WorkerData { channels, link, .. } = self.shared();
        channels.answer(link, handler)
    }
}
