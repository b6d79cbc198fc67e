//! Many clients at once that count every failure.

use std::io;
use std::net::SocketAddr;
use std::thread;

use crate::{Answer, HttpClient, try_http_get};

/// How many clients a load has.
pub const CLIENTS: usize = 8;

/// Half of the clients keep their connection as long as the server does, half take a new one for
/// each request.
fn client(number: usize, address: SocketAddr) -> impl FnMut() -> io::Result<Answer> {
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

/// Runs the clients for as long as they are told to, by how many requests they have made; what they
/// were answered, and what failed.
pub fn load(
    address: SocketAddr,
    more: impl Fn(usize) -> bool + Sync,
) -> (Vec<Answer>, Vec<io::Error>) {
    let run = |number| {
        let mut ask = client(number, address);
        let (mut answers, mut failures) = (Vec::new(), Vec::new());
        for _ in (0..).take_while(|made| more(*made)) {
            match ask() {
                Ok(answer) => answers.push(answer),
                Err(error) => failures.push(error),
            }
        }
        (answers, failures)
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || run(number))).collect();
        let (mut answers, mut failures) = (Vec::new(), Vec::new());
        for client in clients {
            let (answered, failed) = client.join().expect("a client");
            answers.extend(answered);
            failures.extend(failed);
        }
        (answers, failures)
    })
}
