//! The master's side of one worker's connection, in call mode or plain.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;

use super::connections::Connections;
use super::hello::{Hello, Types};
use super::{Permit, WorkerInfo};
use crate::Error;
use crate::ipc::limits::Limits;
use crate::ipc::link::{Link, Mode};
use crate::ipc::plain::Server;
use crate::ipc::serve::serve;
use crate::ipc::{Codec, Ended, Header, Peer, Postcard, ReadError, Refused, Request, SendError};
use crate::rt::{Rt, Task};

/// What the supervisor hears from a connection.
pub(crate) type Notify = Box<dyn Fn(News) + Send + Sync>;

/// News of a worker that comes over its connection.
#[derive(Debug)]
pub(crate) enum News {
    Ready,
    /// The worker closed its end. It may be about to exit; if not, nobody can talk to it any more.
    Closed,
    /// The worker broke the protocol or does not read: this is what it did.
    Violation(String),
}

/// The connection of a worker. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) link: Arc<Link>,
    pub(crate) serving: Task<()>,
}

/// Serves the connections of a group's workers, whatever the types of their messages.
pub(crate) trait Attach: Send + Sync {
    /// Greets the worker and serves it until what is returned is dropped.
    fn attach(
        &self,
        rt: &Rt,
        socket: OwnedFd,
        worker: WorkerInfo,
        hello: Hello,
        limits: Limits,
        notify: Notify,
    ) -> Result<Attached, Error>;

    /// Whether workers of this kind say when they are ready.
    fn says_ready(&self) -> bool;
}

fn cannot_watch(error: std::io::Error) -> Error {
    Error::system("cannot watch a worker's socket", error)
}

/// Takes a worker off the list when its serving ends, however it ends.
struct Listed<W, C> {
    connections: Connections<W, C>,
    worker: WorkerInfo,
}

impl<W, C> Listed<W, C> {
    fn new(connections: &Connections<W, C>, worker: WorkerInfo, peer: Peer<W, C>) -> Self {
        connections.add(worker.clone(), peer);
        Self { connections: connections.clone(), worker }
    }
}

impl<W, C> Drop for Listed<W, C> {
    fn drop(&mut self) {
        self.connections.remove(&self.worker);
    }
}

/// How the requests of workers in call mode are dealt with.
pub(crate) struct Rules<N, P, H> {
    /// Makes the state of a new process.
    pub(crate) state: N,
    /// Says whether a request is permitted in that state.
    pub(crate) permit: P,
    pub(crate) handler: H,
}

/// Call mode.
pub(crate) struct Calls<W, C, N, P, H, R> {
    types: Types,
    codec: C,
    rules: Arc<Rules<N, P, H>>,
    connections: Connections<W, C>,
    requests: std::marker::PhantomData<fn(R)>,
}

impl<W, C, N, P, H, R> Calls<W, C, N, P, H, R> {
    pub(crate) fn new(
        types: Types,
        codec: C,
        rules: Rules<N, P, H>,
        connections: Connections<W, C>,
    ) -> Self {
        let rules = Arc::new(rules);
        Self { types, codec, rules, connections, requests: std::marker::PhantomData }
    }
}

impl<W, C, N, S, P, H, F, R> Attach for Calls<W, C, N, P, H, R>
where
    W: Request,
    R: Request,
    C: Codec<W> + Codec<W::Response> + Codec<R> + Codec<R::Response>,
    N: Fn(&WorkerInfo) -> S + Send + Sync + 'static,
    S: Send + Sync + 'static,
    P: Fn(&S, &R) -> Permit + Send + Sync + 'static,
    H: Fn(WorkerInfo, Arc<S>, R) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
{
    fn attach(
        &self,
        rt: &Rt,
        socket: OwnedFd,
        worker: WorkerInfo,
        mut hello: Hello,
        limits: Limits,
        notify: Notify,
    ) -> Result<Attached, Error> {
        hello.types = hello.types.map(|sent| Types { context: sent.context, ..self.types.clone() });
        let link = Link::new(rt, socket, Mode::Calls, limits).map_err(cannot_watch)?;
        let link = Arc::new(link);
        link.queue(Some(Header::Hello), |draft| -> Result<(), SendError> {
            Ok(draft.encode(&Postcard, &hello)?)
        })
        .map_err(|error| {
            Error::new(crate::ErrorKind::Worker, "cannot greet it").caused_by(error)
        })?;
        link.flush_now();

        let peer = Peer::new(Arc::clone(&link), self.codec.clone());
        let listed = Listed::new(&self.connections, worker.clone(), peer);
        let (codec, rules) = (self.codec.clone(), Arc::clone(&self.rules));
        let served = Arc::clone(&link);
        let serving = rt.spawn(async move {
            let _listed = listed;
            let mut is_ready = false;
            let ready = || {
                // Said once; a worker that goes on saying so is not listened to.
                if !std::mem::replace(&mut is_ready, true) {
                    notify(News::Ready);
                }
            };
            let state = Arc::new((rules.state)(&worker));
            let (rules, worker, state) = (&*rules, &worker, &state);
            let answer =
                |request| match (rules.permit)(state, &request) {
                    // Called inside the future: a panic of the handler is then always the request's own.
                    Permit::Granted => Ok(async move {
                        (rules.handler)(worker.clone(), Arc::clone(state), request).await
                    }),
                    Permit::Denied(why) => Err(why),
                };
            let serving = serve(served, codec, answer, ready);
            notify(match serving.await {
                Ended::Closed | Ended::Here => News::Closed,
                ended => News::Violation(crate::error::chain(&ended)),
            });
        });
        Ok(Attached { link, serving })
    }

    fn says_ready(&self) -> bool {
        true
    }
}

/// Plain mode.
pub(crate) struct Plain<W, C, H, R> {
    codec: C,
    handler: Arc<H>,
    connections: Connections<W, C>,
    requests: std::marker::PhantomData<fn(R)>,
}

impl<W, C, H, R> Plain<W, C, H, R> {
    pub(crate) fn new(codec: C, handler: H, connections: Connections<W, C>) -> Self {
        Self { codec, handler: Arc::new(handler), connections, requests: std::marker::PhantomData }
    }
}

impl<W, C, H, F, R> Attach for Plain<W, C, H, R>
where
    W: Request,
    R: Request,
    C: Codec<W> + Codec<W::Response> + Codec<R> + Codec<R::Response>,
    H: Fn(WorkerInfo, R) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
{
    fn attach(
        &self,
        rt: &Rt,
        socket: OwnedFd,
        worker: WorkerInfo,
        _: Hello,
        limits: Limits,
        notify: Notify,
    ) -> Result<Attached, Error> {
        let mut server =
            Server::with_limits(rt, socket, self.codec.clone(), limits).map_err(cannot_watch)?;
        let link = server.link();
        let peer = Peer::new(Arc::clone(&link), self.codec.clone());
        let listed = Listed::new(&self.connections, worker.clone(), peer);
        let handler = Arc::clone(&self.handler);
        let serving = rt.spawn(async move {
            let _listed = listed;
            let serving = server.handle_requests(|request| handler(worker.clone(), request));
            match AssertUnwindSafe(serving).catch_unwind().await {
                // A program that does not speak to its master is free to close its input.
                Ok(Ok(()) | Err(ReadError::Ended(Ended::Here))) => {}
                Ok(Err(error)) => notify(News::Violation(crate::error::chain(&error))),
                // The worker waits for an answer, and a plain stream has no way to refuse one.
                Err(panic) => {
                    let message = crate::rt::panic_message(panic.as_ref());
                    notify(News::Violation(format!("its request's handler panicked: {message}")));
                }
            }
        });
        Ok(Attached { link, serving })
    }

    fn says_ready(&self) -> bool {
        false
    }
}
