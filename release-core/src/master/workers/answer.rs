//! Answers to the workers' requests, and the requests that are permitted.

use std::future::Future;
use std::sync::Arc;

use super::Workers;
use crate::Decision;
use crate::WorkerInfo;
use crate::ipc::hello::{Message, Types};
use crate::ipc::{Codec, Postcard, Refused, Request};
use crate::process::attach::{Calls, Plain, Rules};

impl<W: Request, C: Codec<W> + Codec<W::Response>> Workers<W, C> {
    /// Sets the handler of these workers' requests, many of which may be in flight.
    ///
    /// Handlers run on the threads of the master's runtime. tokio's and smol's drivers have one thread:
    /// a handler that blocks (name lookups, PAM, slow files) keeps the master from other requests,
    /// signals and the deaths of workers. From one second on the log reports it: "the master was busy
    /// for 3.0 s". Run blocking code in [`Rt::unblock`](crate::rt::Rt::unblock).
    ///
    /// A handler that panics refuses its request.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::ToSocketAddrs;
    /// use release_core::Workers;
    ///
    /// let workers = Workers::same_executable("resolver", 2).user("nobody").answer(
    ///     |worker, host: String| async move {
    ///         let look_up = move || (host, 80).to_socket_addrs().map(Iterator::count);
    ///         let found = worker.rt().unblock(look_up).await??;
    ///         Ok(format!("{found} addresses"))
    ///     },
    /// );
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn answer<R, H, F>(self, handler: H) -> Self
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        H: Fn(WorkerInfo, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        let rules = Rules {
            state: |_: &WorkerInfo| (),
            permit: |(): &(), _: &R| Decision::Allow,
            handler: move |worker, _: Arc<()>, request| handler(worker, request),
        };
        self.attach_calls(rules)
    }

    /// Sets the handler, like [`answer`](Workers::answer), and decides which requests are permitted:
    /// now, once, or never.
    ///
    /// A compromised worker sends requests that its program would not send. Every process has its own
    /// state, from `state`; `permit` checks that state before `handler` is called, for requests and
    /// notices alike, and the handler may change it. A worker that sends a request that is not
    /// permitted is killed and replaced, with the reason in the log, and receives no answer. A refusal
    /// of the handler, in contrast, is an ordinary answer.
    ///
    /// In plain mode a refusal of the handler has the same effect as a request that is not permitted.
    ///
    /// When the master upgrades itself in place, the state of every process starts again: a request
    /// that was permitted once is permitted once more, and a login is forgotten. Keep state that must
    /// outlive the upgrade in the worker's requests, or in a file.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// use release_core::{Decision, Workers};
    /// use release_core::ipc::Request;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// enum Ask {
    ///     LogIn { password: String },
    ///     ReadMail,
    ///     Reboot,
    /// }
    /// impl Request for Ask {
    ///     type Response = bool;
    /// }
    ///
    /// #[derive(Default)]
    /// struct Session {
    ///     tried: AtomicBool,
    ///     is_in: AtomicBool,
    /// }
    ///
    /// let workers = Workers::same_executable("mail", 2).user("nobody").answer_permitted(
    ///     |_| Session::default(),
    ///     |session, ask| match ask {
    ///         Ask::LogIn { .. } => {
    ///             let first = !session.tried.swap(true, Ordering::Relaxed);
    ///             Decision::only_if(first, "a second login")
    ///         }
    ///         Ask::ReadMail => {
    ///             Decision::only_if(session.is_in.load(Ordering::Relaxed), "mail before the login")
    ///         }
    ///         Ask::Reboot => Decision::Deny("a worker never reboots"),
    ///     },
    ///     |_worker, session, ask| async move {
    ///         if let Ask::LogIn { password } = &ask {
    ///             session.is_in.store(password == "xyzzy", Ordering::Relaxed);
    ///         }
    ///         Ok(session.is_in.load(Ordering::Relaxed))
    ///     },
    /// );
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn answer_permitted<R, S, H, F>(
        self,
        state: impl Fn(&WorkerInfo) -> S + Send + Sync + 'static,
        permit: impl Fn(&S, &R) -> Decision + Send + Sync + 'static,
        handler: H,
    ) -> Self
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        S: Send + Sync + 'static,
        H: Fn(WorkerInfo, Arc<S>, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        self.attach_calls(Rules { state, permit, handler })
    }

    fn attach_calls<R, N, S, P, H, F>(mut self, rules: Rules<N, P, H>) -> Self
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        N: Fn(&WorkerInfo) -> S + Send + Sync + 'static,
        S: Send + Sync + 'static,
        P: Fn(&S, &R) -> Decision + Send + Sync + 'static,
        H: Fn(WorkerInfo, Arc<S>, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        let types = self.types::<R>();
        let connections = self.connections.clone();
        self.attach = Some(Arc::new(Calls::new(types, self.codec.clone(), rules, connections)));
        self
    }

    /// Sets the handler of workers that use plain frames, one request at a time, such as workers of the
    /// OCaml library and scripts in other languages. They count as ready as soon as they run.
    #[must_use]
    pub fn plain<R, H, F>(mut self, handler: H) -> Self
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
        H: Fn(WorkerInfo, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::Response, Refused>> + Send + 'static,
    {
        let types = self.types::<R>();
        let connections = self.connections.clone();
        self.attach = Some(Arc::new(Plain::new(types, self.codec.clone(), handler, connections)));
        self
    }

    /// Types of the requests in both directions.
    fn types<R>(&self) -> Types
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
    {
        Types::of::<R, W, C>(Message::of::<()>(&Postcard), &self.codec)
    }
}
