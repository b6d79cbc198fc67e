//! The background task of a connection: answers the peer's requests, sends what waits, keeps time.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::stream::FuturesUnordered;

use super::link::{EndOnDrop, Link};
use super::timer::Timer;
use super::{Codec, Ended, HeartbeatReply, Refused, Request};

mod held;
mod received;
mod running;
mod serving;

use held::{Held, Load};
use serving::Serving;

/// Serves a connection in call mode until it ends, and says why it did.
///
/// `handler` answers requests, each beside the others; most are done when they are first polled
/// and cost no allocation. `heard` is called with what the peer says of itself.
///
/// A request for which `handler` has no future but a reason is not permitted, and ends the
/// connection. Dropping the future, polled or not, ends it; a panic outside of a handler's future (in
/// a codec, say) too.
pub(crate) fn serve<R, C, H, F>(
    link: Arc<Link>,
    codec: C,
    handler: H,
    heard: impl FnMut(Word),
) -> impl Future<Output = Ended>
where
    R: Request,
    C: Codec<R> + Codec<R::Response>,
    H: Fn(R) -> Result<F, &'static str>,
    F: Future<Output = Result<R::Response, Refused>>,
{
    let link = EndOnDrop(link);
    async move {
        let serving = AssertUnwindSafe(serve_calls(&link.0, codec, handler, heard));
        serving.catch_unwind().await.unwrap_or(PANICKED)
    }
}

const PANICKED: Ended = Ended::Violation("a message made this side's codec or guard panic");

async fn serve_calls<R, C, H, F>(
    link: &Link,
    codec: C,
    handler: H,
    mut heard: impl FnMut(Word),
) -> Ended
where
    R: Request,
    C: Codec<R> + Codec<R::Response>,
    H: Fn(R) -> Result<F, &'static str>,
    F: Future<Output = Result<R::Response, Refused>>,
{
    let mut serving = Serving {
        link,
        codec,
        held: Held::default(),
        running: FuturesUnordered::new(),
        aborts: HashMap::new(),
        asked: Load::default(),
        notices: Load::default(),
        spare: None,
        was_choked: false,
        timer: Timer::default(),
    };
    poll_fn(|cx| serving.poll(cx, &handler, &mut heard)).await
}

/// What the peer says of itself, or wants to hear of this side.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    Ready,
    Heartbeat,
    HeartbeatReply(HeartbeatReply),
}
