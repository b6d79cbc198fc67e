//! The status page: a group with one worker of this library, and the master's answers to it.
//!
//! [`facts`] has the master's messages, [`server`] the worker, and [`html`] the page.

mod crowd;
mod facts;
mod html;
mod latest;
mod samples;
mod server;
mod slow_reader;
mod words;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use futures_channel::oneshot;
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};

use super::handle::MasterHandle;
use super::health::STATUS_PAGE;
use super::startup::StartTask;
use super::workers::Workers;
use crate::Master;
use crate::ipc::{Refused, Request};
use crate::net::{AnyAddress, ListenOn};
use crate::process::{Environment, WorkerOptions};
use crate::sandbox::Sandbox;
use crate::worker::is_worker;
use facts::{Health, PageStatus};
use samples::Samples;

pub(crate) use server::run;

/// Tells a process that it is the page's worker, not the program's own.
const VARIABLE: &str = "RELEASE_STATUS_PAGE";

/// Numbers that need no account: `nobody` of Linux.
const NOBODY: &str = "65534:65534";

/// The page yields the processor to those that it is about.
const NICE: i32 = 5;

/// Name of the listener.
const LISTENER: &str = "http";

/// A question of the page's worker. The answers are text that any two versions understand, as an upgrade
/// lets the worker of one talk to the master of the other.
#[derive(Debug, Serialize, Deserialize)]
enum PageRequest {
    /// [`Health`], as JSON.
    Health,
    /// OpenMetrics.
    Metrics,
    /// [`PageStatus`], as JSON.
    Status,
}

impl Request for PageRequest {
    type Response = String;
}

/// What the worker must know before it can serve.
#[derive(Debug, Serialize, Deserialize)]
struct PageContext {
    is_unix: bool,
}

/// Returns whether this process is the worker of a status page.
pub(crate) fn is_here() -> bool {
    std::env::var_os(VARIABLE).is_some() && is_worker()
}

impl Master {
    /// Serves a status page for people and machines at this address, over HTTP/1: the workers and
    /// their memory, restarts by cause, the latest deaths, metrics and health. The last call wins.
    ///
    /// | path | answer |
    /// |---|---|
    /// | `/` | the page. It works without JavaScript, and nothing on it changes anything |
    /// | `/events` | the page's contents once a second, as server-sent events |
    /// | `/metrics` | [`MasterHandle::metrics`](crate::MasterHandle::metrics): OpenMetrics |
    /// | `/readyz` | 200, or 503 with the reason: [`MasterHandle::check_ready`](crate::MasterHandle::check_ready) |
    /// | `/livez` | 200, or 503 with the reason: [`MasterHandle::check_live`](crate::MasterHandle::check_live) |
    ///
    /// The server is a worker of its own, in a group called `status-page`: it runs your executable as
    /// the user 65534 (`nobody`) if the master is root, in a strict [`Sandbox`](crate::Sandbox), and
    /// your `main` runs it without noticing, by [`Worker::run`](crate::Worker::run) or
    /// [`Master::run`]; the process has no arguments. It is the last to go when the service stops.
    /// However many clients there are, it asks the master for the same at most five
    /// times a second. The group counts neither for readiness nor for the watchdog. The master opens
    /// the socket and keeps it, so that reloads and upgrades refuse no client.
    ///
    /// Everybody who can connect can read: choose a loopback address, a Unix socket with a mode
    /// ([`ListenOn::mode`](crate::net::ListenOn::mode)), or a proxy with a password. A socket file is
    /// for the master's user alone by default.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::Inet;
    /// use release_core::{Master, Workers};
    ///
    /// let address: Inet = "127.0.0.1:9100".parse()?;
    /// let master = Master::new()
    ///     .workers(Workers::command("web", 4, "server", ["--port=80"]).user("www-data"))
    ///     .http(address);
    /// # let _ = master;
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    #[doc(alias = "prometheus")]
    pub fn http(mut self, address: impl Into<ListenOn>) -> Self {
        let (give, given) = oneshot::channel();
        let group = group(address.into(), given.shared());
        let task: StartTask = Box::new(move |_, master| {
            // Nobody is left to tell if the group is gone.
            let _ = give.send(master);
            Box::pin(async { Ok(()) })
        });
        self.page = Some((Box::new(group), task));
        self
    }
}

fn group(
    address: ListenOn,
    master: impl Future<Output = Result<MasterHandle, oneshot::Canceled>>
    + Clone
    + Send
    + Sync
    + 'static,
) -> Workers {
    let is_unix = matches!(address.address, AnyAddress::Unix(_));
    let samples = Arc::new(Mutex::new(Samples::default()));
    Workers::same_executable(STATUS_PAGE, 1)
        .user(NOBODY)
        .sandbox(Sandbox::strict().best_effort())
        .environment(Environment::default().set(VARIABLE, "1"))
        .worker_options(|_| WorkerOptions::default().nice(NICE))
        .listen(LISTENER, address)
        .context(move |_| PageContext { is_unix })
        .answer(move |_, request| {
            let (master, samples) = (master.clone(), Arc::clone(&samples));
            async move { answer(&master.await?, &samples, request).await }
        })
}

async fn answer(
    master: &MasterHandle,
    samples: &Mutex<Samples>,
    request: PageRequest,
) -> Result<String, Refused> {
    match request {
        PageRequest::Metrics => Ok(master.metrics().await?),
        PageRequest::Health => Ok(serde_json::to_string(&Health::of(master))?),
        PageRequest::Status => {
            let mut status = PageStatus::of(master).await?;
            let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
            samples.add(&status);
            status.samples = samples.all();
            Ok(serde_json::to_string(&status)?)
        }
    }
}
