//! Control sockets that are handed over, with their connections.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::FutureExt;
use tempfile::{TempDir, tempdir};

use super::*;
use crate::ipc::{DEFAULT_FRAME_LIMIT, state_blob};
use crate::net::Credentials;
use crate::net::FileIdentity;
use crate::rt::local::Local;
use crate::rt::{Driver, Rt, Task, give_way, run};

/// A control socket of one image of the process.
struct Image {
    served: ControlHandle,
    /// Ends the waiting of the first request that says `wait`.
    go: Option<oneshot::Sender<()>>,
    serving: Task<io::Result<()>>,
}

impl Image {
    /// Answers with its name in front; `wait` waits for an upgrade, `work` does not, `much` gets much.
    fn new(rt: &Rt, name: &'static str, bound: BoundControlSocket) -> Self {
        let served = bound.served();
        let (go, gone) = oneshot::channel::<()>();
        let gone = Mutex::new(Some(gone));
        let on = rt.clone();
        let handler = move |asking: ControlRequest, _: Credentials, request: String| {
            let waits = request.starts_with('w');
            let gone = gone.lock().unwrap().take_if(|_| waits);
            async move {
                let waiting = request.starts_with("wait").then(|| asking.wait_for_upgrade());
                if let Some(gone) = gone {
                    let _ = gone.await;
                }
                drop(waiting);
                if request == "wait and work" {
                    std::future::pending::<()>().await;
                }
                let filling = if request == "much" { "x".repeat(60_000) } else { String::new() };
                Ok(format!("{name}:{request}{filling}"))
            }
        };
        let serving = async move { bound.serve_requests(&on, handler).await };
        Self { served, go: Some(go), serving: rt.spawn(serving) }
    }

    async fn freeze(&self, rt: &Rt) -> FrozenControl {
        self.served.pause(rt.now());
        at_rest(rt, &self.served).await;
        let frozen = self.served.freeze().unwrap();
        let (bytes, descriptors) = state_blob::pack(&frozen).unwrap();
        drop(frozen);
        state_blob::unpack(&bytes, descriptors).unwrap()
    }
}

async fn at_rest(rt: &Rt, served: &ControlHandle) {
    within(rt, std::future::poll_fn(|cx| served.poll_at_rest(cx))).await;
}

async fn within<T>(rt: &Rt, future: impl Future<Output = T>) -> T {
    rt.timeout(Duration::from_secs(10), future).await.expect("in time")
}

async fn some_turns() {
    for _ in 0..20 {
        give_way().await;
    }
}

fn on_local<F: Future>(test: impl FnOnce(Rt, TempDir) -> F) -> F::Output {
    let driver = Local::new().unwrap();
    let rt = driver.handle();
    run(&driver, test(rt, tempdir().unwrap()))
}

fn frame(payload: &str) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&length.to_be_bytes(), payload.as_bytes()].concat()
}

/// A peer that blocks nobody.
struct Peer(UnixStream);

impl Peer {
    fn new(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    fn send(&self, bytes: &[u8]) {
        (&self.0).write_all(bytes).unwrap();
    }

    /// The next answer.
    async fn answer(&self, rt: &Rt) -> String {
        let length = self.read(rt, 4).await;
        let length = u32::from_be_bytes(length.try_into().unwrap());
        let payload = self.read(rt, usize::try_from(length).unwrap()).await;
        String::from_utf8(payload).unwrap()
    }

    async fn read(&self, rt: &Rt, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut read = 0;
        let reading = async {
            while read < count {
                match (&self.0).read(&mut bytes[read..]) {
                    Ok(0) => panic!("the connection was closed"),
                    Ok(more) => read += more,
                    Err(_) => give_way().await,
                }
            }
        };
        within(rt, reading).await;
        bytes
    }

    async fn ask(&self, rt: &Rt, request: &str) -> String {
        self.send(&frame(request));
        self.answer(rt).await
    }
}

/// Peers of the first image: one that is idle, one in a frame, one whose request waits.
async fn peers(rt: &Rt, path: &Path) -> [Peer; 3] {
    let peers = [(); 3].map(|()| Peer::new(path));
    assert_eq!(peers[0].ask(rt, "first").await, "old:first");
    peers[1].send(&frame("second")[..6]);
    peers[2].send(&frame("wait"));
    some_turns().await;
    peers
}

#[test]
fn every_connection_goes_on_and_what_waits_is_begun_anew() {
    on_local(async |rt, directory| {
        let path = directory.path().join("control");
        let old = Image::new(&rt, "old", ControlSocket::new(&path).bind().unwrap());
        let [idle, inside, waiting] = peers(&rt, &path).await;
        let inode = FileIdentity::of(&path).unwrap();
        let frozen = old.freeze(&rt).await;
        // It waits in the kernel's queue.
        let later = Peer::new(&path);
        let late = later.ask(&rt, "late");
        let mut late = std::pin::pin!(late);
        assert!(late.as_mut().now_or_never().is_none());
        inside.send(&frame("second")[6..]);
        idle.send(&frame("third"));
        some_turns().await;
        let new = ControlSocket::new(&path).mode(0o660).follow(frozen, false).unwrap();
        let mut new = Image::new(&rt, "new", new);
        drop(old);
        some_turns().await;
        assert_eq!(inside.answer(&rt).await, "new:second");
        assert_eq!(idle.answer(&rt).await, "new:third");
        assert_eq!(late.await, "new:late");
        new.go.take().unwrap().send(()).unwrap();
        assert_eq!(waiting.answer(&rt).await, "new:wait");
        assert_eq!(waiting.ask(&rt, "fourth").await, "new:fourth");
        assert_eq!(FileIdentity::of(&path).unwrap(), inode);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&path).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o660);
    });
}

#[test]
fn one_that_goes_on_after_all_has_lost_nothing() {
    on_local(async |rt, directory| {
        let path = directory.path().join("control");
        let mut old = Image::new(&rt, "old", ControlSocket::new(&path).bind().unwrap());
        let [idle, inside, waiting] = peers(&rt, &path).await;
        let frozen = old.freeze(&rt).await;
        inside.send(&frame("second")[6..]);
        let later = Peer::new(&path);
        old.go.take().unwrap().send(()).unwrap();
        some_turns().await;
        assert!((&waiting.0).read(&mut [0]).is_err(), "nothing yet");
        old.served.resume();
        drop(frozen);
        assert_eq!(waiting.answer(&rt).await, "old:wait");
        assert_eq!(inside.answer(&rt).await, "old:second");
        assert_eq!(idle.ask(&rt, "third").await, "old:third");
        assert_eq!(later.ask(&rt, "late").await, "old:late");
        drop(old);
        some_turns().await;
        assert!(!path.exists());
    });
}

#[test]
fn a_request_that_does_not_wait_for_it_is_waited_for() {
    on_local(async |rt, directory| {
        let path = directory.path().join("control");
        let mut old = Image::new(&rt, "old", ControlSocket::new(&path).bind().unwrap());
        let peer = Peer::new(&path);
        peer.send(&frame("work"));
        some_turns().await;
        old.served.pause(rt.now());
        some_turns().await;
        assert_eq!(old.served.unfinished(), 1);
        let refused = old.served.freeze().unwrap_err().report();
        assert!(refused.contains("still being answered: 1"), "{refused}");
        old.served.resume();
        old.served.pause(rt.now());
        peer.send(&frame("next"));
        old.go.take().unwrap().send(()).unwrap();
        at_rest(&rt, &old.served).await;
        assert_eq!(old.served.unfinished(), 0);
        assert_eq!(peer.answer(&rt).await, "old:work");
        some_turns().await;
        assert!((&peer.0).read(&mut [0]).is_err(), "nothing yet");
        old.served.resume();
        assert_eq!(peer.answer(&rt).await, "old:next");
    });
}

#[test]
fn a_request_that_waits_no_more_is_waited_for() {
    on_local(async |rt, directory| {
        let path = directory.path().join("control");
        let mut old = Image::new(&rt, "old", ControlSocket::new(&path).bind().unwrap());
        let peer = Peer::new(&path);
        peer.send(&frame("wait and work"));
        some_turns().await;
        old.served.pause(rt.now());
        at_rest(&rt, &old.served).await;
        assert_eq!(old.served.unfinished(), 0);
        old.go.take().unwrap().send(()).unwrap();
        some_turns().await;
        assert_eq!(old.served.unfinished(), 1);
        assert!(old.served.freeze().is_err());
    });
}

#[test]
fn an_answer_that_is_not_read_is_not_waited_for_and_comes_whole() {
    on_local(async |rt, directory| {
        let path = directory.path().join("control");
        let old = Image::new(&rt, "old", ControlSocket::new(&path).bind().unwrap());
        let peer = Peer::new(&path);
        for _ in 0..10 {
            peer.send(&frame("much"));
        }
        some_turns().await;
        let frozen = old.freeze(&rt).await;
        let new = ControlSocket::new(&path).follow(frozen, false).unwrap();
        let _new = Image::new(&rt, "new", new);
        drop(old);
        let mut names = Vec::new();
        for _ in 0..10 {
            let answer = peer.answer(&rt).await;
            assert_eq!(answer.len(), 4 + 4 + 60_000);
            names.push(answer[..3].to_owned());
        }
        assert!(names.is_sorted_by(|first, second| first >= second), "{names:?}");
        assert!(names.first() != names.last(), "{names:?}");
    });
}

#[test]
fn another_path_is_bound_before_the_old_one_goes() {
    on_local(async |rt, directory| {
        let (path, other) = (directory.path().join("control"), directory.path().join("other"));
        let old = Image::new(&rt, "old", ControlSocket::new(&path).bind().unwrap());
        let [idle, ..] = peers(&rt, &path).await;
        let frozen = old.freeze(&rt).await;
        drop(old.serving);
        some_turns().await;
        assert!(path.exists(), "it is another image's now");
        let new = ControlSocket::new(&other).follow(frozen, false).unwrap();
        assert!(path.exists(), "the new version may still fail");
        let _new = Image::new(&rt, "new", new);
        assert_eq!(idle.ask(&rt, "third").await, "new:third");
        assert!(!path.exists());
        assert_eq!(Peer::new(&other).ask(&rt, "late").await, "new:late");
    });
}

#[test]
fn each_follows_the_one_at_its_path_or_one_whose_path_has_gone() {
    on_local(async |rt, directory| {
        let path = |name: &str| directory.path().join(name);
        let mut earlier = Vec::new();
        for name in ["a", "b", "c"] {
            let image = Image::new(&rt, "old", ControlSocket::new(path(name)).bind().unwrap());
            earlier.push(image.freeze(&rt).await);
        }
        let (found, left) = successors(&[&path("new"), &path("b")], earlier);
        let shown = |control: &FrozenControl| format!("{control:?}");
        assert!(shown(found[0].as_ref().unwrap()).contains("/a\""));
        assert!(shown(found[1].as_ref().unwrap()).contains("/b\""));
        assert!(path("c").exists());
        left.into_iter().for_each(FrozenControl::give_up);
        assert!(!path("c").exists() && path("b").exists());
    });
}

#[test]
fn a_long_answer_arrives_and_one_that_is_too_long_is_an_error() {
    on_local(async |rt, directory| {
        let path = directory.path().join("control");
        let bound = ControlSocket::new(&path).bind().unwrap();
        let handler = |_, request: String| async move {
            let length: usize = request.parse().expect("a number");
            Ok("x".repeat(length))
        };
        let on = rt.clone();
        let _serving = rt.spawn(async move { bound.serve(&on, handler).await });
        let peer = Peer::new(&path);
        let most = usize::try_from(DEFAULT_FRAME_LIMIT).unwrap();
        for length in [100_000, most] {
            peer.send(&frame(&length.to_string()));
            assert_eq!(within(&rt, peer.answer(&rt)).await.len(), length);
        }
        peer.send(&frame(&(most + 1).to_string()));
        let said = within(&rt, peer.answer(&rt)).await;
        assert!(said.starts_with("error: ") && said.contains("16777217 bytes"), "{said}");
        // The connection goes on, and what a peer sends is as short as ever.
        peer.send(&frame("3"));
        assert_eq!(within(&rt, peer.answer(&rt)).await, "xxx");
        let long = Peer::new(&path);
        long.send(&70_000_u32.to_be_bytes());
        let mut byte = [0];
        let ended = async {
            while (&long.0)
                .read(&mut byte)
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            {
                give_way().await;
            }
        };
        within(&rt, ended).await;
    });
}
