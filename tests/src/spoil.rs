//! What strangers do to sockets that are not theirs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use crate::{DEADLINE, Process};

/// Runs Python with `sockets` of a process, which are copies of its descriptors: only root can from
/// outside. What it prints.
fn with_sockets_of(process: Process, script: &str) -> String {
    let copies = "import ctypes,os,socket,sys\n\
        pid=int(sys.argv[1]); pidfd=os.pidfd_open(pid); sockets=[]\n\
        for name in os.listdir(f'/proc/{pid}/fd'):\n    \
            copy=ctypes.CDLL(None).syscall(438,pidfd,int(name),0)\n    \
            if copy<0 or not os.readlink(f'/proc/self/fd/{copy}').startswith('socket:'): continue\n    \
            sockets.append(socket.socket(fileno=copy))\n";
    let script = [copies, script].concat();
    let output = Command::new("python3").args(["-c", &script, &process.0.to_string()]).output();
    let output = output.expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Shuts down what the process listens on.
pub fn shut_listeners_down(process: Process) {
    let script = "listening=[s for s in sockets if s.getsockopt(socket.SOL_SOCKET,socket.SO_ACCEPTCONN)]\n\
        assert listening\n\
        for s in listening: s.shutdown(socket.SHUT_RDWR)";
    with_sockets_of(process, script);
}

/// Of each TCP connection that the process has: whether it has `TCP_NODELAY`.
#[must_use]
pub fn no_delays_of(process: Process) -> Vec<bool> {
    let script = "for s in sockets:\n    \
            try: s.getpeername()\n    \
            except OSError: continue\n    \
            if s.family==socket.AF_INET: print(s.getsockopt(socket.IPPROTO_TCP,socket.TCP_NODELAY))";
    with_sockets_of(process, script).lines().map(|line| line != "0").collect()
}

/// Whether HTTP is answered at the path of a Unix socket.
#[must_use]
pub fn answers_at_path(path: &Path) -> bool {
    let ask = || {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    ask().is_ok_and(|answer| answer.contains("worker="))
}
