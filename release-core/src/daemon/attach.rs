//! The master's side of one worker's connection, in call mode or plain.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};

use futures_util::FutureExt;

use super::connections::Connections;
use super::hello::{Hello, Types};
use super::{Permit, WorkerInfo};
use crate::Error;
use crate::ipc::limits::Limits;
use crate::ipc::link::frozen::Frozen;
use crate::ipc::link::{Link, Mode};
use crate::ipc::plain::Server;
use crate::ipc::serve::{Word, serve};
use crate::ipc::{
    Beat, Beats, Codec, Ended, Header, Peer, Postcard, ReadError, Refused, Request, SendError,
};
use crate::rt::{Rt, Task};
use crate::supervise::Hung;

#[cfg(test)]
mod tests;

/// What the supervisor hears from a connection.
pub(crate) type Notify = Box<dyn Fn(News) + Send + Sync>;

/// News of a worker that comes over its connection.
#[derive(Debug)]
pub(crate) enum News {
    Ready,
    /// How many units of work it has finished.
    Finished(u64),
    /// It does not get on with its work.
    Hung(Hung),
    /// The worker closed its end. It may be about to exit; if not, nobody can talk to it any more.
    Closed,
    /// The worker broke the protocol or does not read: this is what it did.
    Violation(String),
}

/// A worker's connection, and the task that serves it until it is dropped.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Gone when it has ended and nobody uses it any more.
    pub(crate) link: Weak<Link>,
    pub(crate) serving: Task<()>,
}

/// Serves the connections of a group's workers, whatever the types of their messages.
pub(crate) trait Attach: Send + Sync {
    /// Greets the worker and serves it.
    fn attach(
        &self,
        rt: &Rt,
        socket: OwnedFd,
        worker: WorkerInfo,
        hello: Hello,
        limits: Limits,
        notify: Notify,
    ) -> Result<Attached, Error>;

    /// Serves a worker that an earlier image of this process has greeted. Its `Ready` may be among
    /// what it has sent and nobody has read.
    ///
    /// The state that [`Workers::answer_permitted`](crate::Workers::answer_permitted) has for each
    /// process begins anew.
    fn reattach(
        &self,
        rt: &Rt,
        frozen: Frozen,
        worker: WorkerInfo,
        notify: Notify,
    ) -> Result<Attached, Error>;

    /// Whether workers of this kind say when they are ready; the others are in plain mode.
    fn says_ready(&self) -> bool;

    /// What workers and master tell each other, by the names of the types; no context.
    fn types(&self) -> &Types;
}

fn cannot_watch(error: std::io::Error) -> Error {
    Error::system("cannot watch a worker's socket", error)
}

/// The link, if it is one of this kind.
fn thaw(rt: &Rt, frozen: Frozen, mode: Mode) -> Result<Arc<Link>, Error> {
    if frozen.mode() != mode {
        let message = "calls and plain mode are different connections";
        return Err(Error::new(crate::ErrorKind::Protocol, message));
    }
    Link::thaw(rt, frozen).map(Arc::new)
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
        Ok(self.serve(rt, link, worker, notify))
    }

    fn reattach(
        &self,
        rt: &Rt,
        frozen: Frozen,
        worker: WorkerInfo,
        notify: Notify,
    ) -> Result<Attached, Error> {
        Ok(self.serve(rt, thaw(rt, frozen, Mode::Calls)?, worker, notify))
    }

    fn says_ready(&self) -> bool {
        true
    }

    fn types(&self) -> &Types {
        &self.types
    }
}

impl<W, C, N, S, P, H, F, R> Calls<W, C, N, P, H, R>
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
    fn serve(&self, rt: &Rt, link: Arc<Link>, worker: WorkerInfo, notify: Notify) -> Attached {
        let peer = Peer::new(Arc::clone(&link), self.codec.clone());
        let listed = Listed::new(&self.connections, worker.clone(), peer);
        let (codec, rules) = (self.codec.clone(), Arc::clone(&self.rules));
        let weak = Arc::downgrade(&link);
        let notify: Arc<dyn Fn(News) + Send + Sync> = notify.into();
        let serving = rt.spawn(async move {
            let _listed = listed;
            let beats = Arc::<Beats>::default();
            let _beating = listen_to_heart(&link, &beats, &notify);
            let mut is_ready = false;
            let heard = |word| match word {
                // Said once; a worker that goes on saying so is not listened to.
                Word::Ready if !std::mem::replace(&mut is_ready, true) => {
                    // What it did not answer while it started is not held against it.
                    beats.heard(Beat::default());
                    notify(News::Ready);
                }
                Word::Beat(beat) => {
                    notify(News::Finished(beat.finished));
                    beats.heard(beat);
                }
                Word::Ready | Word::Pulse => {}
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
            let serving = serve(Arc::clone(&link), codec, answer, heard);
            notify(match serving.await {
                Ended::Closed | Ended::Here => News::Closed,
                ended => News::Violation(crate::error::chain(&ended)),
            });
        });
        Attached { link: weak, serving }
    }
}

/// Asks a worker how its work goes, if its group wants that.
fn listen_to_heart(
    link: &Arc<Link>,
    beats: &Arc<Beats>,
    notify: &Arc<dyn Fn(News) + Send + Sync>,
) -> Option<Task<()>> {
    let pulse = link.limits().pulse?;
    let (asked, beats, notify) = (Arc::clone(link), Arc::clone(beats), Arc::clone(notify));
    let hangs = move |how| notify(News::Hung(how));
    Some(link.rt().spawn(async move { pulse.ask(&asked, &beats, hangs).await }))
}

/// Plain mode.
pub(crate) struct Plain<W, C, H, R> {
    types: Types,
    codec: C,
    handler: Arc<H>,
    connections: Connections<W, C>,
    requests: std::marker::PhantomData<fn(R)>,
}

impl<W, C, H, R> Plain<W, C, H, R> {
    pub(crate) fn new(codec: C, handler: H, connections: Connections<W, C>) -> Self {
        let (types, handler) = (Types::of::<(), R, W>(), Arc::new(handler));
        Self { types, codec, handler, connections, requests: std::marker::PhantomData }
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
        let link = Link::new(rt, socket, Mode::PlainServer, limits).map_err(cannot_watch)?;
        Ok(self.serve(rt, Arc::new(link), worker, notify))
    }

    fn reattach(
        &self,
        rt: &Rt,
        frozen: Frozen,
        worker: WorkerInfo,
        notify: Notify,
    ) -> Result<Attached, Error> {
        Ok(self.serve(rt, thaw(rt, frozen, Mode::PlainServer)?, worker, notify))
    }

    fn says_ready(&self) -> bool {
        false
    }

    fn types(&self) -> &Types {
        &self.types
    }
}

impl<W, C, H, F, R> Plain<W, C, H, R>
where
    W: Request,
    R: Request,
    C: Codec<W> + Codec<W::Response> + Codec<R> + Codec<R::Response>,
    H: Fn(WorkerInfo, R) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
{
    fn serve(&self, rt: &Rt, link: Arc<Link>, worker: WorkerInfo, notify: Notify) -> Attached {
        let weak = Arc::downgrade(&link);
        let peer = Peer::new(Arc::clone(&link), self.codec.clone());
        let mut server = Server::over(link, self.codec.clone());
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
        Attached { link: weak, serving }
    }
}
