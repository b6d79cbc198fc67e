//! The master's first message: the protocol check, and the data for the worker.

use std::any::type_name;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::ipc::hello::{Agreed, Hello, METRICS, Types};
use crate::ipc::link::{Incoming, Link};
use crate::ipc::{Codec, Header, Postcard};
use crate::metrics;
use crate::sys::shared_memory::SharedMemory;
use crate::sys::{fds, spawn};
use crate::{Error, ErrorKind};

/// Time limit for the master to greet a worker that it has started.
const GREETING_TIME: Duration = Duration::from_secs(30);

pub(crate) async fn greeted(link: &Link) -> Result<Hello, Error> {
    let mut take = |Incoming { header, body }: Incoming<'_>| match header {
        Header::Hello => Hello::decode(body.bytes),
        other => Err(format!("it began with {other:?}")),
    };
    let greeting = std::future::poll_fn(|cx| link.poll_incoming(cx, 0, &mut take));
    let protocol = |why: String| {
        let message = format!("the master does not greet this worker as it should: {why}");
        Err(Error::new(ErrorKind::Protocol, message))
    };
    match link.rt().timeout(GREETING_TIME, greeting).await {
        Ok(Ok(Ok(hello))) => Ok(hello),
        Ok(Ok(Err(why))) => protocol(why),
        Ok(Err(ended)) => protocol(ended.to_string()),
        Err(_) => protocol("it said nothing".to_owned()),
    }
}

pub(crate) fn check_hello<Context: Serialize + DeserializeOwned>(
    hello: &Hello,
    types: &Types,
    agreed: Agreed,
) -> Result<Context, Error> {
    types.check()?;
    let types = hello.types.as_ref().and_then(|sent| sent.mismatch(types));
    if let Some(difference) = types.or_else(|| hello.agreed.mismatch(&agreed)) {
        let message = format!("master and worker differ in {difference}");
        return Err(Error::new(ErrorKind::Protocol, message));
    }
    Postcard.decode(&hello.context).map_err(|error| {
        let message = format!("the context is not a `{}`", type_name::<Context>());
        Error::new(ErrorKind::Protocol, message).caused_by(error)
    })
}

pub(crate) fn take_listeners(names: Vec<String>) -> Result<Vec<(String, OwnedFd)>, Error> {
    let numbers = spawn::FIRST_PASSED..;
    let taken = names.into_iter().zip(numbers).map(|(name, number)| {
        let socket = fds::take_inherited(number).map_err(|error| {
            Error::system(format!("cannot take listener `{name}`, descriptor {number}"), error)
        })?;
        Ok((name, socket))
    });
    taken.collect()
}

/// Uses the memory for metrics that is among the listeners, if there is any. Returns the others.
pub(crate) fn take_metrics(mut passed: Vec<(String, OwnedFd)>) -> Vec<(String, OwnedFd)> {
    let memory = passed.pop_if(|(name, _)| name == METRICS);
    let Some((_, memory)) = memory else { return passed };
    match SharedMemory::of_peer(memory, metrics::WORDS) {
        Ok(memory) => {
            if !metrics::install(memory) {
                let message = "a metric was used before this worker ran: its metrics count nowhere";
                log_warning!("{message}");
            }
        }
        Err(error) => log_warning!(?error, "no memory for metrics: they count nowhere"),
    }
    passed
}
