//! Sockets of every kind on every backend: addresses, options, binding, connecting, and
//! buffers that are read from them and written to them.

use std::fs;
use std::io::{ErrorKind as Io, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Barrier;
use std::time::Duration;

use futures_util::future::{join, join_all};
use release_core::buffer::Buffer;
use release_core::ipc::Text;
use release_core::ipc::plain::{Client, Server};
use release_core::net::{Active, Address, Inet, Passive, Read, Socket, Stream, Unix};
use release_core::rt::{Driver, Rt, local::Local, run};
use release_core::{Error, ErrorKind};
use release_tests::{DEADLINE, on_every_backend, poll_once, run_on};

const SOON: Duration = Duration::from_millis(100);

fn inet(text: &str) -> Inet {
    text.parse().expect("an address")
}

/// An abstract name that nobody else has.
fn abstract_name(name: &str) -> Unix {
    let thread = std::thread::current();
    Unix::abstract_name(format!("{name} {} {:?}", std::process::id(), thread.name()))
}

fn listening<A: Address>(address: &A, backlog: u32) -> Result<OwnedFd, Error> {
    Socket::unconnected(address)?.bind(address)?.into_listening(backlog)
}

fn listener<A: Address>(rt: &Rt, address: &A) -> Socket<Passive, A> {
    let bound = Socket::unconnected(address).and_then(|socket| socket.bind(address));
    bound.and_then(|bound| bound.listen(rt, 16)).expect("a listener")
}

async fn connect<A: Address>(rt: &Rt, address: &A) -> std::io::Result<Socket<Active, A>> {
    Socket::unconnected(address).expect("a socket").connect(rt, address, DEADLINE).await
}

/// Both ends of a connection.
async fn pair<A: Address>(rt: &Rt, address: &A) -> (Socket<Active, A>, Socket<Active, A>) {
    let mut socket = listener(rt, address);
    let address = socket.local().expect("its address");
    let (server, client) = join(socket.accept(), connect(rt, &address)).await;
    (server.expect("a connection"), client.expect("a connection"))
}

async fn talks<A: Address + PartialEq>(rt: Rt, address: A) {
    let (server, client) = pair(&rt, &address).await;
    client.write_all(b"ping").await.unwrap();
    assert_eq!(server.read(4, None).await.unwrap(), Read::Data(b"ping".to_vec()));
    server.write_all(b"pong").await.unwrap();
    assert_eq!(client.read(4, None).await.unwrap(), Read::Data(b"pong".to_vec()));
    assert_eq!(client.peer().unwrap(), server.local().unwrap());
    assert_eq!(client.local().unwrap(), server.peer().unwrap());
    drop(client);
    assert_eq!(server.read(1, None).await.unwrap(), Read::Eof(vec![]));
}

on_every_backend! {
    fn all_kinds_talk(backend: Backend) {
        let place = tempfile::tempdir().expect("a directory");
        run_on(backend, |rt| talks(rt, Unix::path(place.path().join("socket"))));
        run_on(backend, |rt| talks(rt, abstract_name("talks")));
        run_on(backend, |rt| talks(rt, inet("127.0.0.1:0")));
        run_on(backend, |rt| talks(rt, inet("[::1]:0")));
    }

    fn a_unix_socket_knows_its_peer(backend: Backend) {
        run_on(backend, |rt| async move {
            let name = abstract_name("peer");
            let (server, client) = pair(&rt, &name).await;
            let peer = server.credentials().unwrap();
            assert_eq!(u32::try_from(peer.pid).unwrap(), std::process::id());
            assert_eq!(server.local().unwrap(), name);
            assert_eq!(server.peer().unwrap(), Unix::Unnamed);
            drop(client);
        });
    }

    fn a_client_may_have_an_address_too(backend: Backend) {
        run_on(backend, |rt| async move {
            let (mut socket, mine) = (listener(&rt, &abstract_name("to")), abstract_name("from"));
            let to = socket.local().unwrap();
            let client = Socket::unconnected(&mine).unwrap().bind(&mine).unwrap();
            let (server, client) = join(socket.accept(), client.connect(&rt, &to, DEADLINE)).await;
            assert_eq!(server.unwrap().peer().unwrap(), mine);
            drop(client);
        });
    }

    fn connecting_fails_in_time(backend: Backend) {
        let place = tempfile::tempdir().expect("a directory");
        run_on(backend, |rt| async move {
            let nobody = inet("127.0.0.1:0");
            let bound = Socket::unconnected(&nobody).unwrap().bind(&nobody).unwrap();
            let refused = connect(&rt, &bound.local().unwrap()).await.unwrap_err();
            assert_eq!(refused.kind(), Io::ConnectionRefused);
            let path = Unix::path(place.path().join("socket"));
            assert_eq!(connect(&rt, &path).await.unwrap_err().kind(), Io::NotFound);
            let unnamed = connect(&rt, &Unix::Unnamed).await.unwrap_err();
            assert_eq!(unnamed.kind(), Io::InvalidInput);

            // A full queue: a Unix socket says so, TCP says nothing.
            let _full = listening(&path, 0).unwrap();
            let _first = connect(&rt, &path).await.unwrap();
            let second = Socket::unconnected(&path).unwrap().connect(&rt, &path, SOON).await;
            assert_eq!(second.unwrap_err().kind(), Io::TimedOut);

            let full = Socket::unconnected(&nobody).unwrap().bind(&nobody).unwrap();
            let address = full.local().unwrap();
            let _full = full.into_listening(0).unwrap();
            let some = (0..4).map(|_| {
                Socket::unconnected(&address).unwrap().connect(&rt, &address, SOON)
            });
            let errors = join_all(some).await.into_iter().filter_map(Result::err);
            let errors: Vec<_> = errors.map(|error| error.kind()).collect();
            assert!(errors.contains(&Io::TimedOut), "{errors:?}");
        });
    }

    fn a_full_queue_is_waited_for(backend: Backend) {
        run_on(backend, |rt| async move {
            let name = abstract_name("full");
            let full = listening(&name, 0).unwrap();
            let first = connect(&rt, &name).await.unwrap();
            let mut second = Box::pin(connect(&rt, &name));
            assert!(poll_once(&mut second).await.is_pending());
            let mut socket = Socket::<Passive, Unix>::inherited(&rt, full).unwrap();
            let accepting = async { (socket.accept().await, socket.accept().await) };
            let (accepted, second) = join(accepting, second).await;
            drop((accepted.0.unwrap(), accepted.1.unwrap(), first, second.unwrap()));
        });
    }

    fn a_connection_can_become_a_server_of_frames(backend: Backend) {
        run_on(backend, |rt| async move {
            let (server, client) = pair(&rt, &abstract_name("frames")).await;
            let mut server =
                Server::<String, _>::new(&rt, server.into_descriptor().unwrap(), Text).unwrap();
            let client =
                Client::<String, _>::new(&rt, client.into_descriptor().unwrap(), Text).unwrap();
            let answering = async {
                let request = server.read_request().await.unwrap().unwrap();
                server.write_response(&request.to_uppercase()).await.unwrap();
            };
            let question = "ping".to_owned();
            let (answer, ()) = join(client.call(&question), answering).await;
            assert_eq!(answer.unwrap(), "PING");
        });
    }

    fn buffers_are_sent_and_received(backend: Backend) {
        run_on(backend, |rt| async move {
            let (server, client) = pair(&rt, &abstract_name("buffers")).await;
            let sent = Buffer::of_string("0123456789");
            assert_eq!(sent.write(&client, 2, 5).await.unwrap(), 5);
            let mut heard = Buffer::create(8);
            assert_eq!(heard.read(&server, 3, 4).await.unwrap(), 4);
            assert_eq!(heard.contents(), b"\0\0\x002345");
            assert_eq!(heard.read(&server, 0, 8).await.unwrap(), 1);
            assert_eq!(heard.contents(), b"6\0\x002345");

            for (offset, count) in [(0, 9), (9, 0), (8, 1), (usize::MAX, 1), (1, usize::MAX)] {
                let error = heard.read(&server, offset, count).await.unwrap_err();
                assert_eq!(error.kind(), Io::InvalidInput);
            }
            for (offset, count) in [(0, 11), (10, 1), (usize::MAX, 1), (1, usize::MAX)] {
                let error = sent.write(&client, offset, count).await.unwrap_err();
                assert_eq!(error.kind(), Io::InvalidInput);
            }

            // A call that is dropped leaves the buffer as it was.
            assert!(rt.timeout(SOON / 10, heard.read(&server, 0, 8)).await.is_err());
            assert_eq!((heard.contents(), heard.size()), (&b"6\0\x002345"[..], 8));
            drop(client);
            assert_eq!(heard.read(&server, 7, 1).await.unwrap(), 0);
            assert_eq!(heard.contents(), b"6\0\x002345");
        });
    }
}

#[test]
fn options_reach_the_connections() {
    let driver = Local::new().expect("a driver");
    release_core::rt::run(&driver, async {
        let rt = driver.handle();
        let address = inet("127.0.0.1:0");
        let socket = Socket::unconnected(&address).unwrap();
        let socket = socket.no_delay(true).unwrap().keep_alive(DEADLINE).unwrap();
        let socket = socket.send_buffer(8192).unwrap().receive_buffer(8192).unwrap();
        let mut socket = socket.bind(&address).unwrap().listen(&rt, 16).unwrap();
        let client = TcpStream::connect(socket.local().unwrap()).unwrap();
        assert!(!client.nodelay().unwrap());
        let server = socket.accept().await.unwrap().into_descriptor().unwrap();
        assert!(TcpStream::from(server).nodelay().unwrap());
    });
    let path = Unix::abstract_name("any");
    Socket::unconnected(&path).unwrap().send_buffer(8192).unwrap().receive_buffer(8192).unwrap();
    assert!(Socket::unconnected(&inet("127.0.0.1:0")).unwrap().only_v6(true).is_err());
}

#[test]
fn ports_are_shared_on_request_only() {
    let any = inet("127.0.0.1:0");
    let shared = |address: &Inet, on| {
        Socket::unconnected(address)?.reuse_port(on)?.bind(address)?.into_listening(16)
    };
    let first = TcpListener::from(shared(&any, true).unwrap());
    let address = first.local_addr().unwrap();
    shared(&address, true).unwrap();
    let error = shared(&address, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::System);
    let why = format!("cannot bind {address}: Address already in use");
    assert!(error.report().starts_with(&why), "{}", error.report());
}

#[test]
fn version_6_may_leave_version_4_alone() {
    let any = inet("[::]:0");
    let socket = Socket::unconnected(&any).unwrap().only_v6(true).unwrap();
    let v6 = TcpListener::from(socket.bind(&any).unwrap().into_listening(16).unwrap());
    let port = v6.local_addr().unwrap().port();
    listening(&inet(&format!("0.0.0.0:{port}")), 16).expect("the other half");
    let other_family = Socket::unconnected(&any).unwrap().bind(&inet("127.0.0.1:0"));
    assert!(other_family.unwrap_err().report().contains("cannot bind 127.0.0.1:0"));
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("it exists").ino()
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("socket");
    drop(UnixListener::bind(&path).expect("a socket"));
    let first = listening(&Unix::path(&path), 16).expect("nobody has it");
    let before = inode(&path);
    for _ in 0..2 {
        let error = listening(&Unix::path(&path), 16).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyRunning);
        assert!(error.report().contains("somebody answers"), "{}", error.report());
        assert_eq!(inode(&path), before);
        UnixStream::connect(&path).expect("it still listens");
    }
    drop(first);
    listening(&Unix::path(&path), 16).expect("nobody has it any more");
}

#[test]
fn whatever_else_is_at_the_path_stays() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("socket");
    let target = place.path().join("target");
    fs::write(&target, "precious").expect("a file");
    let refused = || {
        let error = listening(&Unix::path(&path), 16).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{}", error.report());
        assert!(error.report().contains("not a socket"), "{}", error.report());
        assert_eq!(fs::read_to_string(&target).expect("the file"), "precious");
    };
    fs::copy(&target, &path).expect("a file");
    refused();
    fs::remove_file(&path).expect("it is still there");
    symlink(&target, &path).expect("a link");
    refused();
    fs::remove_file(&path).expect("it is still there");
    symlink(place.path().join("nothing"), &path).expect("a link");
    refused();
    fs::remove_file(&path).expect("it is still there");
    // Neither is a live socket behind a link taken for one's own.
    let _live = UnixListener::bind(place.path().join("live")).expect("a socket");
    symlink(place.path().join("live"), &path).expect("a link");
    refused();
    fs::remove_file(&path).expect("it is still there");
    fs::create_dir(&path).expect("a directory");
    refused();
}

#[test]
fn of_many_who_find_a_dead_socket_one_has_it() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("socket");
    for _ in 0..10 {
        drop(UnixListener::bind(&path).expect("a socket"));
        let (barrier, address) = (Barrier::new(6), Unix::path(&path));
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let one = || {
                barrier.wait();
                listening(&address, 16)
            };
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        UnixStream::connect(&path).expect("it is the one at the path");
        drop(outcomes);
        fs::remove_file(&path).expect("the file");
    }
}

#[test]
fn a_directory_that_somebody_keeps_locked_hinders_nobody() {
    let place = tempfile::tempdir().expect("a directory");
    let directory = fs::File::open(place.path()).expect("it opens");
    directory.lock().expect("a lock");
    let _socket = listening(&Unix::path(place.path().join("socket")), 16).expect("a socket");
}

#[test]
fn the_mode_is_what_was_asked_for() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("socket");
    let mode = || fs::metadata(&path).expect("the file").permissions().mode() & 0o777;
    drop(listening(&Unix::path(&path), 16).unwrap());
    assert_eq!(mode(), 0o600);
    for wanted in [0o666, 0o660, 0o777, 0o200] {
        let address = Unix::path(&path);
        let socket = Socket::unconnected(&address).unwrap().mode(wanted).unwrap();
        let _bound = socket.bind(&address).unwrap();
        assert_eq!(mode(), wanted);
    }
}

#[test]
fn names_that_cannot_be_are_said_to_be_so() {
    let wrong = |address: Unix, why: &str| {
        let error = listening(&address, 16).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.report().contains(why), "{}", error.report());
    };
    wrong(Unix::path("x".repeat(108)), "has 108 bytes, and the system allows 107");
    wrong(Unix::abstract_name("x".repeat(108)), "at most 107 bytes");
    wrong(Unix::path(""), "cannot be the name");
    wrong(Unix::path("a\0b"), "cannot be the name");
    wrong(Unix::Unnamed, "cannot be the name");
    listening(&Unix::abstract_name("x".repeat(107)), 16).expect("the longest");

    let name = abstract_name("twice");
    let _first = listening(&name, 16).unwrap();
    let error = listening(&name, 16).unwrap_err();
    assert!(error.report().contains("Address already in use"), "{}", error.report());
    let error = listening(&Unix::path("/missing/socket"), 16).unwrap_err();
    assert!(error.report().contains("No such file or directory"), "{}", error.report());
    assert_eq!(Unix::abstract_name(b"a\0\xff").to_string(), "@a\\x00\\xff");
}

#[test]
fn only_a_listening_socket_is_inherited() {
    let driver = Local::new().expect("a driver");
    let rt = driver.handle();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let v6 = TcpListener::bind("[::1]:0").unwrap();
    let connected = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    assert!(Socket::<Passive, Inet>::inherited(&rt, tcp.try_clone().unwrap()).is_ok());
    assert!(Socket::<Passive, Inet>::inherited(&rt, v6).is_ok());
    let name = listening(&abstract_name("inherited"), 16).unwrap();
    let wrong = [
        (OwnedFd::from(connected), "one that does not listen"),
        (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "not a stream socket"),
        (fs::File::open("/dev/null").unwrap().into(), "not a socket"),
        (name.try_clone().unwrap(), "of another kind"),
    ];
    for (descriptor, why) in wrong {
        let error = Socket::<Passive, Inet>::inherited(&rt, descriptor).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.report().contains(why), "{}", error.report());
    }
    assert!(Socket::<Passive, Unix>::inherited(&rt, tcp).is_err());
    assert!(Socket::<Passive, Unix>::inherited(&rt, name).is_ok());
}

#[test]
fn a_stream_is_what_is_left_without_the_kind() {
    let driver = Local::new().expect("a driver");
    release_core::rt::run(&driver, async {
        let rt = driver.handle();
        let mut socket = listener(&rt, &inet("127.0.0.1:0"));
        let mut client = TcpStream::connect(socket.local().unwrap()).unwrap();
        let stream: Stream = socket.accept().await.unwrap().into_stream();
        stream.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        client.read_exact(&mut heard).unwrap();
        client.write_all(&heard).unwrap();
        assert_eq!(stream.read(5, None).await.unwrap(), Read::Data(heard.to_vec()));
    });
}

/// A listener, and the address to connect to.
fn to_convert(rt: &Rt) -> (Socket<Passive, Inet>, Inet) {
    let socket = listener(rt, &inet("127.0.0.1:0"));
    let address = socket.local().expect("its address");
    (socket, address)
}

#[test]
fn sockets_become_those_of_std() {
    let driver = Local::new().expect("a runtime");
    let rt = driver.handle();
    let (socket, address) = to_convert(&rt);
    let socket = TcpListener::try_from(socket).expect("a listener");
    assert_eq!(socket.accept().expect_err("nobody connects").kind(), Io::WouldBlock);
    run(&driver, async {
        let client = connect(&rt, &address).await.expect("a connection");
        let mut client = TcpStream::try_from(client).expect("a connection");
        let (mut server, peer) = socket.accept().expect("a connection");
        assert_eq!(peer, client.local_addr().expect("its address"));
        client.write_all(b"ping").expect("room");
        let mut received = [0; 4];
        server.read_exact(&mut received).expect("a message");
        assert_eq!(&received, b"ping");

        let (server, client) = pair(&rt, &abstract_name("std")).await;
        let pair = [server, client].map(|end| UnixStream::try_from(end).expect("a connection"));
        (&pair[0]).write_all(b"pong").expect("room");
        (&pair[1]).read_exact(&mut received).expect("a message");
        assert_eq!(&received, b"pong");
    });
    let unix = listener(&rt, &abstract_name("listener"));
    let unix = UnixListener::try_from(unix).expect("a listener");
    assert!(unix.local_addr().expect("its address").as_pathname().is_none());
}

#[test]
fn sockets_become_those_of_tokio() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let driver = release_tokio::driver().expect("a runtime");
    let rt = driver.handle();
    let (socket, _) = to_convert(&rt);
    let outside = tokio::net::TcpListener::try_from(socket).expect_err("nothing could watch it");
    assert!(outside.to_string().contains("no reactor"), "{outside}");
    run(&driver, async {
        let (socket, address) = to_convert(&rt);
        let socket: tokio::net::TcpListener = socket.try_into().expect("a listener");
        let (server, client) = join(socket.accept(), connect(&rt, &address)).await;
        let (mut server, client) = (server.expect("a connection").0, client.expect("a connection"));
        // One end is tokio's, the other implements tokio's traits.
        let mut client = client.into_stream();
        client.write_all(b"ping").await.expect("it is sent");
        AsyncWriteExt::shutdown(&mut client).await.expect("the end is sent");
        let mut received = String::new();
        server.read_to_string(&mut received).await.expect("until the end");
        assert_eq!(received, "ping");
        server.write_all(b"pong").await.expect("it is sent");
        drop(server);
        received.clear();
        client.read_to_string(&mut received).await.expect("until the end");
        assert_eq!(received, "pong");

        let name = abstract_name("tokio");
        let socket: tokio::net::UnixListener = listener(&rt, &name).try_into().expect("a listener");
        let (server, client) = join(socket.accept(), connect(&rt, &name)).await;
        let (mut server, client) = (server.expect("a connection").0, client.expect("a connection"));
        let mut client = tokio::net::UnixStream::try_from(client).expect("a connection");
        client.write_all(b"ping").await.expect("it is sent");
        drop(client);
        received.clear();
        server.read_to_string(&mut received).await.expect("until the end");
        assert_eq!(received, "ping");
    });
}

#[test]
fn sockets_become_those_of_smol() {
    use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let driver = release_smol::driver().expect("a runtime");
    let rt = driver.handle();
    run(&driver, async {
        let (socket, address) = to_convert(&rt);
        let socket: smol::net::TcpListener = socket.try_into().expect("a listener");
        let (server, client) = join(socket.accept(), connect(&rt, &address)).await;
        let (mut server, client) = (server.expect("a connection").0, client.expect("a connection"));
        let mut client: async_io::Async<TcpStream> = client.try_into().expect("a connection");
        client.write_all(b"ping").await.expect("it is sent");
        drop(client);
        let mut received = String::new();
        server.read_to_string(&mut received).await.expect("until the end");
        assert_eq!(received, "ping");
        let unix = listener(&rt, &abstract_name("smol"));
        let unix: smol::net::unix::UnixListener = unix.try_into().expect("a listener");
        assert!(unix.local_addr().expect("its address").as_pathname().is_none());
    });
}
