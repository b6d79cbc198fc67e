// A daemon in the shape of OpenBSD's: a parent with privileges, a process that does one thing (here: it
// looks up names), and front ends that speak with clients and may do nothing else.
//
// ```sh
// target/debug/examples/resolver 127.0.0.1:7000 &
// nc 127.0.0.1 7000                                # a name in each line: localhost
// kill -HUP PID                                    # the parent's: replaces all processes, loses no answer
// ```
//
// The front ends call the resolvers directly. The parent makes the sockets between them, and sees no name.

use std::error::Error as StdError;
use std::net::{IpAddr, ToSocketAddrs};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use release::ipc::{CallError, Request};
use release::net::{Active, Inet, Passive, Socket, Stream};
use release::{
    Channel, ControlCommand, ControlSocket, Exit, Master, Me, Stopping, Workers, driver, is_worker,
    log, me,
};
use serde::{Deserialize, Serialize};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest line of a client: no name is longer.
const LONGEST: usize = 255;

/// Asks for the addresses of a host.
#[derive(Serialize, Deserialize)]
struct Resolve(String);

/// The addresses, or the reason why there are none.
impl Request for Resolve {
    type Response = Result<Vec<IpAddr>, String>;
}

type BoxError = Box<dyn StdError + Send + Sync>;

fn main() -> Exit {
    if let Err(error) = log::stderr() {
        return error.into();
    }
    if is_worker() { me().run(driver, worker) } else { parent() }
}

fn parent() -> Exit {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    let address: Inet = match address.parse() {
        Ok(address) => address,
        Err(error) => return Exit::failure(error),
    };
    let resolvers = Workers::same_executable("resolver", 2).user("nobody"); // when the parent is root
    let front_ends = Workers::same_executable("front", 2)
        .user("nobody")
        .listen("names", address)
        .channel_to("resolver")
        .after("resolver");
    Master::new()
        .workers(resolvers)
        .workers(front_ends)
        .control(ControlSocket::new("control"), |master, _, words: String| async move {
            Ok(words.parse::<ControlCommand>()?.carry_out(&master, "front").await)
        })
        .run(driver)
}

async fn worker(me: Me) -> Result<(), BoxError> {
    match me.group() {
        "resolver" => resolver(me).await,
        _ => front_end(me).await,
    }
}

async fn resolver(me: Me) -> Result<(), BoxError> {
    me.answer_channels(|front_end, Resolve(host)| async move {
        // The C library blocks its thread.
        let look_up = move || -> Result<Vec<IpAddr>, String> {
            let found = (host, 0).to_socket_addrs().map_err(|error| error.to_string())?;
            Ok(found.map(|address| address.ip()).collect())
        };
        Ok(front_end.rt().unblock(look_up).await?)
    })?;
    me.ready()?;
    me.stopping().await;
    Ok(())
}

async fn front_end(me: Me) -> Result<(), BoxError> {
    let listener: Socket<Passive, Inet> = me.listener("names")?;
    // A second look does no harm.
    let resolver = me.channel_to::<Resolve>("resolver")?.idempotent();
    me.ready()?;
    let stopping = me.stopping();
    let serving = listener.accept_loop().until(me.stopping()).run(move |client| {
        let (resolver, stopping) = (resolver.clone(), stopping.clone());
        async move { serve(Socket::<Active, Inet>::into_stream(client), &resolver, stopping).await }
    });
    serving.await?;
    Ok(())
}

/// Answers the lines of a client, until it leaves or this process should stop.
async fn serve(
    client: Stream,
    resolver: &Channel<Resolve>,
    stopping: Stopping,
) -> std::io::Result<()> {
    let (mut unread, mut buffer) = (Vec::new(), [0; 256]);
    loop {
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            let host = String::from_utf8_lossy(&line).trim().to_owned();
            let answer = match resolver.call_within(PATIENCE, Resolve(host)).await {
                Ok(Ok(addresses)) => {
                    let words: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
                    words.join(" ")
                }
                Ok(Err(reason)) => reason,
                Err(CallError::TimedOut) => "no resolver has answered in time".to_owned(),
                Err(error) => error.to_string(),
            };
            client.write_all(format!("{answer}\n").as_bytes()).await?;
        }
        let count = match select(pin!(client.read_once(&mut buffer)), stopping.clone()).await {
            Either::Left((count, _)) => count?,
            Either::Right(_) => return Ok(()),
        };
        if count == 0 || unread.len() + count > LONGEST {
            return Ok(());
        }
        unread.extend_from_slice(&buffer[..count]);
    }
}
