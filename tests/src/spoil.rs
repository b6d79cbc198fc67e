//! What strangers do to sockets that are not theirs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use crate::{DEADLINE, Process};

/// Shuts down what the process listens on, through copies of its descriptors: only root can from outside.
pub fn shut_listeners_down(process: Process) {
    let script = "import ctypes,os,socket,sys\n\
        pid=int(sys.argv[1]); pidfd=os.pidfd_open(pid); shut=0\n\
        for name in os.listdir(f'/proc/{pid}/fd'):\n    \
            copy=ctypes.CDLL(None).syscall(438,pidfd,int(name),0)\n    \
            if copy<0 or not os.readlink(f'/proc/self/fd/{copy}').startswith('socket:'): continue\n    \
            s=socket.socket(fileno=copy)\n    \
            if s.getsockopt(socket.SOL_SOCKET,socket.SO_ACCEPTCONN):\n        \
                s.shutdown(socket.SHUT_RDWR); shut+=1\n\
        assert shut";
    let output = Command::new("python3").args(["-c", script, &process.0.to_string()]).output();
    let output = output.expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
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
