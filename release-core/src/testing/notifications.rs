//! Readiness by the protocol of systemd: the program sends `READY=1` to `NOTIFY_SOCKET`.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Receives everything that a program sends to its `NOTIFY_SOCKET`, so that it never waits, and remembers
/// whether it is ready.
#[derive(Debug)]
pub(super) struct Notifications {
    socket: Arc<UnixDatagram>,
    is_ready: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Notifications {
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        let socket = Arc::new(UnixDatagram::bind(path)?);
        let is_ready = Arc::<AtomicBool>::default();
        let (messages, flag) = (Arc::clone(&socket), Arc::clone(&is_ready));
        let thread = std::thread::Builder::new().name("notifications".to_owned());
        let thread = thread.spawn(move || receive(&messages, &flag))?;
        Ok(Self { socket, is_ready, thread: Some(thread) })
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }
}

/// Ends when the socket is shut down: systemd's messages are never empty.
fn receive(socket: &UnixDatagram, is_ready: &AtomicBool) {
    let mut message = [0; 4096];
    while let Ok(length @ 1..) = socket.recv(&mut message) {
        if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            is_ready.store(true, Ordering::Release);
        }
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
