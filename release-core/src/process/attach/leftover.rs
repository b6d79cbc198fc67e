//! Serves the master's side of a connection to a worker whose group is gone.

use std::future::Ready;
use std::sync::Arc;

use super::{Attached, thaw};
use crate::Error;
use crate::ipc::link::Mode;
use crate::ipc::link::frozen::Frozen;
use crate::ipc::serve::{Heard, serve};
use crate::ipc::service::{HandOnRefusal, ServiceAnswer, ServiceRequest, reply};
use crate::ipc::{Never, Postcard, Refused};
use crate::rt::Rt;

/// Serves a worker whose group this version does not have, while it stops: no other worker takes its
/// connections.
pub(crate) fn serve_leftover(rt: &Rt, frozen: Frozen) -> Result<Attached, Error> {
    let link = thaw(rt, frozen, Mode::Calls)?;
    let (weak, answering) = (Arc::downgrade(&link), Arc::clone(&link));
    let refuse =
        |never: Never| -> Result<Ready<Result<(), Refused>>, &'static str> { match never {} };
    let heard = move |heard| {
        let Heard::Service(number, request) = heard else { return };
        let answer = match *request {
            ServiceRequest::Declare { .. } => ServiceAnswer::Done,
            // Until it stops.
            ServiceRequest::Take => return,
            _ => ServiceAnswer::Refused(HandOnRefusal::NoTaker),
        };
        // An ended connection needs no answer.
        let _ = reply(&answering, number, &answer);
    };
    let serving = rt.spawn(async move { drop(serve(link, Postcard, refuse, heard).await) });
    Ok(Attached { link: weak, serving })
}
