//! What reloads of any server lose.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::{CLIENTS, HttpClient, Running, control, try_http_get};

/// How clients use their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Connections {
    /// A new one for each request.
    New,
    /// Each as long as the server keeps it.
    Kept,
}

/// What became of requests.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs)]
pub struct Count {
    /// Those that were answered.
    pub answered: usize,
    /// Those without an answer, or with half of one.
    pub lost: usize,
    /// Those on a kept connection that was closed before a byte of the answer: most servers close
    /// what is idle, and clients send such a request again.
    pub to_send_again: usize,
}

impl Running {
    /// Reloads so many times while clients ask without a pause; also the time of one reload.
    #[track_caller]
    pub fn count_reloads(
        &self,
        address: SocketAddr,
        connections: Connections,
        times: u32,
    ) -> (Count, Duration) {
        let ask = match connections {
            Connections::New => ask_anew,
            Connections::Kept => ask_on,
        };
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let clients = [(); CLIENTS].map(|()| scope.spawn(|| ask(address, &is_over)));
            let began = Instant::now();
            let wrong = (0..times)
                .map(|_| control(&self.control(), "reload"))
                .find(|answer| answer != "ok");
            let each = began.elapsed() / times;
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(wrong, None, "{}", self.stderr());
            let mut all = Count::default();
            for client in clients {
                let one = client.join().expect("a client");
                all.answered += one.answered;
                all.lost += one.lost;
                all.to_send_again += one.to_send_again;
            }
            (all, each)
        })
    }
}

fn ask_anew(address: SocketAddr, is_over: &AtomicBool) -> Count {
    let mut count = Count::default();
    while !is_over.load(Ordering::Relaxed) {
        match try_http_get(address) {
            Ok(_) => count.answered += 1,
            Err(_) => count.lost += 1,
        }
    }
    count
}

fn ask_on(address: SocketAddr, is_over: &AtomicBool) -> Count {
    let mut count = Count::default();
    while !is_over.load(Ordering::Relaxed) {
        let Ok(mut connection) = HttpClient::connect(address) else {
            count.lost += 1;
            continue;
        };
        let mut answered = 0;
        while !is_over.load(Ordering::Relaxed) && !connection.is_over() {
            if connection.get().is_ok() {
                answered += 1;
                continue;
            }
            if answered > 0 && !connection.has_begun() {
                count.to_send_again += 1;
            } else {
                count.lost += 1;
            }
            break;
        }
        count.answered += answered;
    }
    count
}
