//! Serves the master's side of a connection in plain mode.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use super::{
    Attach, Attached, NewConnection, Notify, Registration, WorkerEvent, cannot_watch, thaw,
};
use crate::Error;
use crate::guard::Guard;
use crate::ipc::hello::Types;
use crate::ipc::link::frozen::Frozen;
use crate::ipc::link::{Link, Mode};
use crate::ipc::plain::Server;
use crate::ipc::{Codec, Ended, Peer, ReadError, Refused, Request};
use crate::process::connections::Connections;
use crate::process::services::GroupServices;
use crate::process::worker_info::WorkerInfo;

const PLAIN: Guard = Guard::new("plain");

/// Serves connections in plain mode.
pub(crate) struct Plain<W, C, H, R> {
    types: Types,
    codec: C,
    handler: Arc<H>,
    connections: Connections<W, C>,
    requests: PhantomData<fn(R)>,
}

impl<W, C, H, R> Plain<W, C, H, R> {
    pub(crate) fn new(types: Types, codec: C, handler: H, connections: Connections<W, C>) -> Self {
        Self { types, codec, handler: Arc::new(handler), connections, requests: PhantomData }
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
        worker: WorkerInfo,
        connection: NewConnection,
        notify: Notify,
    ) -> Result<Attached, Error> {
        // There is no greeting in this mode.
        let NewConnection { socket, limits, .. } = connection;
        let link =
            Link::new(worker.rt(), socket, Mode::PlainServer, limits).map_err(cannot_watch)?;
        Ok(self.serve(Arc::new(link), worker, notify))
    }

    fn reattach(
        &self,
        worker: WorkerInfo,
        frozen: Frozen,
        _: GroupServices,
        notify: Notify,
    ) -> Result<Attached, Error> {
        let link = thaw(worker.rt(), frozen, Mode::PlainServer)?;
        Ok(self.serve(link, worker, notify))
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
    fn serve(&self, link: Arc<Link>, worker: WorkerInfo, notify: Notify) -> Attached {
        let weak = Arc::downgrade(&link);
        let peer = Peer::new(Arc::clone(&link), self.codec.clone());
        let mut server = Server::over(link, self.codec.clone());
        let registration = Registration::new(&self.connections, worker.clone(), peer);
        let handler = Arc::clone(&self.handler);
        let rt = worker.rt().clone();
        let serving = rt.spawn(async move {
            let _registration = registration;
            let serving = PLAIN
                .run(|| server.handle_requests(|request| handler(worker.clone(), request)))
                .await;
            match serving {
                // A program that does not talk to its master may close its standard input.
                Ok(Ok(()) | Err(ReadError::Ended(Ended::Here))) => {}
                Ok(Err(error)) => notify(WorkerEvent::Violation(crate::error::chain(&error))),
                // The worker waits for an answer, and a plain stream cannot express a refusal.
                Err(panicked) => {
                    let message = panicked.message();
                    let why = format!("its request's handler panicked: {message} (`plain`)");
                    notify(WorkerEvent::Violation(why));
                }
            }
        });
        Attached { link: weak, serving }
    }
}
