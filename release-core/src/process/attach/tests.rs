//! Connections of workers that continue in another image of the master.

use std::future::{poll_fn, ready};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::Duration;

use futures_channel::oneshot;

use super::*;
use crate::ipc::hello::Agreed;
use crate::ipc::hello::MessageType;
use crate::ipc::plain::Client;
use crate::ipc::serve::serve;
use crate::ipc::{Header, Postcard, Refused, SendError, state_blob};
use crate::rt::local::Local;
use crate::rt::{Driver, give_way, run};

type Told = Arc<Mutex<Vec<String>>>;

fn worker(rt: &Rt) -> WorkerInfo {
    WorkerInfo { id: 0, pid: 1, group: "group".into(), generation: 1, rt: rt.clone() }
}

fn hello() -> Hello {
    let (group, listeners) = ("group".to_owned(), Vec::new());
    let protocol = crate::ipc::hello::PROTOCOL;
    let agreed = Agreed::of(Limits::IPC);
    let (worker, generation, context) = (0, 1, Vec::new());
    Hello { protocol, worker, generation, group, agreed, listeners, types: None, context }
}

fn types() -> Types {
    Types::of::<String, String, Postcard>(MessageType::of::<()>(&Postcard), &Postcard)
}

fn notify(told: &Told) -> Notify {
    let told = Arc::clone(told);
    Box::new(move |news| told.lock().unwrap().push(format!("{news:?}")))
}

/// Answers with the prefix `name`, and counts the requests of each process.
fn calls(name: &'static str, connections: &Connections<String, Postcard>) -> impl Attach + use<> {
    let handler = move |_: WorkerInfo, seen: Arc<Mutex<u32>>, text: String| {
        let mut seen = seen.lock().unwrap();
        *seen += 1;
        ready(Ok(format!("{name} {seen}: {text}")))
    };
    let state = |_: &WorkerInfo| Mutex::new(0);
    let permit = |_: &Mutex<u32>, text: &String| Decision::only_if(text != "bad", "bad");
    let rules = Rules { state, permit, handler };
    Calls::<String, _, _, _, _, String>::new(types(), Postcard, rules, connections.clone())
}

fn plain<H, F>(handler: H, connections: &Connections<String, Postcard>) -> impl Attach + use<H, F>
where
    H: Fn(WorkerInfo, String) -> F + Send + Sync + 'static,
    F: Future<Output = Result<String, Refused>> + Send + 'static,
{
    Plain::<String, _, _, String>::new(types(), Postcard, handler, connections.clone())
}

async fn within<T>(rt: &Rt, future: impl Future<Output = T>) -> T {
    rt.timeout(Duration::from_secs(10), future).await.expect("in time")
}

async fn some_turns() {
    for _ in 0..20 {
        give_way().await;
    }
}

/// Returns the state for another image of the process.
async fn hand_over(rt: &Rt, old: Attached) -> Frozen {
    let link = old.link.upgrade().unwrap();
    link.pause();
    within(rt, poll_fn(|cx| link.poll_at_rest(cx))).await;
    let frozen = link.freeze(None).unwrap().unwrap();
    let (bytes, descriptors) = state_blob::pack(&frozen).unwrap();
    drop(frozen);
    drop((old, link));
    some_turns().await;
    state_blob::unpack(&bytes, descriptors).unwrap()
}

fn on_local<F: Future>(test: impl FnOnce(Rt) -> F) -> F::Output {
    let driver = Local::new().unwrap();
    let rt = driver.handle();
    run(&driver, test(rt))
}

#[test]
fn a_worker_is_not_greeted_again_and_may_say_that_it_is_ready() {
    on_local(async |rt| {
        let (here, there) = UnixStream::pair().unwrap();
        let (told, connections) = (Told::default(), Connections::default());
        let group = calls("old", &connections);
        let limits = Limits::IPC;
        let connection = NewConnection {
            socket: here.into(),
            hello: hello(),
            limits,
            services: GroupServices::default(),
        };
        let old = group.attach(worker(&rt), connection, notify(&told)).unwrap();
        // The worker reads the greeting, and then asks and answers.
        let link = Arc::new(Link::new(&rt, there.into(), Mode::Calls, limits).unwrap());
        let mut greetings = 0;
        let mut take = |incoming: crate::ipc::link::Incoming<'_>| {
            greetings += u32::from(matches!(incoming.header, Header::Hello));
        };
        within(&rt, poll_fn(|cx| link.poll_incoming(cx, 0, &mut take))).await.unwrap();
        assert_eq!(greetings, 1);
        let peer = Peer::<String>::new(Arc::clone(&link), Postcard);
        let answer = |text: String| Ok(ready(Ok(format!("worker: {text}"))));
        let _serving =
            rt.spawn(serve::<String, _, _, _>(Arc::clone(&link), Postcard, answer, |_| {}));
        let first = within(&rt, peer.call(&"first".to_owned())).await;
        assert_eq!(first.unwrap(), "old 1: first");

        old.link.upgrade().unwrap().pause();
        link.queue(Some(Header::Ready), |_| Ok::<(), SendError>(())).unwrap();
        link.flush_now();
        let frozen = hand_over(&rt, old).await;
        assert!(told.lock().unwrap().iter().all(|news| news != "Ready"), "not begun any more");
        assert!(connections.list().is_empty());

        let group = calls("new", &connections);
        let told = Told::default();
        let new =
            group.reattach(worker(&rt), frozen, GroupServices::default(), notify(&told)).unwrap();
        some_turns().await;
        assert_eq!(*told.lock().unwrap(), ["Ready"]);
        let second = within(&rt, peer.call(&"second".to_owned())).await;
        assert_eq!(second.unwrap(), "new 1: second", "its state begins anew");
        let asked = within(&rt, connections.list()[0].1.call(&"third".to_owned())).await;
        assert_eq!(asked.unwrap(), "worker: third");
        assert_eq!(group.types().difference(&types()), None);
        assert!(new.link.upgrade().is_some());
        assert!(within(&rt, peer.call(&"bad".to_owned())).await.is_err());
        some_turns().await;
        assert!(told.lock().unwrap()[1].contains("bad"));
    });
}

#[test]
fn a_plain_worker_goes_on_in_either_direction() {
    on_local(async |rt| {
        let (here, there) = UnixStream::pair().unwrap();
        let (told, connections) = (Told::default(), Connections::default());
        let (go, gone) = oneshot::channel::<()>();
        let gone = Mutex::new(Some(gone));
        let slow = move |_, text: String| {
            let gone = gone.lock().unwrap().take();
            async move {
                if let Some(gone) = gone {
                    let _ = gone.await;
                }
                Ok(format!("old: {text}"))
            }
        };
        let group = plain(slow, &connections);
        let limits = Limits::IPC;
        let connection = NewConnection {
            socket: here.into(),
            hello: hello(),
            limits,
            services: GroupServices::default(),
        };
        let old = group.attach(worker(&rt), connection, notify(&told)).unwrap();
        let client = Arc::new(Client::<String>::new(&rt, there.into(), Postcard).unwrap());
        let asking = Arc::clone(&client);
        let first = rt.spawn(async move { asking.call(&"first".to_owned()).await });
        some_turns().await;
        old.link.upgrade().unwrap().pause();
        let asking = Arc::clone(&client);
        let second = rt.spawn(async move { asking.call(&"second".to_owned()).await });
        some_turns().await;
        assert_eq!(old.link.upgrade().unwrap().unfinished(), 1);
        go.send(()).unwrap();
        let frozen = hand_over(&rt, old).await;
        let group = plain(|_, text| ready(Ok(format!("new: {text}"))), &connections);
        let _new =
            group.reattach(worker(&rt), frozen, GroupServices::default(), notify(&told)).unwrap();
        assert_eq!(within(&rt, first).await.unwrap(), "old: first");
        assert_eq!(within(&rt, second).await.unwrap(), "new: second");
        assert_eq!(connections.broadcast("to all".to_owned()), 1);
        assert_eq!(within(&rt, client.next_message()).await.unwrap().unwrap(), "to all");
        assert!(told.lock().unwrap().is_empty());
    });
}

#[test]
fn plain_and_calls_are_different_connections() {
    on_local(async |rt| {
        let (here, _there) = UnixStream::pair().unwrap();
        let connections = Connections::default();
        let group = plain(|_, text| ready(Ok(text)), &connections);
        let told = Told::default();
        let limits = Limits::IPC;
        let connection = NewConnection {
            socket: here.into(),
            hello: hello(),
            limits,
            services: GroupServices::default(),
        };
        let old = group.attach(worker(&rt), connection, notify(&told)).unwrap();
        let frozen = hand_over(&rt, old).await;
        let group = calls("new", &connections);
        let error = group
            .reattach(worker(&rt), frozen, GroupServices::default(), notify(&told))
            .unwrap_err();
        assert!(error.report().contains("plain"), "{error}");
    });
}
