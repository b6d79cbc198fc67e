//! The accept loop on every backend: limits, failures, and its end.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Ready, pending, poll_fn};
use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::{Either, join, join_all, select};
use release_core::net::{Active, Address, Inet, Passive, Read, Served, Socket, Unix};
use release_core::rt::{Rt, Task};
use release_tests::{DEADLINE, on_every_backend, poll_once, run_on};

type Client = Socket<Active, Unix>;

const SOON: Duration = Duration::from_millis(100);

/// A listening socket, and its name, which nobody else has.
fn socket(rt: &Rt) -> (Socket<Passive, Unix>, Unix) {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    let name = Unix::abstract_name(format!("accept loop {} {number}", std::process::id()));
    let bound = Socket::unconnected(&name).and_then(|socket| socket.bind(&name));
    (bound.and_then(|bound| bound.listen(rt, 64)).expect("a socket"), name)
}

async fn connect(rt: &Rt, name: &Unix) -> io::Result<Client> {
    Socket::unconnected(name).expect("a socket").connect(rt, name, DEADLINE).await
}

/// What the server says until it closes the connection.
async fn ask(rt: &Rt, name: &Unix, question: &[u8]) -> Vec<u8> {
    let client = connect(rt, name).await.expect("a connection");
    client.write_all(question).await.expect("it takes the question");
    match client.read(1000, Some(DEADLINE)).await {
        Ok(Read::Eof(answer)) => answer,
        other => panic!("{other:?}"),
    }
}

/// Does what its client's first byte says.
async fn obey(rt: Rt, client: Client) -> Result<(), String> {
    let mut order = [0];
    client.read_once(&mut order).await.map_err(|error| error.to_string())?;
    match order[0] {
        b'e' => Err("as told".to_owned()),
        b'p' => panic!("as told"),
        b't' => pending().await,
        _ => {
            rt.sleep(SOON / 10).await;
            client.write_all(b"done").await.map_err(|error| error.to_string())
        }
    }
}

/// Counts how many there are of it at a time.
#[derive(Clone, Default)]
struct Gauge(Arc<(AtomicUsize, AtomicUsize)>);

struct Counted(Gauge);

impl Gauge {
    fn enter(&self) -> Counted {
        let now = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(now, Ordering::SeqCst);
        Counted(self.clone())
    }

    fn now(&self) -> usize {
        self.0.0.load(Ordering::SeqCst)
    }

    fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn until(rt: &Rt, mut so: impl FnMut() -> bool) {
    while !so() {
        rt.sleep(Duration::from_millis(1)).await;
    }
}

/// A loop whose handlers never end by themselves; its end is what the sender is dropped for.
fn endless(
    rt: &Rt,
    deadline: Option<Duration>,
) -> (Task<io::Result<Served>>, oneshot::Sender<()>, Gauge, Unix) {
    let ((socket, name), gauge) = (socket(rt), Gauge::default());
    let (stop, stopped) = oneshot::channel();
    let mut accepting = socket.accept_loop().until(stopped.map(drop));
    if let Some(deadline) = deadline {
        accepting = accepting.stop_deadline(deadline);
    }
    let within = gauge.clone();
    let serving = accepting.run(move |client: Client| {
        let counted = within.enter();
        async move {
            let _counted = counted;
            let read = client.read(1, None).await;
            read.map(drop)
        }
    });
    (rt.spawn(serving), stop, gauge, name)
}

/// Somebody who shares the socket shuts it down for all.
async fn ends_when_shut_down<A: Address>(socket: Socket<Passive, A>) {
    let other = UnixStream::from(socket.as_fd().try_clone_to_owned().unwrap());
    let handler = |_: Socket<Active, A>| std::future::ready(Ok::<(), Infallible>(()));
    let mut serving = Box::pin(socket.accept_loop().run(handler));
    assert!(poll_once(&mut serving).await.is_pending());
    other.shutdown(Shutdown::Both).unwrap();
    assert_eq!(serving.await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

on_every_backend! {
    fn a_handler_that_fails_ends_its_own_connection(backend: Backend) {
        run_on(backend, |rt| async move {
            let (socket, name) = socket(&rt);
            let (stop, stopped) = oneshot::channel::<()>();
            let accepting = socket.accept_loop().timeout(10 * SOON).until(stopped.map(drop));
            let for_handlers = rt.clone();
            let serving = rt.spawn(accepting.run(move |client| obey(for_handlers.clone(), client)));
            for (order, answer) in [(b"e", ""), (b"p", ""), (b"t", ""), (b"x", "done")] {
                assert_eq!(ask(&rt, &name, order).await, answer.as_bytes());
            }
            let orders = [b"x", b"p", b"x", b"e", b"x"].map(|order| ask(&rt, &name, order));
            join_all(orders).await;
            drop(stop);
            let served = serving.await.unwrap();
            assert_eq!((served.finished, served.failed, served.aborted), (4, 5, 0));
        });
    }

    fn so_does_one_that_panics_before_it_is_a_future(backend: Backend) {
        run_on(backend, |rt| async move {
            let (socket, name) = socket(&rt);
            let handler = |_: Client| -> Ready<Result<(), Infallible>> { panic!("at once") };
            let serving = rt.spawn(socket.accept_loop().run(handler));
            assert_eq!(ask(&rt, &name, b"").await, b"");
            assert_eq!(ask(&rt, &name, b"").await, b"");
            drop(serving);
        });
    }

    fn local_handlers_share_what_is_not_send_and_fail_alone(backend: Backend) {
        run_on(backend, |rt| async move {
            let (socket, name) = socket(&rt);
            let (stop, stopped) = oneshot::channel::<()>();
            let accepting =
                socket.accept_loop().connections(2).timeout(10 * SOON).until(stopped.map(drop));
            let (running, most) = (Cell::new(0), Cell::new(0));
            // On other threads, where the runtime has some.
            let asking = rt.spawn({
                let (rt, orders) = (rt.clone(), [b"x", b"p", b"t", b"e", b"x", b"x", b"x"]);
                async move {
                    let answers = join_all(orders.map(|order| ask(&rt, &name, order))).await;
                    drop(stop);
                    answers.iter().filter(|answer| **answer == b"done").count()
                }
            });
            let serving = accepting.run_local(async |client: Client| {
                struct Running<'a>(&'a Cell<usize>);
                impl Drop for Running<'_> {
                    fn drop(&mut self) {
                        self.0.set(self.0.get() - 1);
                    }
                }
                running.set(running.get() + 1);
                let _running = Running(&running);
                most.set(most.get().max(running.get()));
                obey(rt.clone(), client).await
            });
            let served = serving.await.unwrap();
            assert_eq!((served.finished, served.failed, served.aborted), (4, 3, 0));
            assert_eq!((asking.await, running.get(), most.get()), (4, 0, 2));
        });
    }

    fn no_more_connections_than_allowed(backend: Backend) {
        run_on(backend, |rt| async move {
            let ((socket, name), gauge) = (socket(&rt), Gauge::default());
            let (within, for_handlers) = (gauge.clone(), rt.clone());
            let serving = socket.accept_loop().connections(2).run(move |client: Client| {
                let (counted, rt) = (within.enter(), for_handlers.clone());
                async move {
                    rt.sleep(SOON / 10).await;
                    client.write_all(b"done").await?;
                    drop((counted, client));
                    Ok::<_, io::Error>(())
                }
            });
            let serving = rt.spawn(serving);
            let answers = join_all((0..10).map(|_| ask(&rt, &name, b""))).await;
            assert!(answers.iter().all(|answer| answer == b"done"), "{answers:?}");
            assert_eq!(gauge.most(), 2);
            drop(serving);
        });
    }

    fn at_the_end_handlers_finish(backend: Backend) {
        run_on(backend, |rt| async move {
            let (mut serving, stop, gauge, name) = endless(&rt, Some(DEADLINE));
            let client = connect(&rt, &name).await.unwrap();
            until(&rt, || gauge.now() == 1).await;
            drop(stop);
            let refused = async {
                while connect(&rt, &name).await.is_ok() {
                    rt.sleep(Duration::from_millis(1)).await;
                }
            };
            refused.await;
            assert!(rt.timeout(SOON, &mut serving).await.is_err(), "it did not wait");
            client.write_all(b"x").await.unwrap();
            let served = serving.await.unwrap();
            assert_eq!((served.failed, served.aborted), (0, 0));
            assert!(served.finished >= 1);
        });
    }

    fn up_to_a_deadline(backend: Backend) {
        run_on(backend, |rt| async move {
            let (serving, stop, gauge, name) = endless(&rt, Some(SOON));
            let clients = join(connect(&rt, &name), connect(&rt, &name)).await;
            until(&rt, || gauge.now() == 2).await;
            let stopped = rt.now();
            drop(stop);
            let served = serving.await.unwrap();
            assert!((SOON..DEADLINE / 2).contains(&(rt.now() - stopped)));
            assert_eq!((served.finished, served.failed, served.aborted), (0, 0, 2));
            until(&rt, || gauge.now() == 0).await;
            drop(clients);
        });
    }

    fn dropping_the_loop_drops_its_handlers(backend: Backend) {
        run_on(backend, |rt| async move {
            let (serving, _stop, gauge, name) = endless(&rt, None);
            let client = connect(&rt, &name).await.unwrap();
            until(&rt, || gauge.now() == 1).await;
            drop(serving);
            until(&rt, || gauge.now() == 0).await;
            assert_eq!(client.read(1, Some(DEADLINE)).await.unwrap(), Read::Eof(vec![]));
        });
    }

    fn what_is_in_the_queue_at_a_stop_is_served_as_the_limit_allows(backend: Backend) {
        run_on(backend, |rt| async move {
            for limit in [usize::MAX, 2] {
                let ((socket, name), gauge) = (socket(&rt), Gauge::default());
                let clients = join_all((0..10).map(|_| connect(&rt, &name))).await;
                let accepting = socket.accept_loop().connections(limit).until(async {});
                let (within, for_handlers) = (gauge.clone(), rt.clone());
                let served = accepting.run(move |client| {
                    let (counted, rt) = (within.enter(), for_handlers.clone());
                    async move { obey(rt, client).await.inspect(|()| drop(counted)) }
                });
                let served = rt.spawn(served);
                until(&rt, || gauge.now() == limit.min(10)).await;
                assert!(connect(&rt, &name).await.is_err(), "nobody listens any more");
                // The rest is for another process that has the socket; here there is none.
                for client in clients.into_iter().take(limit) {
                    let client = client.unwrap();
                    client.write_all(b"x").await.unwrap();
                    let answer = client.read(1000, Some(DEADLINE)).await.unwrap();
                    assert_eq!(answer, Read::Eof(b"done".to_vec()));
                }
                let served = served.await.unwrap();
                let expected = u64::try_from(limit.min(10)).unwrap();
                assert_eq!((served.finished, served.failed, served.aborted), (expected, 0, 0));
                assert!(gauge.most() <= limit);
            }
        });
    }

    fn an_error_for_good_ends_it(backend: Backend) {
        run_on(backend, |rt| async move {
            let (socket, _name) = socket(&rt);
            ends_when_shut_down(socket).await;
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            let socket = Socket::<Passive, Inet>::inherited(&rt, tcp).unwrap();
            ends_when_shut_down(socket).await;
        });
    }

    fn others_have_their_turn(backend: Backend) {
        run_on(backend, |rt| async move {
            let (mut socket, name) = socket(&rt);
            let _clients = join_all((0..60).map(|_| connect(&rt, &name))).await;
            let accepting = Box::pin(async {
                for _ in 0..60 {
                    socket.accept().await.unwrap();
                }
            });
            let mut turns = 0;
            let counting = poll_fn(|cx| {
                turns += 1;
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            });
            assert!(matches!(select(accepting, counting).await, Either::Left(_)));
            assert!(turns >= 3, "{turns}");
        });
    }

    fn when_descriptors_are_short_connections_wait(backend: Backend) {
        let thread = std::thread::current();
        let test = thread.name().expect("the name of the test");
        if std::env::var_os("DESCRIPTORS_ARE_SHORT").is_some() {
            release_core::log::stderr().expect("a log");
            return run_on(backend, short_of_descriptors);
        }
        let output = Command::new("prlimit")
            .arg("--nofile=64")
            .arg(std::env::current_exe().expect("this program"))
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env("DESCRIPTORS_ARE_SHORT", "")
            .output()
            .expect("prlimit runs");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log} {}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(log.matches("connections wait").count(), 1, "{log}");
    }
}

/// In a process of its own, which has few.
async fn short_of_descriptors(rt: Rt) {
    let (serving, stop, gauge, name) = endless(&rt, None);
    let before = connect(&rt, &name).await.unwrap();
    until(&rt, || gauge.now() == 1).await;

    let mut all = Vec::new();
    while let Ok(descriptor) = std::fs::File::open("/dev/null") {
        all.push(descriptor);
    }
    all.pop();
    // Takes the last one, so that there is none to accept it with.
    let waiting = connect(&rt, &name).await.unwrap();
    let started = cpu_time();
    rt.sleep(10 * SOON).await;
    let burnt = cpu_time() - started;
    assert!(burnt < SOON, "{burnt:?} of processor time while nothing can be done");
    assert_eq!(gauge.now(), 1);
    // Those that are there are served meanwhile.
    before.write_all(b"x").await.unwrap();
    assert_eq!(before.read(1, Some(DEADLINE)).await.unwrap(), Read::Eof(vec![]));
    drop(all);
    waiting.write_all(b"x").await.unwrap();
    assert_eq!(waiting.read(1, Some(DEADLINE)).await.unwrap(), Read::Eof(vec![]));
    drop(stop);
    assert_eq!(serving.await.unwrap().finished, 2);
}

/// What all threads of this process have used.
fn cpu_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)
        .expect("the usage");
    let time = |time: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap())
    };
    time(usage.user_time()) + time(usage.system_time())
}
