//! The messages of a worker and its master about channels.

use std::any::type_name;
use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_util::StreamExt;
use serde::{Serialize, de::DeserializeOwned};

use super::answerer::Answerer;
use super::route::Route;
use crate::ipc::hello::Exchange;
use crate::ipc::link::Link;
use crate::ipc::service::{
    ChannelChange, ChannelRequest, LONGEST_TYPE, ServiceAnswer, ServiceRequest, WorkerKey, ask,
};
use crate::ipc::{CallError, Postcard, Refused, Request};
use crate::rt::Rt;
use crate::stopping::Stopping;
use crate::{Error, ErrorKind, WorkerInfo};

/// Time without another attempt after a channel for which there were no descriptors.
const ARRIVAL_PAUSE: Duration = Duration::from_secs(1);

/// The channels of this process.
#[derive(Default)]
pub(crate) struct WorkerChannels(Mutex<WorkerChannelsState>);

#[derive(Default)]
struct WorkerChannelsState {
    routes: BTreeMap<String, Arc<Route>>,
    answerer: Option<Arc<Answerer>>,
    /// The next message for the master; `None` before the first channel.
    agent: Option<UnboundedSender<AgentTask>>,
}

#[derive(Clone)]
/// A word for the master. Its content is determined when it is sent.
enum AgentTask {
    Calls(Arc<Route>),
    Answers(Arc<Answerer>),
    Ended(WorkerKey),
    /// All before it was told.
    Done(UnboundedSender<()>),
}

impl WorkerChannels {
    /// Returns the route to a group.
    pub(super) fn route<R>(
        self: &Arc<Self>,
        link: &Arc<Link>,
        group: &str,
    ) -> Result<Arc<Route>, Error>
    where
        R: Request + Serialize + DeserializeOwned,
        R::Response: Serialize + DeserializeOwned,
    {
        let (types, name) = (checked::<R>()?, type_name::<R>());
        let agent = self.agent(link);
        let mut state = self.lock();
        if let Some(route) = state.routes.get(group) {
            if route.name() == name {
                return Ok(Arc::clone(route));
            }
            let message = format!(
                "this worker calls group `{group}` with requests of type `{}` already: use one type, \
                 such as one of `requests!`, in place of another `{name}`",
                route.name()
            );
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let ended = agent.clone();
        // Without an agent, the master is gone.
        let on_end = move |worker| drop(ended.unbounded_send(AgentTask::Ended(worker)));
        let route = Route::new((group, name), types, link.rt().clone(), Box::new(on_end));
        let route = Arc::new(route);
        state.routes.insert(group.to_owned(), Arc::clone(&route));
        let _ = agent.unbounded_send(AgentTask::Calls(Arc::clone(&route)));
        Ok(route)
    }

    /// Answers the calls of other workers.
    pub(super) fn answer<R, H, F>(
        self: &Arc<Self>,
        link: &Arc<Link>,
        handler: H,
    ) -> Result<(), Error>
    where
        R: Request + Serialize + DeserializeOwned,
        R::Response: Serialize + DeserializeOwned,
        H: Fn(WorkerInfo, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        let types = checked::<R>()?.encoded(LONGEST_TYPE).map_err(|error| {
            Error::new(ErrorKind::Usage, "the types of a channel cannot be sent").caused_by(error)
        })?;
        let agent = self.agent(link);
        let mut state = self.lock();
        if state.answerer.is_some() {
            let message = "this worker answers the calls of other workers already: use one type of \
                           requests, such as one of `requests!`";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let answerer = Arc::new(Answerer::new(link.rt(), types, handler));
        state.answerer = Some(Arc::clone(&answerer));
        let _ = agent.unbounded_send(AgentTask::Answers(answerer));
        Ok(())
    }

    /// Finishes the calls in hand, after the main function.
    pub(crate) async fn finish(&self, rt: &Rt, stopping: &Stopping) {
        let answerer = self.lock().answerer.clone();
        if let Some(answerer) = answerer {
            answerer.finish(rt, stopping).await;
        }
    }

    /// Starts the tasks that speak with the master, unless they run.
    fn agent(self: &Arc<Self>, link: &Arc<Link>) -> UnboundedSender<AgentTask> {
        let mut state = self.lock();
        if let Some(agent) = &state.agent {
            return agent.clone();
        }
        let (agent, tasks) = unbounded();
        state.agent = Some(agent.clone());
        drop(state);
        let rt = link.rt();
        rt.spawn(tell(Arc::clone(link), tasks)).detach();
        rt.spawn(listen(Arc::clone(self), Arc::clone(link))).detach();
        agent
    }

    /// Carries out a change that the master has made.
    fn changed(&self, rt: &Rt, change: ChannelChange) {
        match change {
            ChannelChange::Opened { group, worker, types, socket } => {
                let route = self.lock().routes.get(&group).cloned();
                if let Some(route) = route {
                    route.opened(worker, &types, OwnedFd::from(socket));
                }
            }
            ChannelChange::Accepted { group, generation, caller: (id, pid), socket } => {
                let caller =
                    WorkerInfo { id, pid, group: group.into(), generation, rt: rt.clone() };
                let answerer = self.lock().answerer.clone();
                if let Some(answerer) = answerer {
                    answerer.accepted(caller, OwnedFd::from(socket));
                }
            }
            ChannelChange::Leaving { worker } => {
                self.routes().iter().for_each(|route| route.leaving(worker));
            }
        }
    }

    /// Tells the master everything, and waits until that is done: the channels would otherwise change
    /// meanwhile.
    async fn tell_again(&self) {
        let (done, mut is_done) = unbounded();
        {
            let state = self.lock();
            let calls = state.routes.values().map(|route| AgentTask::Calls(Arc::clone(route)));
            let answers = state.answerer.iter().map(|it| AgentTask::Answers(Arc::clone(it)));
            for task in calls.chain(answers).chain([AgentTask::Done(done)]) {
                state.agent.iter().for_each(|agent| drop(agent.unbounded_send(task.clone())));
            }
        }
        let _ = is_done.next().await;
    }

    fn routes(&self) -> Vec<Arc<Route>> {
        self.lock().routes.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, WorkerChannelsState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the types of a channel, if they can be sent.
fn checked<R>() -> Result<Exchange, Error>
where
    R: Request + Serialize + DeserializeOwned,
    R::Response: Serialize + DeserializeOwned,
{
    let types = Exchange::of::<R, Postcard>(&Postcard);
    types.check().map(|()| types)
}

/// Waits for changes until the master is gone.
async fn listen(channels: Arc<WorkerChannels>, link: Arc<Link>) {
    let why = loop {
        match ask(&link, &ServiceRequest::Channel(ChannelRequest::Next)).await {
            Ok(ServiceAnswer::Channel(change)) => channels.changed(link.rt(), change),
            Ok(ServiceAnswer::Again) => channels.tell_again().await,
            // This process has no free descriptors. The master hears what it has, and makes the lost
            // channel again.
            Err(CallError::Codec(error)) => {
                log_warning!(%error, "a channel did not arrive");
                link.rt().sleep(ARRIVAL_PAUSE).await;
                channels.tell_again().await;
            }
            // Each route hears why it is refused.
            Ok(_) | Err(CallError::NotUnderstood(_)) => return,
            Err(error) => break error,
        }
    };
    channels.routes().iter().for_each(|route| route.close(why.clone()));
}

/// Tells the master, one word after the other.
async fn tell(link: Arc<Link>, mut tasks: UnboundedReceiver<AgentTask>) {
    while let Some(task) = tasks.next().await {
        let request = match &task {
            AgentTask::Calls(route) => {
                let (group, held) = (route.group().to_owned(), route.held());
                ChannelRequest::Call { group, held }
            }
            AgentTask::Answers(answerer) => ChannelRequest::Answer { types: answerer.types() },
            AgentTask::Ended(worker) => ChannelRequest::Ended { worker: *worker },
            AgentTask::Done(done) => {
                let _ = done.unbounded_send(());
                continue;
            }
        };
        match (ask(&link, &ServiceRequest::Channel(request)).await, task) {
            (Ok(ServiceAnswer::Done), _) => {}
            (Err(error @ CallError::Ended(_)), AgentTask::Calls(route)) => route.close(error),
            (Err(CallError::Ended(_)), _) => {}
            (_, AgentTask::Calls(route)) => route.close(CallError::Refused(format!(
                "the master permits no calls of this group to `{}`; call `Workers::channel_to` there",
                route.group()
            ))),
            (_, AgentTask::Answers(_)) => {
                log_warning!("no group may call this one; call `Workers::channel_to` in the master");
            }
            (_, AgentTask::Ended(_) | AgentTask::Done(_)) => {}
        }
    }
}
