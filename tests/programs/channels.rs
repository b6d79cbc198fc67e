// Front ends that call workers of another group, as their clients say: see `tests/channels.rs`.

#[path = "channels/offender.rs"]
mod offender;

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use release::ipc::{CallError, Refused, Request};
use release::net::{Active, Inet, Passive, Socket, Stream};
use release::supervise::RestartPolicy;
use release::{
    Channel, ControlCommand, ControlSocket, Exit, Master, Me, WorkerInfo, Workers, driver, is_worker,
    log, me,
};
use serde::{Deserialize, Serialize};

/// An instruction in words, see `work`.
#[derive(Debug, Serialize, Deserialize)]
struct Work(String);

impl Request for Work {
    type Response = String;
}

type BoxError = Box<dyn StdError + Send + Sync>;

fn main() -> Exit {
    let role = std::env::args().next().unwrap_or_default();
    if role.contains(": worker offender") {
        return offender::run();
    }
    if let Err(error) = log::stderr() {
        return error.into();
    }
    if is_worker() { me().run(driver, worker) } else { master() }
}

/// Workers of the group, which is restarted soon.
fn group(name: &str, size: u32) -> Workers {
    let policy = RestartPolicy::default()
        .backoff(Duration::from_millis(10), Duration::from_millis(20))
        .intensity(10_000, Duration::from_secs(60));
    Workers::same_executable(name, size).user("nobody").restart(policy)
}

fn master() -> Exit {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let Some(Ok(address)) = words.first().map(|word| word.parse::<SocketAddr>()) else {
        return Exit::failure("usage: channels ADDRESS [OFFENDERS]");
    };
    let offenders = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let front = group("front", 2).listen("lines", address).channel_to("back").channel_to("silent");
    let saw = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&saw);
    let offenders = group("offender", offenders).requests::<String>().channel_to("back").answer(
        move |_, words: String| {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(words);
            async { Ok(String::new()) }
        },
    );
    let attackers = offenders.connections();
    Master::new()
        .workers(group("back", 2))
        .workers(group("silent", 1))
        .workers(front)
        .workers(offenders)
        .stop_deadline(Duration::from_secs(60))
        .control(ControlSocket::new("control"), move |master, _, words: String| {
            let said = match words.strip_prefix("attack ") {
                Some(attack) => Some(format!("sent {}", attackers.broadcast(attack.to_owned()))),
                None if words == "saw" => {
                    Some(saw.lock().unwrap_or_else(PoisonError::into_inner).join("\n"))
                }
                None => None,
            };
            async move {
                match said {
                    Some(said) => Ok(said),
                    None => Ok(words.parse::<ControlCommand>()?.carry_out(&master, "back").await),
                }
            }
        })
        .run(driver)
}

async fn worker(me: Me) -> Result<(), BoxError> {
    match me.group() {
        "back" => back(me).await,
        "front" => front(me).await,
        _ => {
            me.ready()?;
            me.stopping().await;
            Ok(())
        }
    }
}

async fn back(me: Me) -> Result<(), BoxError> {
    let identity = format!("{} {}", me.id(), std::process::id());
    me.answer_channels(move |caller, Work(words)| work(caller, identity.clone(), words))?;
    me.ready()?;
    me.stopping().await;
    Ok(())
}

async fn work(caller: WorkerInfo, identity: String, words: String) -> Result<String, Refused> {
    let words: Vec<_> = words.split_whitespace().collect();
    match words[..] {
        ["echo", word] => Ok(word.to_owned()),
        ["who"] => Ok(format!("{identity} {}", caller.group)),
        ["sleep", milliseconds, word] => {
            caller.rt().sleep(Duration::from_millis(milliseconds.parse()?)).await;
            Ok(word.to_owned())
        }
        ["panic"] => panic!("asked to panic"),
        ["die"] => std::process::exit(7),
        _ => Err(Refused::new("on purpose")),
    }
}

/// The channels of a front end.
#[derive(Clone)]
struct Groups {
    back: Channel<Work>,
    silent: Channel<Work>,
    other: Channel<Work>,
}

async fn front(me: Me) -> Result<(), BoxError> {
    let listener: Socket<Passive, Inet> = me.listener("lines")?;
    let [back, silent, other] =
        ["back", "silent", "offender"].map(|group| me.channel_to::<Work>(group));
    let groups = Groups { back: back?, silent: silent?, other: other? };
    if me.channel_to::<String>("back").is_ok() {
        return Err("a group has two types of requests".into());
    }
    me.ready()?;
    let serving = listener.accept_loop().until(me.stopping()).run(move |client| {
        let groups = groups.clone();
        async move { serve(Socket::<Active, Inet>::into_stream(client), &groups).await }
    });
    serving.await?;
    Ok(())
}

/// Makes the calls that the lines of a client ask for.
async fn serve(client: Stream, groups: &Groups) -> std::io::Result<()> {
    let (mut unread, mut buffer) = (Vec::new(), [0; 256]);
    loop {
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            let answer = match call(groups, String::from_utf8_lossy(&line).trim()).await {
                Ok(answer) => format!("ok {answer}\n"),
                Err(CallError::Gone) => "gone\n".to_owned(),
                Err(CallError::TimedOut) => "timed out\n".to_owned(),
                Err(error) => format!("error {error}\n"),
            };
            client.write_all(answer.as_bytes()).await?;
        }
        let count = client.read_once(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        unread.extend_from_slice(&buffer[..count]);
    }
}

async fn call(groups: &Groups, line: &str) -> Result<String, CallError> {
    let (how, words) = line.split_once(' ').unwrap_or_default();
    let work = Work(words.to_owned());
    let within = Duration::from_millis(50);
    match how {
        "once" => groups.back.call(&work).await,
        "within" => groups.back.call_within(within, &work).await,
        "silent" => groups.silent.call_within(within, &work).await,
        "other" => groups.other.call(&work).await,
        "long" => groups.back.call(Work("x".repeat(2 * 1024 * 1024))).await,
        _ => groups.back.clone().idempotent().call(&work).await,
    }
}
