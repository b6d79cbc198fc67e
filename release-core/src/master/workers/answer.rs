//! How the master answers their requests, and which it permits.

use std::future::Future;
use std::sync::Arc;

use super::Workers;
use crate::Decision;
use crate::WorkerInfo;
use crate::ipc::hello::{Message, Types};
use crate::ipc::{Codec, Postcard, Refused, Request};
use crate::process::attach::{Calls, Plain, Rules};

impl<W: Request, C: Codec<W> + Codec<W::Response>> Workers<W, C> {
    /// How the master answers these workers' requests, many at a time.
    ///
    /// Handlers run on the threads of the master's runtime, which for tokio's and smol's driver is
    /// one: a handler that blocks (name lookups, PAM, slow files) keeps the master from other requests,
    /// signals and the deaths of workers. The log says so from a second on: "the master was busy for
    /// 3.0 s". Put what blocks into [`Rt::unblock`](crate::rt::Rt::unblock).
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

    /// [`answer`](Workers::answer), and which requests are permitted: now, once, or never.
    ///
    /// A worker that was taken over asks what the program that ran in it would not. Every process gets
    /// a state of its own from `state`; `permit` looks at it before `handler` is called, for requests
    /// and notices alike, and the handler changes it as it likes. A worker that asks what is not
    /// permitted is killed and replaced, with the reason in the log, and gets no answer. A handler's
    /// refusal, in contrast, is an answer like others.
    ///
    /// In plain mode a handler that refuses has the same effect.
    ///
    /// When the master upgrades itself in place, the state of every process begins anew: what was
    /// permitted once is so once more, and what a login has opened is closed. Keep in the worker's
    /// requests, or in a file, what has to outlive it.
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

    /// Workers that speak plain frames, one request at a time, like those of the OCaml library and
    /// scripts in other languages. They count as ready as soon as they run.
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

    /// What these workers ask, and are asked.
    fn types<R>(&self) -> Types
    where
        R: Request,
        C: Codec<R> + Codec<R::Response>,
    {
        Types::of::<R, W, C>(Message::of::<()>(&Postcard), &self.codec)
    }
}
