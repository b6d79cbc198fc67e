//! Serves the master's side of a connection in call mode.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use super::{
    Attach, Attached, NewConnection, Notify, Registration, WorkerEvent, cannot_watch, thaw,
};
use crate::guard::Guard;
use crate::ipc::hello::{Hello, Types};
use crate::ipc::link::frozen::Frozen;
use crate::ipc::link::{Link, Mode};
use crate::ipc::serve::{Heard, serve};
use crate::ipc::{
    Codec, Ended, Header, HeartbeatReply, Peer, Postcard, Refused, Request, SendError,
};
use crate::process::connections::Connections;
use crate::process::heartbeat::{LatestReply, ask};
use crate::process::services::{GroupServices, ServiceMembership};
use crate::process::worker_info::WorkerInfo;
use crate::rt::Task;
use crate::{Error, ErrorKind};

const STATE: Guard = Guard::new("answer_permitted's state");
const PERMIT: Guard = Guard::new("answer_permitted's rule");
const ANSWER: Guard = Guard::new("answer");

/// Whether a request of a worker is permitted now. Returned by the rule of
/// [`Workers::answer_permitted`].
///
/// [`Workers::answer_permitted`]: crate::Workers::answer_permitted
///
/// # Examples
///
/// ```
/// use release_core::{Decision, Workers};
///
/// let workers = Workers::same_executable("mail", 2).user("nobody").answer_permitted(
///     |worker| worker.id == 0,
///     |is_first, question: &String| match question.as_str() {
///         "time" => Decision::Allow,
///         "backup" => Decision::only_if(*is_first, "a backup by another worker than the first"),
///         _ => Decision::Deny("an unknown question"),
///     },
///     |_worker, _is_first, question: String| async move { Ok(format!("{question}: done")) },
/// );
/// # let _ = workers;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// The request is permitted.
    Allow,
    /// The request is not permitted: the worker is killed, and this text is logged.
    Deny(&'static str),
}

impl Decision {
    /// Allows the request if `so` holds, and otherwise denies it with the text of `otherwise`.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Decision;
    ///
    /// assert_eq!(Decision::only_if(true, "a second login"), Decision::Allow);
    /// assert_eq!(Decision::only_if(false, "a second login"), Decision::Deny("a second login"));
    /// ```
    #[must_use]
    pub fn only_if(so: bool, otherwise: &'static str) -> Self {
        if so { Self::Allow } else { Self::Deny(otherwise) }
    }
}

/// The functions of the program that handle requests of workers in call mode.
pub(crate) struct Rules<N, P, H> {
    /// Creates the state of a new process.
    pub(crate) state: N,
    /// Decides whether a request is permitted in that state.
    pub(crate) permit: P,
    pub(crate) handler: H,
}

/// Serves connections in call mode.
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
        worker: WorkerInfo,
        connection: NewConnection,
        notify: Notify,
    ) -> Result<Attached, Error> {
        let NewConnection { socket, mut hello, limits, services } = connection;
        hello.types = hello.types.map(|sent| Box::new(self.types.with_context(&sent.context)));
        let link = Link::new(worker.rt(), socket, Mode::Calls, limits).map_err(cannot_watch)?;
        let link = Arc::new(link);
        let greet = |hello: &Hello| {
            link.queue(Some(Header::Hello), |draft| -> Result<(), SendError> {
                Ok(draft.encode(&Postcard, hello)?)
            })
        };
        let greeted = greet(&hello).or_else(|error| match (error, hello.types.take()) {
            // A frame that is too short for the structure of the types contains only their names.
            (SendError::TooLong(_), Some(types)) => {
                hello.types = Some(Box::new(types.names()));
                greet(&hello)
            }
            (error, _) => Err(error),
        });
        greeted
            .map_err(|error| Error::new(ErrorKind::Worker, "cannot greet it").caused_by(error))?;
        link.flush_now();
        link.ask_for_rings();
        Ok(self.serve(link, worker, services, notify))
    }

    fn reattach(
        &self,
        worker: WorkerInfo,
        frozen: Frozen,
        services: GroupServices,
        notify: Notify,
    ) -> Result<Attached, Error> {
        let link = thaw(worker.rt(), frozen, Mode::Calls)?;
        Ok(self.serve(link, worker, services, notify))
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
    fn serve(
        &self,
        link: Arc<Link>,
        worker: WorkerInfo,
        services: GroupServices,
        notify: Notify,
    ) -> Attached {
        let services = services.connected(&worker, &link);
        let peer = Peer::new(Arc::clone(&link), self.codec.clone());
        let registration = Registration::new(&self.connections, worker.clone(), peer);
        let (codec, rules) = (self.codec.clone(), Arc::clone(&self.rules));
        let weak = Arc::downgrade(&link);
        let notify: Arc<dyn Fn(WorkerEvent) + Send + Sync> = notify.into();
        let rt = worker.rt().clone();
        // Now, and not in the task: the generation that serves may change before that is polled.
        let state = STATE.call(|| Arc::new((rules.state)(&worker)));
        let serving = rt.spawn(async move {
            let _registration = registration;
            let latest = Arc::<LatestReply>::default();
            let _heartbeat = start_heartbeat(&link, &latest, &notify);
            let mut control = WorkerControl::new(&worker, &latest, &*notify, services);
            let heard = |word| control.hear(word);
            let state = match state {
                Ok(state) => state,
                Err(panicked) => {
                    link.end(Ended::Here);
                    return notify(WorkerEvent::Violation(panicked.to_string()));
                }
            };
            let (rules, state, worker) = (&*rules, &state, &worker);
            let answer = |request| match permitted(rules, state, &request) {
                Decision::Allow => Ok(async move {
                    let handling = || (rules.handler)(worker.clone(), Arc::clone(state), request);
                    ANSWER.run(handling).await.unwrap_or_else(|panicked| {
                        log_error!(worker = worker.id, pid = worker.pid, reason = %panicked, "a request's handler panicked");
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

/// Handles what a worker says beside its requests.
struct WorkerControl<'a> {
    worker: &'a WorkerInfo,
    latest: &'a LatestReply,
    notify: &'a (dyn Fn(WorkerEvent) + Send + Sync),
    services: ServiceMembership,
    is_ready: bool,
}

impl<'a> WorkerControl<'a> {
    fn new(
        worker: &'a WorkerInfo,
        latest: &'a LatestReply,
        notify: &'a (dyn Fn(WorkerEvent) + Send + Sync),
        services: ServiceMembership,
    ) -> Self {
        Self { worker, latest, notify, services, is_ready: false }
    }

    fn hear(&mut self, word: Heard) {
        match word {
            // Reported once; repetitions are ignored.
            Heard::Ready if !std::mem::replace(&mut self.is_ready, true) => {
                // A worker that starts need not answer heartbeats; missing replies do not count.
                self.latest.heard(HeartbeatReply::default());
                (self.notify)(WorkerEvent::Ready);
            }
            Heard::HeartbeatReply(reply) => {
                (self.notify)(WorkerEvent::Finished(reply.finished));
                self.latest.heard(reply);
            }
            Heard::NotUnderstood { why, unsaid } => {
                let WorkerInfo { id, pid, .. } = self.worker;
                log_warning!(
                    worker = id,
                    pid,
                    why,
                    unsaid,
                    "a message of this worker has another type: it is not handled"
                );
            }
            Heard::Service(number, request) => self.services.asked(number, *request),
            Heard::Cancelled(number) => self.services.cancelled(number),
            Heard::Ready | Heard::Heartbeat => {}
        }
    }
}

/// Applies the rule. A rule that panics denies the request.
fn permitted<N, S, P, H, R>(rules: &Rules<N, P, H>, state: &S, request: &R) -> Decision
where
    P: Fn(&S, &R) -> Decision,
{
    PERMIT.call(|| (rules.permit)(state, request)).unwrap_or_else(|panicked| {
        log_error!(reason = %panicked, "a request was not permitted");
        Decision::Deny("the rule of `answer_permitted` panicked")
    })
}

/// Sends heartbeats to a worker, if its group has a heartbeat.
fn start_heartbeat(
    link: &Arc<Link>,
    latest: &Arc<LatestReply>,
    notify: &Arc<dyn Fn(WorkerEvent) + Send + Sync>,
) -> Option<Task<()>> {
    let heartbeat = link.limits().pulse?;
    let (asked, latest, notify) = (Arc::clone(link), Arc::clone(latest), Arc::clone(notify));
    let hangs = move |how| notify(WorkerEvent::Hung(how));
    Some(link.rt().spawn(async move { ask(heartbeat, &asked, &latest, hangs).await }))
}
