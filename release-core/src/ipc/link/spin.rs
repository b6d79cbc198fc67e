//! Polls for a response without the runtime: processor time in exchange for latency.

use std::hint::spin_loop;
use std::io;
use std::time::Instant;

use super::Link;
use super::state::LinkState;

/// How many pauses of the processor lie between two attempts to read.
const PAUSES: u32 = 8;

impl Link {
    /// Reads as soon as bytes arrive. Returns false if none did within the limit.
    pub(super) fn spin(&self, state: &mut LinkState) -> bool {
        let limit = self.limits.spin;
        if limit.is_zero() {
            return false;
        }
        // Not the runtime's clock, which a test may have stopped.
        let begun = Instant::now();
        if !state.spinning.may_begin(begun) {
            return false;
        }
        loop {
            let received = self.receive_now(state);
            let now = Instant::now();
            let took = now - begun;
            match received {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if took >= limit {
                        state.spinning.ended(false, took, limit, now);
                        return false;
                    }
                    // Never yields: another process on this processor would have it for milliseconds.
                    (0..PAUSES).for_each(|_| spin_loop());
                }
                received => {
                    state.spinning.ended(true, took, limit, now);
                    self.on_received(state, received);
                    return true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Ready;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;
    use std::time::Duration;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::ipc::limits::Limits;
    use crate::ipc::link::Mode;
    use crate::ipc::link::spinning::IN_A_ROW;
    use crate::ipc::serve::serve;
    use crate::ipc::{CallError, Never, Peer, Postcard, Refused, Request};
    use crate::rt::local::Local;
    use crate::rt::{Driver, give_way, run};

    #[derive(Serialize, Deserialize)]
    struct Double(u32);

    impl Request for Double {
        type Response = u32;
    }

    /// Sends this process's own outputs before every answer, as a master does that opens log files
    /// again.
    fn answer_until_closed(socket: UnixStream) {
        let driver = Local::new().unwrap();
        let rt = driver.handle();
        let link = Arc::new(Link::new(&rt, socket.into(), Mode::Calls, Limits::IPC).unwrap());
        let master = Arc::clone(&link);
        let double = move |Double(number)| {
            master.send_outputs([io::stdout().as_fd(), io::stderr().as_fd()]).unwrap();
            Ok(async move { Ok(2 * number) })
        };
        run(&driver, serve(link, Postcard, double, |_| {}));
    }

    #[test]
    fn answers_are_found_and_other_tasks_have_their_turn() {
        let (here, there) = UnixStream::pair().unwrap();
        let answering = thread::spawn(move || answer_until_closed(there));
        let driver = Local::new().unwrap();
        let rt = driver.handle();
        let limits = Limits::IPC.with_spin(Duration::from_secs(1)).of_worker();
        let link = Arc::new(Link::new(&rt, here.into(), Mode::Calls, limits).unwrap());
        let peer: Peer<Double> = Peer::new(Arc::clone(&link), Postcard);
        let turns = Arc::new(AtomicU32::new(0));
        run(&driver, async {
            let refuse =
                |never: Never| -> Result<Ready<Result<(), Refused>>, &str> { match never {} };
            let _serving = rt.spawn(serve(link, Postcard, refuse, |_| {}));
            let counted = Arc::clone(&turns);
            let _other = rt.spawn(async move {
                loop {
                    counted.fetch_add(1, Ordering::Relaxed);
                    give_way().await;
                }
            });
            for number in 0..1000 {
                assert_eq!(peer.call(&Double(number)).await.ok(), Some(2 * number));
            }
        });
        drop((peer, driver));
        assert!(turns.load(Ordering::Relaxed) >= 1000 / (IN_A_ROW + 1));
        answering.join().unwrap();
    }

    #[test]
    fn a_peer_that_says_nothing_is_waited_for_in_the_runtime() {
        let (here, _there) = UnixStream::pair().unwrap();
        let driver = Local::new().unwrap();
        let rt = driver.handle();
        let limits = Limits::IPC.with_spin(Duration::from_secs(1));
        let link = Arc::new(Link::new(&rt, here.into(), Mode::Calls, limits).unwrap());
        let peer: Peer<Double> = Peer::new(Arc::clone(&link), Postcard);
        let given_up = run(&driver, peer.call_within(Duration::from_millis(20), &Double(1)));
        assert!(matches!(given_up, Err(CallError::TimedOut)));
    }
}
