//! Where a worker's process begins: its own main function, or that of the status page.

use std::future::Future;
use std::io;

use serde::{Serialize, de::DeserializeOwned};

use crate::exit::Exit;
use crate::ipc::{Codec, Never, Refused, Request};
#[cfg(feature = "http")]
use crate::master::status_page;
use crate::rt::Driver;
use crate::worker::{Me, PlainMe, Worker};

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
    /// no thread may exist. Start threads of your own in `driver`: see
    /// [`Master::run`](crate::Master::run).
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
        #[cfg(feature = "http")]
        if status_page::is_here() {
            return status_page::run(driver);
        }
        self.serve_calls(driver, answer, main)
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
        #[cfg(feature = "http")]
        if status_page::is_here() {
            return status_page::run(driver);
        }
        self.serve_plain(driver, main)
    }
}
