//! Parsing of addresses, and the messages for wrong ones.

use std::os::fd::AsFd;

use super::*;

fn read(uri: &str) -> Result<ListenOn, String> {
    uri.parse::<ListenOn>().map_err(|error| error.to_string())
}

#[test]
fn uris_are_read() {
    let inet = |text: &str| ListenOn::from(text.parse::<Inet>().unwrap());
    assert_eq!(read("tcp://127.0.0.1:80"), Ok(inet("127.0.0.1:80")));
    assert_eq!(read("tcp://127.0.0.1:80/"), Ok(inet("127.0.0.1:80")));
    assert_eq!(read("tcp4://localhost:8945"), Ok(inet("127.0.0.1:8945")));
    assert_eq!(read("tcp4://:80"), Ok(inet("0.0.0.0:80")));
    let v6 = ListenOn { only_v6: true, ..inet("[::1]:80") };
    assert_eq!(read("tcp6://[::1]:80"), Ok(v6));
    let each = read("tcp6://[::1]:80?each").unwrap();
    assert_eq!(each.shared_port(), Some(("[::1]:80".parse().unwrap(), true)));
    assert_eq!(each.to_string(), "[::1]:80?each");
    assert_eq!(read("tcp4://:80").unwrap().shared_port(), None);
    assert_eq!(read("unix:///run/x"), Ok(Unix::path("/run/x").into()));
    assert_eq!(read("unix://@x"), Ok(Unix::abstract_name("x").into()));
    let root = ListenOn::from(Unix::path("/x")).mode(0o660).owner(0, 0);
    assert_eq!(read("unix:///x?mode=0660&owner=root&group=root"), Ok(root));
}

#[test]
fn uris_of_other_sockets_are_read() {
    let address = |text: &str| text.parse::<Inet>().unwrap();
    let udp = ListenOn::udp(address("127.0.0.1:53"));
    assert_eq!(read("udp://127.0.0.1:53"), Ok(udp.clone()));
    let all = read("udp4://localhost:53?rcvbuf=64K&slots=256").unwrap();
    assert_eq!(all, udp.clone().receive_buffer(64 << 10).slots(256));
    assert_eq!([udp.to_string(), all.to_string()], ["udp://127.0.0.1:53"; 2]);
    assert_eq!(read("udp6://[::1]:53").unwrap().shared_port(), Some((address("[::1]:53"), true)));
    assert_eq!(read("unixgram:///x"), Ok(ListenOn::unix_datagrams(Unix::path("/x"))));
    let records = ListenOn::unix_records(Unix::abstract_name("x")).mode(0o666);
    assert_eq!(read("unixseq://@x?mode=0666"), Ok(records.clone()));
    assert_eq!(records.to_string(), "unixseq://@x");
    let is_slots = |uri: &str| read(uri).unwrap().datagrams().is_some();
    assert!(is_slots("udp://:53") && !is_slots("unixgram:///x") && !is_slots("tcp://:53"));
}

#[test]
fn a_socket_of_another_type_does_not_meet_it() {
    let meets = |socket: &OwnedFd, uri: &str| read(uri).unwrap().is_met_by(socket, None);
    let socket = OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    assert!(meets(&socket, "udp://127.0.0.1:0") && !meets(&socket, "tcp://127.0.0.1:0"));
    let socket = OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    assert!(!meets(&socket, "udp://127.0.0.1:0") && meets(&socket, "tcp://127.0.0.1:0"));
}

#[test]
fn a_socket_meets_what_it_was_asked_for_and_nothing_else() {
    let listening = |address: &str| {
        let socket = std::net::TcpListener::bind(address).unwrap();
        let port = socket.local_addr().unwrap().port();
        (OwnedFd::from(socket), port)
    };
    let meets = |socket: &OwnedFd, uri: &str| read(uri).unwrap().is_met_by(socket, None);
    let (socket, port) = listening("127.0.0.1:0");
    assert!(meets(&socket, &format!("tcp://127.0.0.1:{port}")));
    assert!(meets(&socket, "tcp://127.0.0.1:0"), "the system chooses");
    let other = port ^ 1;
    for uri in ["tcp://127.0.0.2:0", "tcp4://:0", "tcp6://[::1]:0", "unix:///x", "unix://@x"] {
        assert!(!meets(&socket, uri), "{uri}");
    }
    assert!(!meets(&socket, &format!("tcp://127.0.0.1:{other}")));
    let (socket, _) = listening("[::]:0");
    assert!(meets(&socket, "tcp://[::]:0") && !meets(&socket, "tcp6://[::]:0"));
    let (socket, _) = listening("[::1]:0");
    assert!(meets(&socket, "tcp://[::1]:0") && meets(&socket, "tcp6://[::1]:0"));

    let deaf = Socket::unconnected(&"127.0.0.1:0".parse::<Inet>().unwrap()).unwrap();
    let deaf = deaf.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let deaf = deaf.as_fd().try_clone_to_owned().unwrap();
    assert!(!meets(&deaf, "tcp://127.0.0.1:0"), "it does not listen");
    let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    assert!(!meets(&file, "tcp://127.0.0.1:0") && !meets(&file, "unix:///dev/null"));
}

#[test]
fn a_socket_file_is_that_file_with_its_mode() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let socket = OwnedFd::from(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let file = FileIdentity::of(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().mode() & 0o777;
    let wanted = ListenOn::from(Unix::path(&path)).mode(mode);
    assert!(wanted.is_met_by(&socket, Some(file)));
    assert!(!wanted.is_met_by(&socket, None));
    assert!(!wanted.clone().mode(mode ^ 0o070).is_met_by(&socket, Some(file)));
    assert!(!wanted.clone().owner(12345, 12345).is_met_by(&socket, Some(file)));
    std::fs::rename(&path, path.with_extension("moved")).unwrap();
    assert!(!wanted.is_met_by(&socket, Some(file)), "nobody finds it");
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(!wanted.is_met_by(&socket, Some(file)), "another one is there");
}

#[test]
fn what_is_none_is_refused_with_the_reason() {
    for (uri, why) in [
        ("", "begins with"),
        ("127.0.0.1:80", "; is it tcp://127.0.0.1:80?"),
        ("80", "; is it tcp://:80?"),
        ("/run/x", "; is it unix:///run/x?"),
        ("tcp://localhost", "a port"),
        ("tcp://localhost:http", "`http` is not a port"),
        ("tcp://localhost:70000", "not a port"),
        ("tcp6://127.0.0.1:80", "no such address"),
        ("tcp://127.0.0.1:80?all", "`all` is not `each`"),
        ("tcp://127.0.0.1:80?each=2", "`each=2` is not `each`"),
        ("unix:///x?each", "none of"),
        ("udp://:53?each", "none of rcvbuf=, slots=, steer=quic, steer=flows"),
        ("udp://:53?rcvbuf=4G", "not a size"),
        ("udp://:53?rcvbuf=4096M", "not a size"),
        ("udp://:53?rcvbuf=0", "not a size"),
        ("udp://:53?rcvbuf=", "not a size"),
        ("udp://:53?slots=1", "a number from 2 to 256"),
        ("udp://:53?slots=257", "a number from 2 to 256"),
        ("udp://:53?steer=flow", "none of"),
        ("udp://host", "a port"),
        ("unixgram://", "no path"),
        ("unix://", "no path"),
        ("unix:///x?mode=rw", "not a mode"),
        ("unix:///x?owner=no-such-user", "no user"),
        ("unix:///x?colour=red", "none of"),
    ] {
        let error = read(uri).unwrap_err();
        assert!(error.contains(why), "{uri}: {error}");
    }
}
