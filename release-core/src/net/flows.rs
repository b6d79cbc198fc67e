//! `Flows`: the peers of a process, whose datagrams reach it while others are replaced.

use std::collections::HashMap;
use std::fs::File;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;
use std::{fmt, mem};

use crate::rt::Rt;
use crate::sys::steering::{BUCKETS, FlowHash};
use crate::{Error, ErrorKind};

/// Length of the key of a listener, with which the file of a slot begins.
pub(crate) const FLOW_KEY: usize = 8;

/// Number of the bytes that tell which buckets of senders have a flow, one bit for each.
pub(crate) const FLOWS: usize = BUCKETS / 8;

/// Where the master tells whether the process receives datagrams of new senders, or in vain held buckets.
pub(crate) const IN_USE_AT: u64 = FLOW_KEY as u64;

/// Where the flows begin in the file.
pub(crate) const FLOWS_AT: u64 = IN_USE_AT + 8;

/// How often a process that stops looks whether it still receives datagrams.
const LOOK_TIME: Duration = Duration::from_millis(50);

/// The flows of a process, at a socket that is steered by them: see
/// [`Steer::flows`](super::Steer::flows). A worker gets it with [`Me::flows`](crate::Me::flows).
///
/// Cheap to clone; a clone is the same.
///
/// # Examples
///
/// ```
/// use std::collections::HashMap;
/// use std::net::SocketAddr;
/// use release_core::Me;
/// use release_core::net::{Datagrams, Flow, Flows};
///
/// /// A player of a game.
/// struct Session {
///     moves: u64,
///     _flow: Flow,
/// }
///
/// async fn play(me: Me) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
///     let (socket, flows): (Datagrams, Flows) = (me.datagrams("game")?, me.flows("game")?);
///     let mut sessions = HashMap::<SocketAddr, Session>::new();
///     me.ready()?;
///     let mut buffer = [0; 2048];
///     loop {
///         let (count, peer) = socket.recv_from(&mut buffer).await?;
///         let begin = || Session { moves: 0, _flow: flows.begin(peer) };
///         sessions.entry(peer).or_insert_with(begin).moves += 1;
///         if &buffer[..count] == b"bye" {
///             sessions.remove(&peer);
///         }
///         # break Ok(());
///     }
/// }
/// # let _ = play;
/// ```
#[derive(Clone)]
pub struct Flows {
    shared: Arc<SharedFlows>,
}

struct SharedFlows {
    rt: Rt,
    file: File,
    hash: FlowHash,
    open: Mutex<OpenFlows>,
}

#[derive(Default)]
struct OpenFlows {
    /// Number of the flows of each bucket that has any.
    buckets: HashMap<usize, usize>,
    /// Wakers of tasks that wait until there is none.
    wakers: Vec<Waker>,
}

/// A flow that goes on until this is dropped. From [`Flows::begin`].
#[must_use = "the flow ends when this is dropped"]
pub struct Flow {
    shared: Arc<SharedFlows>,
    bucket: usize,
}

impl Flows {
    /// Takes over the descriptor `NAME.flows` that the master passes beside the socket `NAME`.
    ///
    /// # Errors
    ///
    /// Returns an error if the descriptor is not such a file.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::File;
    /// use release_core::net::Flows;
    /// use release_core::rt::Rt;
    ///
    /// fn is_refused(rt: &Rt) -> std::io::Result<bool> {
    ///     Ok(Flows::inherited(rt, File::open("/dev/null")?).is_err())
    /// }
    /// # let _ = is_refused;
    /// ```
    pub fn inherited(rt: &Rt, file: impl Into<OwnedFd>) -> Result<Self, Error> {
        let (file, mut key) = (File::from(file.into()), [0; FLOW_KEY]);
        file.read_exact_at(&mut key, 0).map_err(|error| {
            Error::new(ErrorKind::Usage, "not the file of a listener's flows").caused_by(error)
        })?;
        let (hash, open) = (FlowHash::new(key), Mutex::default());
        let rt = rt.clone();
        Ok(Self { shared: Arc::new(SharedFlows { rt, file, hash, open }) })
    }

    /// Begins a flow: datagrams of this sender reach this process until the flow is dropped, also while
    /// the process is replaced, but not longer than it runs.
    ///
    /// Begin it with the first datagram of the sender. A sender may have several flows. The first flow of
    /// a bucket of senders, and the end of its last, is a system call.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use release_core::net::{Flow, Flows};
    ///
    /// fn connected(flows: &Flows, peer: SocketAddr) -> Flow {
    ///     flows.begin(peer)
    /// }
    /// # let _ = connected;
    /// ```
    pub fn begin(&self, sender: SocketAddr) -> Flow {
        let shared = Arc::clone(&self.shared);
        let bucket = shared.hash.bucket(sender);
        let mut open = shared.lock();
        let flows = open.buckets.entry(bucket).or_default();
        *flows += 1;
        if *flows == 1 {
            shared.tell(&open, bucket);
        }
        drop(open);
        Flow { shared, bucket }
    }

    /// Returns the number of flows that go on.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::Flows;
    ///
    /// fn log(flows: &Flows) {
    ///     tracing::info!(flows = flows.count(), "serving");
    /// }
    /// # let _ = log;
    /// ```
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.lock().buckets.values().sum()
    }

    /// Waits until no flow goes on, and this process receives no more datagrams: while it should stop,
    /// until its last flow has ended. Read the socket meanwhile.
    ///
    /// A worker that should stop waits for this before it ends; the stop deadline ends it otherwise.
    /// Dropping the future has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    /// use release_core::net::Flows;
    ///
    /// async fn finish(me: &Me, flows: &Flows) {
    ///     me.stopping().await;
    ///     flows.ended().await;
    /// }
    /// # let _ = finish;
    /// ```
    pub async fn ended(&self) {
        let is_in_use = || {
            let mut byte = [0];
            let read = self.shared.file.read_exact_at(&mut byte, IN_USE_AT);
            read.is_ok() && byte != [0]
        };
        loop {
            self.none_goes_on().await;
            let is_over = !is_in_use();
            // The kernel may select by the former program for a moment, and the last datagrams are read.
            self.shared.rt.sleep(LOOK_TIME).await;
            if is_over && self.count() == 0 {
                return;
            }
        }
    }

    async fn none_goes_on(&self) {
        poll_fn(|cx| {
            let mut open = self.shared.lock();
            if open.buckets.is_empty() {
                return Poll::Ready(());
            }
            if !open.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                open.wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let mut open = self.shared.lock();
        let Some(flows) = open.buckets.get_mut(&self.bucket) else { return };
        *flows -= 1;
        if *flows > 0 {
            return;
        }
        open.buckets.remove(&self.bucket);
        self.shared.tell(&open, self.bucket);
        let wakers = if open.buckets.is_empty() { mem::take(&mut open.wakers) } else { Vec::new() };
        drop(open);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl SharedFlows {
    fn lock(&self) -> MutexGuard<'_, OpenFlows> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the master which buckets beside this one have flows.
    fn tell(&self, open: &OpenFlows, bucket: usize) {
        let first = bucket / 8 * 8;
        let has = |bit: &usize| open.buckets.contains_key(&(first + bit));
        let byte = (0..8).filter(has).fold(0_u8, |byte, bit| byte | 1 << bit);
        let place = FLOWS_AT + (bucket / 8) as u64;
        if let Err(error) = self.file.write_all_at(&[byte], place) {
            log_warning!(%error, "the master does not know of a flow");
        }
    }
}

impl fmt::Debug for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flows").field("count", &self.count()).finish()
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;
    use crate::rt::{Driver, local::Local, run};

    fn flows(rt: &Rt) -> (Flows, File) {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(FLOWS_AT + FLOWS as u64).expect("a length");
        file.write_all_at(b"\x9e7y\xb0\x85\xeb\xcaj", 0).expect("a key");
        let own = file.try_clone().expect("a descriptor");
        (Flows::inherited(rt, own).expect("flows"), file)
    }

    fn told(file: &File) -> u32 {
        let mut bytes = [0; FLOWS];
        file.read_exact_at(&mut bytes, FLOWS_AT).expect("bytes");
        bytes.iter().map(|byte| byte.count_ones()).sum()
    }

    #[test]
    fn a_bucket_is_told_from_its_first_flow_to_the_end_of_its_last() {
        let driver = Local::new().expect("a runtime");
        let rt = driver.handle();
        run(&driver, async {
            let (flows, file) = flows(&rt);
            let peers = (0..1000_u16).map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
            let (first, second): (Vec<_>, Vec<_>) =
                peers.map(|peer| (flows.begin(peer), flows.begin(peer))).unzip();
            assert_eq!(flows.count(), 2000);
            let buckets = told(&file);
            assert!((900..=1000).contains(&buckets), "{buckets}");
            drop(first);
            assert_eq!((flows.count(), told(&file)), (1000, buckets));
            file.write_all_at(&[1], IN_USE_AT).expect("written");
            let mut ended = pin!(flows.ended());
            let mut cx = Context::from_waker(Waker::noop());
            assert!(ended.as_mut().poll(&mut cx).is_pending());
            drop(second);
            assert_eq!((flows.count(), told(&file)), (0, 0));
            assert!(ended.as_mut().poll(&mut cx).is_pending());
            // A new sender may come until the master has told the kernel.
            rt.sleep(2 * LOOK_TIME).await;
            assert!(ended.as_mut().poll(&mut cx).is_pending());
            file.write_all_at(&[0], IN_USE_AT).expect("written");
            ended.await;
        });
    }

    #[test]
    fn one_sender_has_one_bucket_in_both_versions_of_ip() {
        let driver = Local::new().expect("a runtime");
        let rt = driver.handle();
        run(&driver, async {
            let (flows, file) = flows(&rt);
            let old = flows.begin("10.1.2.3:4000".parse().expect("an address"));
            let mapped = flows.begin("[::ffff:10.1.2.3]:4000".parse().expect("an address"));
            assert_eq!(told(&file), 1);
            drop((old, mapped));
        });
    }
}
