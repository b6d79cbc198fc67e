//! Messages that arrive at a socket in place of systemd's.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::sys::socket::{ControlMessageOwned, recvmsg};

use super::*;
use crate::sys::fds::take_inherited;

/// A recorded `NOTIFY_SOCKET`.
struct Systemd {
    socket: UnixDatagram,
    _directory: tempfile::TempDir,
    notifier: Notifier,
}

impl Systemd {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(path.as_os_str().as_encoded_bytes()).unwrap();
        Self { socket, _directory: directory, notifier }
    }

    /// Receives the next message, and the descriptors attached to it.
    fn hear(&self) -> (String, Vec<OwnedFd>) {
        let (mut bytes, mut space) = ([0; 4096], nix::cmsg_space!([i32; 253]));
        let mut parts = [io::IoSliceMut::new(&mut bytes)];
        let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let heard = recvmsg::<()>(fd, &mut parts, Some(&mut space), flags).unwrap();
        let mut descriptors = Vec::new();
        for message in heard.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(numbers) = message {
                let owned = numbers.into_iter().map(|number| take_inherited(number).unwrap());
                descriptors.extend(owned);
            }
        }
        let length = heard.bytes;
        (String::from_utf8(bytes[..length].to_vec()).unwrap(), descriptors)
    }

    fn hears(&self, expected: &str) {
        assert_eq!(self.hear().0, expected);
    }
}

#[test]
fn each_message_is_as_systemd_wants_it() {
    let systemd = Systemd::new();
    let notifier = &systemd.notifier;
    notifier.ready().unwrap();
    systemd.hears("READY=1");
    notifier.stopping().unwrap();
    systemd.hears("STOPPING=1");
    notifier.status("two\nlines\tand ünicode").unwrap();
    systemd.hears("STATUS=two lines and ünicode");
    notifier.status(&"ü".repeat(1000)).unwrap();
    systemd.hears(&format!("STATUS={}", "ü".repeat(512)));
    notifier.main_pid(7).unwrap();
    systemd.hears("MAINPID=7");
    notifier.watchdog().unwrap();
    systemd.hears("WATCHDOG=1");
    notifier.extend_timeout(Duration::from_millis(1500)).unwrap();
    systemd.hears("EXTEND_TIMEOUT_USEC=1500000");
    notifier.remove_stored("web").unwrap();
    systemd.hears("FDSTOREREMOVE=1\nFDNAME=web");
}

#[test]
fn a_reload_has_its_time_in_the_same_message() {
    let systemd = Systemd::new();
    systemd.notifier.reloading().unwrap();
    let message = systemd.hear().0;
    let time = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("both");
    let time = Duration::from_micros(time.parse().unwrap());
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    assert!(time <= now && now - time < Duration::from_secs(60), "{time:?} {now:?}");
}

#[test]
fn descriptors_are_stored_by_their_name() {
    let systemd = Systemd::new();
    let (reader, writer) = io::pipe().unwrap();
    systemd.notifier.store("web", &[reader.as_fd(), writer.as_fd()]).unwrap();
    let (message, descriptors) = systemd.hear();
    assert_eq!((message.as_str(), descriptors.len()), ("FDSTORE=1\nFDNAME=web", 2));
    for name in ["", "a:b", "a\nb", "ü", &"x".repeat(256)] {
        let error = systemd.notifier.store(name, &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
    }
}

#[test]
fn a_barrier_waits_until_it_is_closed() {
    let systemd = Systemd::new();
    let soon = Duration::from_millis(20);
    let late = systemd.notifier.barrier(soon).unwrap_err();
    assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    let (message, descriptors) = systemd.hear();
    assert_eq!((message.as_str(), descriptors.len()), ("BARRIER=1", 1));
    drop(descriptors);
    std::thread::scope(|scope| {
        // Farther than the clock can count.
        let barrier = scope.spawn(|| systemd.notifier.barrier(Duration::MAX));
        let mut sources = [PollFd::new(systemd.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut sources, PollTimeout::NONE).unwrap();
        drop(systemd.hear());
        barrier.join().unwrap().unwrap();
    });
}

#[test]
fn an_abstract_name_is_as_good_as_a_path() {
    let name = format!("release-core-notify-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    Notifier::new(format!("@{name}").as_bytes()).unwrap().ready().unwrap();
    let mut bytes = [0; 20];
    let length = socket.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"READY=1");
}

#[test]
fn what_is_no_socket_of_systemd_is_refused() {
    let long = [b"/".as_slice(), &[b'x'; 200]].concat();
    for name in [b"".as_slice(), b"@", b"vsock:2:1234", b"relative", &long] {
        let error = Notifier::new(name).unwrap_err();
        assert!(error.report().contains("which is not /PATH or @NAME"), "{error}");
    }
    let nobody = Notifier::new(b"/no/such/socket").unwrap().ready().unwrap_err();
    assert_eq!(nobody.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_watchdog_is_for_the_process_that_it_names() {
    let own = std::process::id().to_string();
    let watchdog = |time: &str, pid: Option<&str>| watchdog(time.into(), pid.map(Into::into));
    let time = Some(Duration::from_secs(3));
    assert_eq!(watchdog("3000000", None), time);
    assert_eq!(watchdog("3000000", Some(&own)), time);
    for (microseconds, pid) in [("3000000", "1"), ("3000000", ""), ("0", &own), ("x", &own)] {
        assert_eq!(watchdog(microseconds, Some(pid)), None);
    }
}
