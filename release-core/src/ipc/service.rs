//! The worker's side of the requests of its library to the master, and the master's answers.

use std::future::poll_fn;

use super::link::answers::Answer;
use super::link::{Link, PendingCall};
use super::wire::body::Draft;
use super::wire::header::RequestNumber;
pub(crate) use super::wire::service::{
    ChannelChange, ChannelRequest, HandOnRefusal, LONGEST_TYPE, ServiceAnswer, ServiceRequest,
    WorkerKey,
};
use super::{CallError, Header, Postcard, SendError};

/// Sends a request and waits for its answer.
///
/// # Errors
///
/// Returns [`CallError::Ended`] if the connection ended. The request may have been carried out.
///
/// # Cancel safety
///
/// Dropping the future cancels the request, like a call.
pub(crate) async fn ask(link: &Link, request: &ServiceRequest) -> Result<ServiceAnswer, CallError> {
    let mut encode =
        |draft: &mut Draft<'_>| -> Result<(), CallError> { Ok(draft.encode(&Postcard, request)?) };
    let text = |why: &[u8]| String::from_utf8_lossy(why).into_owned();
    let mut decode = |answer: Answer<'_>| match answer {
        Answer::Given(body) => body.decode(&Postcard).map_err(CallError::Codec),
        Answer::Refused(why) => Err(CallError::Refused(text(why))),
        Answer::NotUnderstood(why) => Err(CallError::NotUnderstood(text(why))),
    };
    let mut caller = PendingCall::of_service(link);
    poll_fn(|cx| caller.poll(cx, &mut encode, &mut decode)).await
}

/// Answers a request of a worker's library.
pub(crate) fn reply(
    link: &Link,
    number: RequestNumber,
    answer: &ServiceAnswer,
) -> Result<(), SendError> {
    link.queue(Some(Header::ServiceAnswer { number }), |draft| -> Result<(), SendError> {
        Ok(draft.encode(&Postcard, answer)?)
    })?;
    link.flush_now();
    Ok(())
}
