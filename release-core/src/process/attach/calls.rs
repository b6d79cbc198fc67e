//! The master's side of a connection in call mode.

use std::future::Future;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{Attach, Attached, Listed, Notify, WorkerEvent, cannot_watch, thaw};
use crate::guard::Guard;
use crate::ipc::hello::{Hello, Types};
use crate::ipc::limits::Limits;
use crate::ipc::link::frozen::Frozen;
use crate::ipc::link::{Link, Mode};
use crate::ipc::serve::{ControlFrame, serve};
use crate::ipc::{
    Codec, Ended, Header, HeartbeatReply, Peer, Postcard, Refused, Request, SendError,
};
use crate::process::connections::Connections;
use crate::process::decision::Decision;
use crate::process::heartbeat::{LatestReply, ask};
use crate::process::worker_info::WorkerInfo;
use crate::rt::{Rt, Task};
use crate::{Error, ErrorKind};

const STATE: Guard = Guard::new("answer_permitted's state");
const PERMIT: Guard = Guard::new("answer_permitted's rule");
const ANSWER: Guard = Guard::new("answer");

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
    requests: PhantomData<fn(R)>,
}

impl<W, C, N, P, H, R> Calls<W, C, N, P, H, R> {
    pub(crate) fn new(
        types: Types,
        codec: C,
        rules: Rules<N, P, H>,
        connections: Connections<W, C>,
    ) -> Self {
        let rules = Arc::new(rules);
        Self { types, codec, rules, connections, requests: PhantomData }
    }
}

impl<W, C, N, S, P, H, F, R> Attach for Calls<W, C, N, P, H, R>
where
    W: Request,
    R: Request,
    C: Codec<W> + Codec<W::Response> + Codec<R> + Codec<R::Response>,
    N: Fn(&WorkerInfo) -> S + Send + Sync + 'static,
    S: Send + Sync + 'static,
    P: Fn(&S, &R) -> Decision + Send + Sync + 'static,
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
        hello.types = hello.types.map(|sent| Box::new(self.types.with_context(&sent.context)));
        let link = Link::new(rt, socket, Mode::Calls, limits).map_err(cannot_watch)?;
        let link = Arc::new(link);
        let greet = |hello: &Hello| {
            link.queue(Some(Header::Hello), |draft| -> Result<(), SendError> {
                Ok(draft.encode(&Postcard, hello)?)
            })
        };
        let greeted = greet(&hello).or_else(|error| match (error, hello.types.take()) {
            // Where frames are short the names have to do.
            (SendError::TooLong(_), Some(types)) => {
                hello.types = Some(Box::new(types.names()));
                greet(&hello)
            }
            (error, _) => Err(error),
        });
        greeted
            .map_err(|error| Error::new(ErrorKind::Worker, "cannot greet it").caused_by(error))?;
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
    P: Fn(&S, &R) -> Decision + Send + Sync + 'static,
    H: Fn(WorkerInfo, Arc<S>, R) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
{
    fn serve(&self, rt: &Rt, link: Arc<Link>, worker: WorkerInfo, notify: Notify) -> Attached {
        let peer = Peer::new(Arc::clone(&link), self.codec.clone());
        let listed = Listed::new(&self.connections, worker.clone(), peer);
        let (codec, rules) = (self.codec.clone(), Arc::clone(&self.rules));
        let weak = Arc::downgrade(&link);
        let notify: Arc<dyn Fn(WorkerEvent) + Send + Sync> = notify.into();
        let serving = rt.spawn(async move {
            let _listed = listed;
            let latest = Arc::<LatestReply>::default();
            let _beating = listen_to_heart(&link, &latest, &notify);
            let mut is_ready = false;
            let heard = |word| match word {
                // Said once; a worker that goes on saying so is not listened to.
                ControlFrame::Ready if !std::mem::replace(&mut is_ready, true) => {
                    // What it did not answer while it started is not held against it.
                    latest.heard(HeartbeatReply::default());
                    notify(WorkerEvent::Ready);
                }
                ControlFrame::HeartbeatReply(reply) => {
                    notify(WorkerEvent::Finished(reply.finished));
                    latest.heard(reply);
                }
                ControlFrame::Ready | ControlFrame::Heartbeat => {}
            };
            let state = match STATE.call(|| Arc::new((rules.state)(&worker))) {
                Ok(state) => state,
                Err(panicked) => {
                    link.end(Ended::Here);
                    return notify(WorkerEvent::Violation(panicked.to_string()));
                }
            };
            let (rules, worker, state) = (&*rules, &worker, &state);
            let answer = |request| match permitted(rules, state, &request) {
                Decision::Allow => Ok(async move {
                    let handling = || (rules.handler)(worker.clone(), Arc::clone(state), request);
                    ANSWER.run(handling).await.unwrap_or_else(|panicked| {
                        tracing::error!(worker = worker.id, pid = worker.pid, reason = %panicked, "a request's handler panicked");
                        Err(Refused::new("the handler panicked"))
                    })
                }),
                Decision::Deny(why) => Err(why),
            };
            let serving = serve(Arc::clone(&link), codec, answer, heard);
            notify(match serving.await {
                Ended::Closed | Ended::Here => WorkerEvent::Closed("its connection"),
                ended => WorkerEvent::Violation(crate::error::chain(&ended)),
            });
        });
        Attached { link: weak, serving }
    }
}

/// A rule that panics has permitted nothing.
fn permitted<N, S, P, H, R>(rules: &Rules<N, P, H>, state: &S, request: &R) -> Decision
where
    P: Fn(&S, &R) -> Decision,
{
    PERMIT.call(|| (rules.permit)(state, request)).unwrap_or_else(|panicked| {
        tracing::error!(reason = %panicked, "a request was not permitted");
        Decision::Deny("the rule of `answer_permitted` panicked")
    })
}

/// Asks a worker how its work goes, if its group wants that.
fn listen_to_heart(
    link: &Arc<Link>,
    latest: &Arc<LatestReply>,
    notify: &Arc<dyn Fn(WorkerEvent) + Send + Sync>,
) -> Option<Task<()>> {
    let pulse = link.limits().pulse?;
    let (asked, latest, notify) = (Arc::clone(link), Arc::clone(latest), Arc::clone(notify));
    let hangs = move |how| notify(WorkerEvent::Hung(how));
    Some(link.rt().spawn(async move { ask(pulse, &asked, &latest, hangs).await }))
}
