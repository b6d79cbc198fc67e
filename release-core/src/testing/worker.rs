//! `worker`: the main function of a worker, without a process and without a master.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::Shared;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::TestFailure;
use crate::Me;
use crate::ipc::limits::Limits;
use crate::ipc::link::{Link, Mode};
use crate::ipc::serve::{Heard, serve};
use crate::ipc::service::{HandOnRefusal, ServiceAnswer, reply};
use crate::ipc::{Never, Peer, Postcard, Refused, Request};
use crate::rt::{Rt, Task};
use crate::stopping::{Stop, stop_channel};
use crate::worker::WorkerChannels;
use crate::worker::{InFlight, WorkerData};

/// The master of a worker under test, in the same process: see [`worker()`].
///
/// Dropping it breaks the connection, as if the master had died: [`Me::stopping`] completes.
///
/// # Examples
///
/// ```
/// use release_core::Me;
/// use release_core::rt::local::Local;
/// use release_core::rt::{Driver, run};
/// use release_core::testing::worker;
///
/// let driver = Local::new()?;
/// let rt = driver.handle();
/// run(&driver, async {
///     let (me, master) = worker(&rt, (), |text: String| async move { Ok(text.to_uppercase()) }).unwrap();
///     assert_eq!(me.master().call(&"hello".to_owned()).await.unwrap(), "HELLO");
///     drop(master);
///     me.stopping().await;
/// });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct TestMaster {
    ready: Shared<oneshot::Receiver<()>>,
    stop: Arc<Stop>,
    _serving: Task<()>,
}

impl TestMaster {
    /// Waits until the worker has called [`Me::ready`]. Returns false if its connection has ended without
    /// that.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::Never;
    /// use release_core::rt::local::Local;
    /// use release_core::rt::{Driver, run};
    /// use release_core::testing::worker;
    ///
    /// let driver = Local::new()?;
    /// let rt = driver.handle();
    /// run(&driver, async {
    ///     let (me, master) = worker(&rt, (), |never: Never| async move { match never {} }).unwrap();
    ///     me.ready().unwrap();
    ///     assert!(master.ready().await);
    /// });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn ready(&self) -> bool {
        self.ready.clone().await.is_ok()
    }

    /// Returns whether the worker has called [`Me::ready`] and the message has arrived, without waiting.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::Never;
    /// use release_core::rt::local::Local;
    /// use release_core::rt::{Driver, run};
    /// use release_core::testing::worker;
    ///
    /// let driver = Local::new()?;
    /// let rt = driver.handle();
    /// run(&driver, async {
    ///     let (_me, master) = worker(&rt, (), |never: Never| async move { match never {} }).unwrap();
    ///     assert!(!master.is_ready());
    /// });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.clone().now_or_never().is_some_and(|received| received.is_ok())
    }

    /// Tells the worker to stop: [`Me::stopping`] completes. The connection remains.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::Never;
    /// use release_core::rt::local::Local;
    /// use release_core::rt::{Driver, run};
    /// use release_core::testing::worker;
    ///
    /// let driver = Local::new()?;
    /// let rt = driver.handle();
    /// run(&driver, async {
    ///     let (me, master) = worker(&rt, (), |never: Never| async move { match never {} }).unwrap();
    ///     master.stop();
    ///     me.stopping().await;
    /// });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stop(&self) {
        self.stop.now();
    }
}

/// Returns a [`Me`] for the main function of a worker, and its master: a unit test of the function, on any
/// runtime, in one process. Requests travel over a real connection; `answer` is the master's handler. The
/// worker has id 0, generation 1, and no listeners.
///
/// With [`Local::with_virtual_time`](crate::rt::local::Local::with_virtual_time), timeouts of an hour take no
/// time.
///
/// # Errors
///
/// Returns an error if there is no socket left, or if the runtime cannot watch it.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::Me;
/// use release_core::ipc::{CallError, Request};
/// use release_core::rt::local::Local;
/// use release_core::rt::{Driver, run};
/// use release_core::testing::worker;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Count(u32);
///
/// impl Request for Count {
///     type Response = u32;
/// }
///
/// /// The worker of a daemon: counts every hour.
/// async fn counter(me: Me<u32, Count>) -> Result<u32, CallError> {
///     let (mut sum, mut stopping) = (0, me.stopping());
///     me.ready()?;
///     while me.rt().timeout(Duration::from_secs(3600), &mut stopping).await.is_err() {
///         sum = me.master().call(&Count(*me.context())).await?;
///     }
///     Ok(sum)
/// }
///
/// let driver = Local::with_virtual_time()?;
/// let rt = driver.handle();
/// let sum = run(&driver, async {
///     let total = std::sync::atomic::AtomicU32::new(0);
///     let add = move |Count(more)| {
///         let sum = total.fetch_add(more, std::sync::atomic::Ordering::Relaxed) + more;
///         async move { Ok(sum) }
///     };
///     let (me, master) = worker(&rt, 5, add).unwrap();
///     let counting = rt.spawn(counter(me));
///     assert!(master.ready().await);
///     rt.sleep(Duration::from_secs(2 * 3600 + 60)).await;
///     master.stop();
///     counting.await.unwrap()
/// });
/// assert_eq!(sum, 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn worker<Context, M, H, A>(
    rt: &Rt,
    context: Context,
    answer: H,
) -> Result<(Me<Context, M>, TestMaster), TestFailure>
where
    M: Request + Serialize + DeserializeOwned,
    M::Response: Serialize + DeserializeOwned,
    H: Fn(M) -> A + Send + Sync + 'static,
    A: Future<Output = Result<M::Response, Refused>> + Send + 'static,
{
    let cannot =
        |error| TestFailure::new(format!("cannot connect a worker and its master: {error}"));
    let (ours, theirs) = UnixStream::pair().map_err(cannot)?;
    let link = |socket: UnixStream, limits| {
        socket.set_nonblocking(true)?;
        Link::new(rt, OwnedFd::from(socket), Mode::Calls, limits).map(Arc::new)
    };
    let at_master = link(theirs, Limits::IPC).map_err(cannot)?;
    let at_worker = link(ours, Limits::IPC.of_worker()).map_err(cannot)?;

    let (say_ready, ready) = oneshot::channel();
    let mut say_ready = Some(say_ready);
    let asked = Arc::clone(&at_master);
    let heard = move |frame| match frame {
        Heard::Ready => {
            if let Some(ready) = say_ready.take() {
                let _ = ready.send(());
            }
        }
        Heard::Service(number, _) => {
            let _ = reply(&asked, number, &ServiceAnswer::Refused(HandOnRefusal::Off));
        }
        _ => {}
    };
    let handler = move |request| Ok(answer(request));
    let serving = serve::<M, _, _, _>(at_master, Postcard, handler, heard);
    let serving = rt.spawn(async move { drop(serving.await) });

    let (stop, stopping) = stop_channel();
    let stop = Arc::new(stop);
    stop_with_the_connection(rt, &at_worker, &stop);
    let master = Peer::new(Arc::clone(&at_worker), Postcard);
    let state = WorkerData {
        id: 0,
        generation: 1,
        group: "test".to_owned(),
        context,
        listeners: Mutex::default(),
        link: at_worker,
        in_flight: Arc::<InFlight>::default(),
        hand_on: Arc::default(),
        channels: Arc::<WorkerChannels>::default(),
        stopping,
        rt: rt.clone(),
    };
    let me = Me::new(Arc::new(state), master);
    Ok((me, TestMaster { ready: ready.shared(), stop, _serving: serving }))
}

/// Stops the worker when its connection ends.
fn stop_with_the_connection(rt: &Rt, connection: &Arc<Link>, stop: &Arc<Stop>) {
    let (link, stop) = (Arc::clone(connection), Arc::clone(stop));
    let refuse = |never: Never| Ok(async move { match never {} });
    rt.spawn(async move {
        serve(link, Postcard, refuse, |_| {}).await;
        stop.now();
    })
    .detach();
}
