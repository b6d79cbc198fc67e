//! Many clients at once that count every failure.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use release_core::testing::{Load, Loaded};

use crate::{Answer, HttpClient, try_http_get};

/// How many clients a load has.
pub const CLIENTS: usize = 8;

/// Sends one request after the other. Half of the clients keep their connection as long as the server does,
/// half take a new one for each request.
pub fn http_client(number: usize, address: SocketAddr) -> impl FnMut() -> io::Result<Answer> {
    let mut kept: Option<HttpClient> = None;
    move || {
        if number.is_multiple_of(2) {
            return try_http_get(address);
        }
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => HttpClient::connect(address)?,
        };
        let answer = connection.get()?;
        kept = Some(connection).filter(|connection| !connection.is_over());
        Ok(answer)
    }
}

/// Runs the clients for as long as they are told to, by how many requests each of them has made; what they
/// were answered, and what failed.
pub fn load(address: SocketAddr, more: impl Fn(usize) -> bool) -> (Vec<Answer>, Vec<io::Error>) {
    let load = Load::start(CLIENTS, |number| http_client(number, address));
    while more(load.made() / CLIENTS) {
        thread::sleep(Duration::from_millis(1));
    }
    let Loaded { answers, failures } = load.stop();
    (answers, failures)
}
