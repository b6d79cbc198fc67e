//! One connection of a control socket: its requests, one after the other.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::limiter::{ControlRequest, Permit};
use crate::guard::Guard;
use crate::ipc::plain::Server;
use crate::ipc::{Codec, ReadError, Refused, Request, SendError};
use crate::net::Credentials;
use crate::rt::Rt;

/// Guards the handler of requests, and the codec, which belongs to the application, too.
const CONTROL: Guard = Guard::new("control");

/// A connection and everything that serves it. The permit is dropped after the server.
pub(super) struct ControlConnection<R, C> {
    pub(super) rt: Rt,
    pub(super) server: Server<R, C>,
    pub(super) codec: C,
    pub(super) permit: Permit,
    pub(super) peer: Credentials,
    pub(super) idle_time: Duration,
}

impl<R, C> ControlConnection<R, C>
where
    R: Request,
    C: Codec<R> + Codec<R::Response>,
{
    pub(super) async fn serve<H, F>(mut self, handler: Arc<H>)
    where
        H: Fn(ControlRequest, Credentials, R) -> F,
        F: Future<Output = Result<R::Response, Refused>>,
    {
        let uid = self.peer.uid;
        match CONTROL.run(|| self.answer_all(&*handler)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::debug!(why, uid, "a control connection was ended"),
            Err(panicked) => {
                log_error!(reason = %panicked, uid, "a control connection was ended");
            }
        }
    }

    async fn answer_all<H, F>(&mut self, handler: &H) -> Result<(), String>
    where
        H: Fn(ControlRequest, Credentials, R) -> F,
        F: Future<Output = Result<R::Response, Refused>>,
    {
        // An earlier image of this process may have answered a request in part.
        self.server.finish_answer().await.map_err(|ended| crate::error::chain(&ended))?;
        let mut payload = Vec::new();
        loop {
            let read = self.server.read_request_and(&mut payload);
            let request = match self.rt.timeout(self.idle_time, read).await {
                Ok(Ok(Some(request))) => request,
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(ReadError::Codec(error))) => return Err(error.to_string()),
                Ok(Err(error)) => return Err(crate::error::chain(&error)),
                Err(_) => return Err("idle for too long".to_owned()),
            };
            let asked = self.permit.asked(self.rt.now(), &mut payload);
            let answer = handler(asked, self.peer, request).await;
            let response = answer.map_err(Refused::into_words)?;
            self.permit.answered(self.rt.now());
            self.send(response).await?;
        }
    }

    /// Sends the answer, or the failure of an answer that cannot be sent.
    async fn send(&mut self, response: R::Response) -> Result<(), String> {
        let failed = |error| crate::error::chain(&error);
        let sent = self.server.write_response(&response).await;
        drop(response);
        let why = match sent {
            Err(error @ (SendError::TooLong(_) | SendError::Codec(_))) => failed(error),
            sent => return sent.map_err(failed),
        };
        log_error!(reason = why, "an answer on a control socket cannot be sent");
        match Codec::<R::Response>::failure(&self.codec, &why) {
            Some(failure) => self.server.write_response(&failure).await.map_err(failed),
            None => Err(why),
        }
    }
}
