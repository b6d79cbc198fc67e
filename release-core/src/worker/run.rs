//! Runs a worker's main function, in call mode or plain mode.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};

use serde::{Serialize, de::DeserializeOwned};

use super::enter::no_io;
use super::greeting::{check_hello, greeted, take_listeners};
use super::in_flight::InFlight;
use super::{Me, PlainMe, Worker};
use crate::exit::Exit;
use crate::ipc::hello::{Agreed, Message, Types};
use crate::ipc::link::{Link, Mode};
use crate::ipc::plain::Client;
use crate::ipc::serve::{ControlFrame, serve};
use crate::ipc::{Codec, Header, Never, Peer, Postcard, Refused, Request, SendError};
use crate::rt::{Driver, Rt, Task};
use crate::signals::Signals;
use crate::stopping::{Stop, stop_channel};
use crate::sys::signal::Caught;
use crate::worker::panics;
use crate::{Error, ErrorKind};

impl<C> Worker<C> {
    /// Runs a worker in call mode that answers no requests of its master. See
    /// [`Worker::run_answering`] for the steps and the requirements.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::ipc::SendError;
    /// use release_core::rt::local::Local;
    /// use release_core::{Exit, Me, me};
    ///
    /// async fn worker(me: Me) -> Result<(), SendError> {
    ///     me.ready()?;
    ///     me.stopping().await;
    ///     Ok(())
    /// }
    ///
    /// fn main() -> Exit {
    ///     me().user("nobody").run(Local::new, worker)
    /// }
    /// ```
    pub fn run<D, Context, M, F, E>(
        self,
        driver: impl FnOnce() -> io::Result<D>,
        main: impl FnOnce(Me<Context, M, C>) -> F,
    ) -> Exit
    where
        D: Driver,
        Context: Serialize + DeserializeOwned,
        M: Request,
        C: Codec<M> + Codec<M::Response> + Codec<Never> + Codec<()>,
        F: Future<Output = Result<(), E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let refuse = |never: Never| async move { match never {} };
        self.run_answering(driver, refuse, main)
    }

    /// Runs a worker in call mode: drops privileges, receives the master's greeting, answers its
    /// requests with `answer`, and runs `main`. The process ends when `main` returns.
    ///
    /// `main` should call [`Me::ready`] when it serves, and return soon after [`Me::stopping`]
    /// completes. The types must match the types of the master's group. Call this first in your `main`:
    /// no thread may exist.
    ///
    /// # Examples
    ///
    /// `answer` has neither the runtime nor the [`Me`]. Pass on requests that need them to `main`
    /// through a channel; here, a connection accepted by the master:
    ///
    /// ```no_run
    /// use std::os::fd::OwnedFd;
    /// use futures_channel::mpsc;
    /// use futures_util::StreamExt;
    /// use release_core::ipc::{Descriptor, Never, Request};
    /// use release_core::net::Stream;
    /// use release_core::rt::local::Local;
    /// use release_core::{Exit, Me, me};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Serve(Descriptor);
    ///
    /// impl Request for Serve {
    ///     type Response = ();
    /// }
    ///
    /// fn worker() -> Exit {
    ///     let (give, clients) = mpsc::unbounded();
    ///     let answer = move |Serve(client)| {
    ///         let given = give.unbounded_send(OwnedFd::from(client));
    ///         async move { Ok(given?) }
    ///     };
    ///     me().descriptors(1).run_answering(Local::new, answer, |me: Me<(), Never>| async move {
    ///         me.ready()?;
    ///         let mut clients = clients.take_until(me.stopping());
    ///         while let Some(client) = clients.next().await {
    ///             Stream::new(me.rt(), client)?.write_all(b"hello\n").await?;
    ///         }
    ///         Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    ///     })
    /// }
    /// # let _ = worker;
    /// ```
    pub fn run_answering<D, Context, M, W, H, A, F, E>(
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
        let (codec, limits) = (self.codec.clone(), self.limits);
        self.in_driver(driver, async |rt: Rt, socket, caught| {
            let limits = limits.of_worker();
            let link = Arc::new(Link::new(&rt, socket, Mode::Calls, limits).map_err(no_io)?);
            let hello = greeted(&link).await?;
            panics::of_worker(hello.worker);
            let types = Types::of::<M, W, C>(Message::of::<Context>(&Postcard), &codec);
            let context = check_hello(&hello, &types, Agreed::of(limits))?;
            let (stop, stopping) = stop_channel();
            let stop = Arc::new(stop);
            let signals = watch_signals(&rt, caught, &stop)?;
            let in_flight = Arc::<InFlight>::default();
            let serving = {
                let (link, codec, stop) = (Arc::clone(&link), codec.clone(), Arc::clone(&stop));
                let in_flight = Arc::clone(&in_flight);
                rt.spawn(async move {
                    let answer = |request| Ok(answer(request));
                    let heard = |word| {
                        if let ControlFrame::Heartbeat = word {
                            reply_to_heartbeat(&link, &in_flight);
                        }
                    };
                    let ended = serve(Arc::clone(&link), codec, answer, heard).await;
                    tracing::debug!(%ended, "the connection to the master has ended");
                    stop.now();
                })
            };
            let me = Me {
                id: hello.worker,
                generation: hello.generation,
                group: hello.group,
                context,
                listeners: Mutex::new(take_listeners(hello.listeners)?),
                master: Peer::new(Arc::clone(&link), codec),
                link,
                in_flight,
                stopping,
                rt,
                _tasks: [signals, serving],
            };
            main(me).await.map_err(program_failed)
        })
    }

    /// Runs a worker in plain mode, for masters of the OCaml library and masters in other
    /// languages.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use release_core::ipc::Text;
    /// use release_core::rt::local::Local;
    /// use release_core::{Exit, PlainMe, me};
    ///
    /// fn main() -> Exit {
    ///     me().codec(Text).run_plain(Local::new, |me: PlainMe<String, Text>| async move {
    ///         let answer = me.master().call(&"which colour?".to_owned()).await?;
    ///         tracing::info!(answer);
    ///         Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    ///     })
    /// }
    /// ```
    pub fn run_plain<D, M, F, E>(
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
