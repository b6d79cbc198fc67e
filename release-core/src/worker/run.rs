//! Runs a worker's main function, in call mode or plain mode.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_channel::oneshot;
use serde::{Serialize, de::DeserializeOwned};

use super::channels::WorkerChannels;
use super::enter::no_io;
use super::greeting::{check_hello, greeted, take_listeners, take_metrics};
use super::in_flight::InFlight;
use super::me::WorkerData;
use super::{Me, PlainMe, Worker};
use crate::exit::Exit;
use crate::ipc::hello::{Agreed, MessageType, Types};
use crate::ipc::link::{Link, Mode};
use crate::ipc::plain::Client;
use crate::ipc::serve::{Heard, serve, serve_until};
use crate::ipc::{Codec, Ended, Header, Peer, Postcard, Refused, Request, SendError};
use crate::rt::{Driver, Rt, Task};
use crate::signals::Signals;
use crate::stopping::{Stop, stop_channel};
use crate::sys::signal::Caught;
use crate::worker::panics;
use crate::{Error, ErrorKind};

/// Time to send the last answers to the master.
const LAST_ANSWERS_TIME: Duration = Duration::from_secs(1);

impl<C> Worker<C> {
    /// Runs this process in call mode: see [`Worker::run_answering`].
    pub(crate) fn serve_calls<D, Context, M, W, H, A, F, E>(
        self,
        driver: impl FnOnce() -> io::Result<D>,
        answer: H,
        main: impl FnOnce(Me<Context, M, C>) -> F,
    ) -> Exit
    where
        D: Driver,
        Context: Serialize + DeserializeOwned,
        M: Request,
        W: Request,
        C: Codec<M> + Codec<M::Response> + Codec<W> + Codec<W::Response>,
        H: Fn(W) -> A + Send + Sync + 'static,
        A: Future<Output = Result<W::Response, Refused>> + Send + 'static,
        F: Future<Output = Result<(), E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (codec, limits) = (self.codec.clone(), self.limits.of_worker());
        self.in_driver(driver, async |rt: Rt, socket, caught| {
            let link = Arc::new(Link::new(&rt, socket, Mode::Calls, limits).map_err(no_io)?);
            let hello = greeted(&link).await?;
            panics::of_worker(hello.worker);
            let types = Types::of::<M, W, C>(MessageType::of::<Context>(&Postcard), &codec);
            let context = check_hello(&hello, &types, Agreed::of(limits))?;
            link.ask_for_rings();
            let (stop, stopping) = stop_channel();
            let (stop, in_flight) = (Arc::new(stop), Arc::<InFlight>::default());
            let _signals = watch_signals(&rt, caught, &stop)?;
            let (finish, finishing) = oneshot::channel::<()>();
            let answer = move |request| Ok(answer(request));
            let (its, own) = (Arc::clone(&link), Arc::clone(&in_flight));
            let heard = move |heard| hear(heard, &its, &own);
            let serving = serve(Arc::clone(&link), codec.clone(), answer, heard);
            let serving = serve_master(Arc::clone(&link), serving, finishing, Arc::clone(&stop));
            let serving = rt.spawn(serving);
            let master = Peer::new(Arc::clone(&link), codec);
            let me = WorkerData {
                id: hello.worker,
                generation: hello.generation,
                group: hello.group,
                context,
                listeners: Mutex::new(take_metrics(take_listeners(hello.listeners)?)),
                link,
                in_flight,
                hand_on: Arc::default(),
                channels: Arc::<WorkerChannels>::default(),
                stopping,
                rt,
            };
            let (channels, rt, stopping) =
                (Arc::clone(&me.channels), me.rt.clone(), me.stopping.clone());
            let outcome = main(Me::new(Arc::new(me), master)).await;
            channels.finish(&rt, &stopping).await;
            drop(finish);
            // Its master may be stopped, and read nothing.
            let _ = rt.timeout(LAST_ANSWERS_TIME, serving).await;
            outcome.map_err(program_failed)
        })
    }

    /// Runs this process in plain mode: see [`Worker::run_plain`].
    pub(crate) fn serve_plain<D, M, F, E>(
        self,
        driver: impl FnOnce() -> io::Result<D>,
        main: impl FnOnce(PlainMe<M, C>) -> F,
    ) -> Exit
    where
        D: Driver,
        M: Request,
        C: Codec<M> + Codec<M::Response>,
        F: Future<Output = Result<(), E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (codec, limits) = (self.codec.clone(), self.limits);
        self.in_driver(driver, async |rt: Rt, socket, caught| {
            let (stop, stopping) = stop_channel();
            let stop = Arc::new(stop);
            let signals = watch_signals(&rt, caught, &stop)?;
            let master =
                Client::with_end(&rt, socket, codec, limits, move || stop.now()).map_err(no_io)?;
            main(PlainMe { master, stopping, rt, _signals: signals }).await.map_err(program_failed)
        })
    }
}

fn program_failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Program, "the worker's main function failed").caused_by(error)
}

/// Answers the master until `finishing` completes or the connection ends. The worker stops then.
async fn serve_master(
    link: Arc<Link>,
    serving: impl Future<Output = Ended>,
    finishing: oneshot::Receiver<()>,
    stop: Arc<Stop>,
) {
    if let Some(ended) = serve_until(&link, serving, finishing).await {
        tracing::debug!(%ended, "the connection to the master has ended");
    }
    stop.now();
}

/// Handles what the master says beside requests.
fn hear(heard: Heard, link: &Link, in_flight: &InFlight) {
    match heard {
        Heard::Heartbeat => reply_to_heartbeat(link, in_flight),
        Heard::NotUnderstood { why, unsaid } => {
            log_warning!(
                why,
                unsaid,
                "a message of the master has another type: it is not handled"
            );
        }
        Heard::Service(..) => link.end(Ended::Violation("a request for a master")),
        Heard::Ready | Heard::HeartbeatReply(_) | Heard::Cancelled(_) => {}
    }
}

/// Answers the master's heartbeat. The reply is sent together with other pending messages.
fn reply_to_heartbeat(link: &Link, in_flight: &InFlight) {
    let reply = Header::HeartbeatReply { reply: in_flight.reply(link.rt().now()) };
    // A connection that has ended needs no reply.
    let _ = link.queue(Some(reply), |_| Ok::<(), SendError>(()));
}

/// Treats TERM and INT as requests to shut down.
fn watch_signals(rt: &Rt, caught: Caught, stop: &Arc<Stop>) -> Result<Task<()>, Error> {
    let signals = Signals::watch(rt, caught)
        .map_err(|error| Error::system("cannot watch for signals", error))?;
    let stop = Arc::clone(stop);
    Ok(rt.spawn(async move {
        if signals.next().await.is_ok() {
            stop.now();
        }
        // Caught for the worker's whole life: a second signal must not kill it during its final
        // work.
        std::future::pending::<()>().await;
    }))
}
