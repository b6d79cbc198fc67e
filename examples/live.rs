// A server whose open connections survive reloads and upgrades: it numbers the lines of each client.
//
// ```sh
// target/debug/examples/live 127.0.0.1:7000 &      # and in another shell: nc 127.0.0.1 7000
// kill -HUP PID                                    # nc goes on, with the next number
// ```
//
// A worker that should stop hands its connections on to its successor, each with its number and with the
// beginning of a line that was read.

use std::error::Error as StdError;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, join, select, try_join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use release::net::{Active, Inet, Passive, Socket, Stream};
use release::{
    ControlCommand, ControlSocket, Exit, HandOnError, Master, Me, NotHandedOn, Workers, driver,
    is_worker, log, me,
};
use serde::{Deserialize, Serialize};

/// The longest line of a client.
const LONGEST: usize = 64 * 1024;

/// What the next worker has to know about a connection.
#[derive(Default, Serialize, Deserialize)]
struct Session {
    lines: u64,
    /// The beginning of a line.
    unread: Vec<u8>,
}

fn main() -> Exit {
    if let Err(error) = log::stderr() {
        return error.into();
    }
    if is_worker() { me().run(driver, work) } else { master() }
}

fn master() -> Exit {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    let address: Inet = match address.parse() {
        Ok(address) => address,
        Err(error) => return Exit::failure(error),
    };
    let workers = Workers::same_executable("live", 2)
        .user("nobody") // when the master is root
        .listen("live", address)
        .hand_on(256, 4 * 1024 * 1024);
    Master::new()
        .workers(workers)
        // Time to hand a thousand connections on, on a busy machine.
        .stop_deadline(Duration::from_secs(60))
        .control(ControlSocket::new("control"), |master, _, words: String| async move {
            Ok(words.parse::<ControlCommand>()?.carry_out(&master, "live").await)
        })
        .run(driver)
}

async fn work(me: Me) -> Result<(), Box<dyn StdError + Send + Sync>> {
    let listener: Socket<Passive, Inet> = me.listener("live")?;
    me.ready()?;
    let its = me.clone();
    let accepting =
        listener.accept_loop().until(me.stopping()).run(move |client| {
            let me = its.clone();
            async move {
                serve(me, Socket::<Active, Inet>::into_stream(client), Session::default()).await
            }
        });
    // Several at a time are on their way.
    let taking = try_join_all((0..8).map(|_| take_over(&me)));
    let (served, taken) = join(accepting, taking).await;
    served?;
    taken.map(drop)
}

/// Goes on with the connections of other workers.
async fn take_over(me: &Me) -> Result<(), Box<dyn StdError + Send + Sync>> {
    let mut serving = FuturesUnordered::new();
    while let Some((client, session)) = me.handed_on::<Session>().await? {
        serving.push(me.rt().spawn(serve(me.clone(), client, session)));
        // Those that have ended.
        while let Some(Some(_)) = serving.next().now_or_never() {}
    }
    while serving.next().await.is_some() {}
    Ok(())
}

async fn serve(me: Me, client: Stream, mut session: Session) -> std::io::Result<()> {
    let mut buffer = vec![0; 4096];
    loop {
        answer(&client, &mut session).await?;
        let count = match select(pin!(client.read_once(&mut buffer)), me.stopping()).await {
            Either::Left((count, _)) => count?,
            Either::Right(_) => break,
        };
        if count == 0 || session.unread.len() + count > LONGEST {
            return Ok(());
        }
        session.unread.extend_from_slice(&buffer[..count]);
    }
    hand_on(me, client, session).await
}

/// Answers the complete lines.
async fn answer(client: &Stream, session: &mut Session) -> std::io::Result<()> {
    let Session { lines, unread } = session;
    while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
        *lines += 1;
        let mut answer = format!("{lines} ").into_bytes();
        answer.extend(unread.drain(..=end));
        client.write_all(&answer).await?;
    }
    Ok(())
}

async fn hand_on(me: Me, mut client: Stream, mut session: Session) -> std::io::Result<()> {
    loop {
        client = match me.hand_on(client, &session).await {
            Ok(()) => return Ok(()),
            Err(NotHandedOn { connection: Some(client), reason: HandOnError::Full, .. }) => client,
            Err(NotHandedOn { connection: Some(client), reason, .. }) => {
                tracing::warn!(%reason, "a connection ends with this worker");
                // Until the client closes it, or the master's patience ends.
                let mut buffer = vec![0; 4096];
                loop {
                    let count = client.read_once(&mut buffer).await?;
                    if count == 0 || session.unread.len() + count > LONGEST {
                        return Ok(());
                    }
                    session.unread.extend_from_slice(&buffer[..count]);
                    answer(&client, &mut session).await?;
                }
            }
            Err(_) => return Ok(()),
        };
        me.rt().sleep(Duration::from_millis(20)).await;
    }
}
