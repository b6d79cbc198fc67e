//! Calls between two workers, over a socket that their master has given to both.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::connect::hear;
use super::limits::Limits;
use super::link::answers::Answer;
use super::link::{Link, Mode, PendingCall};
use super::serve::{serve, serve_until};
use super::wire::body::Draft;
use super::{CallError, Ended, Never, Postcard, Refused, Request};
use crate::rt::Rt;

/// The limits of a channel. A worker may have many of them, to workers that it need not trust.
const LIMITS: Limits = Limits { frame: 1024 * 1024, ..Limits::IPC };

/// A request, as the answering side reads it. The answer is `None` if it was not handled.
#[derive(Serialize, Deserialize)]
pub(crate) struct ChannelCall<R>(pub(crate) R);

impl<R: Request> Request for ChannelCall<R> {
    type Response = Option<R::Response>;
}

/// The error of a call, and whether the other worker may have got the request.
pub(crate) struct NotAnswered {
    pub(crate) error: CallError,
    pub(crate) is_sent: bool,
}

/// Starts the side of the caller. The future serves the connection until it ends.
pub(crate) fn calling(
    rt: &Rt,
    socket: OwnedFd,
) -> io::Result<(Arc<Link>, impl Future<Output = Ended> + Send + use<>)> {
    let link = Arc::new(Link::new(rt, socket, Mode::Calls, LIMITS)?);
    let refuse = |never: Never| Ok(async move { match never {} });
    let serving = serve(Arc::clone(&link), Postcard, refuse, hear(&link));
    Ok((link, serving))
}

/// Starts the side that answers. The future serves the connection until it ends, or until `finishing`
/// completes and the answers of finished handlers are sent.
pub(crate) fn answering<R, H, F>(
    rt: &Rt,
    socket: OwnedFd,
    handler: H,
    finishing: oneshot::Receiver<()>,
) -> io::Result<impl Future<Output = Option<Ended>> + Send + use<R, H, F>>
where
    R: Request + Serialize + DeserializeOwned,
    R::Response: Serialize + DeserializeOwned,
    H: Fn(ChannelCall<R>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Option<R::Response>, Refused>> + Send + 'static,
{
    let link = Arc::new(Link::new(rt, socket, Mode::Calls, LIMITS)?);
    let heard = hear(&link);
    let serving = serve(Arc::clone(&link), Postcard, move |request| Ok(handler(request)), heard);
    Ok(async move { serve_until(&link, serving, finishing).await })
}

/// Sends a request and waits for its answer.
///
/// # Cancel safety
///
/// Dropping the future cancels the request, like a call of a peer.
pub(crate) async fn ask<R>(
    link: &Link,
    request: &R,
    timeout: Option<Duration>,
) -> Result<Option<R::Response>, NotAnswered>
where
    R: Request + Serialize + DeserializeOwned,
    R::Response: Serialize + DeserializeOwned,
{
    let mut is_sent = false;
    let mut encode = |draft: &mut Draft<'_>| -> Result<(), CallError> {
        is_sent = true;
        Ok(draft.encode(&Postcard, request)?)
    };
    let text = |why: &[u8]| String::from_utf8_lossy(why).into_owned();
    let mut decode = |answer: Answer<'_>| match answer {
        Answer::Given(body) => body.decode(&Postcard).map_err(CallError::Codec),
        Answer::Refused(why) => Err(CallError::Refused(text(why))),
        Answer::NotUnderstood(why) => Err(CallError::NotUnderstood(text(why))),
    };
    let mut caller = PendingCall::new(link, timeout);
    let answered = poll_fn(|cx| caller.poll(cx, &mut encode, &mut decode)).await;
    answered.map_err(|error| NotAnswered { error, is_sent })
}
