// A master with an honest worker and a hostile one, which does on its socket what the control
// socket tells it to: see `tests/hostile_worker.rs`.

#[path = "attacked/offender.rs"]
mod offender;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use release::ipc::{Descriptor, Refused, Request, Text};
use release::{
    Connections, ControlSocket, Exit, Master, MasterHandle, Me, Decision, WorkerInfo, Workers,
    driver, is_worker, me,
};
use serde::{Deserialize, Serialize};

/// How long the honest worker waits for an answer: less than half a frame of another worker is waited
/// for, and more than a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// What workers ask.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// The honest worker's question, all the time.
    Next,
    /// To be told to whoever asks on the control socket.
    Saw(String),
    /// To be counted.
    Count,
    /// An answer of so many bytes.
    Bytes(u32),
    /// No answer for as long as anybody waits for it.
    Later,
    /// As above, and keeps these bytes meanwhile.
    Hold(Vec<u8>),
    /// As deep as the sender likes.
    Deep(Box<Ask>),
    /// The handler panics when it is called.
    PanicAtOnce,
    /// The handler panics when it is polled.
    Panic,
    /// To be kept for as long as anybody waits for the answer.
    Keep(Vec<Descriptor>),
    /// Permitted to an offender once.
    Once,
    /// Permitted to an offender after this was answered.
    First,
    Second,
    /// Never permitted to an offender.
    Forbidden,
}

impl Request for Ask {
    type Response = Vec<u8>;
}

/// What an offender has done so far.
#[derive(Default)]
struct Offence {
    once: AtomicBool,
    first: AtomicBool,
}

fn permit(offence: &Offence, ask: &Ask) -> Decision {
    match ask {
        Ask::Once => {
            let first_time = !offence.once.swap(true, Ordering::Relaxed);
            Decision::only_if(first_time, "what may be asked once, again")
        }
        Ask::Second => {
            Decision::only_if(offence.first.load(Ordering::Relaxed), "the second before the first")
        }
        Ask::Forbidden => Decision::Deny("what may never be asked"),
        _ => Decision::Allow,
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Vec<u8>, Refused>> + Send>>;

#[derive(Default)]
struct Seen {
    served: AtomicU64,
    counted: AtomicU64,
    words: Mutex<Vec<String>>,
}

fn main() -> Exit {
    let role = std::env::args().next().unwrap_or_default();
    if !is_worker() {
        return master();
    }
    if role.contains(": worker offender") {
        return offender::run();
    }
    if role.contains(": worker plain") {
        return offender::run_plain();
    }
    me().run(driver, honest)
}

fn master() -> Exit {
    if let Err(error) = release::log::stderr() {
        return error.into();
    }
    let seen = Arc::new(Seen::default());
    let offenders = Workers::same_executable("offender", 1)
        .requests::<String>()
        .user("nobody")
        .descriptors(if std::env::args().any(|word| word == "descriptors") { 16 } else { 0 });
    let connections = offenders.connections();
    let answer = answerer(&seen);
    let offenders =
        offenders.answer_permitted(|_| Offence::default(), permit, move |worker, offence, ask| {
            offence.first.fetch_or(matches!(ask, Ask::First), Ordering::Relaxed);
            answer(worker, ask)
        });
    let honest = Workers::same_executable("honest", 1).user("nobody").answer(answerer(&seen));
    let plain =
        Workers::same_executable("plain", 1).requests::<String>().codec(Text).user("nobody").plain(
            |_, text: String| async move {
                assert_ne!(text, "panic", "asked to panic");
                Ok(text)
            },
        );
    let plain_connections = plain.connections();
    Master::new()
        .workers(honest)
        .workers(plain)
        .workers(offenders)
        .control(ControlSocket::new("control"), move |master, _, request: String| {
            let answer = match request.strip_prefix("plain ") {
                Some(text) => format!("sent {}", plain_connections.broadcast(text.to_owned())),
                None => control(&master, &connections, &seen, &request),
            };
            async move { Ok(answer) }
        })
        .run(driver)
}

fn control(
    master: &MasterHandle,
    connections: &Connections<String>,
    seen: &Seen,
    request: &str,
) -> String {
    match request {
        "ping" => "pong".to_owned(),
        "served" => seen.served.load(Ordering::Relaxed).to_string(),
        "counted" => seen.counted.load(Ordering::Relaxed).to_string(),
        "saw" => seen.words.lock().unwrap_or_else(PoisonError::into_inner).join("\n"),
        "status" => {
            let lines = master.status().into_iter().map(|worker| {
                format!("{} \"{}\" pid={:?}", worker.group, worker.state, worker.pid)
            });
            lines.collect::<Vec<_>>().join("\n")
        }
        attack => format!("sent {}", connections.broadcast(attack.to_owned())),
    }
}

/// The handler of both groups.
fn answerer(seen: &Arc<Seen>) -> impl Fn(WorkerInfo, Ask) -> Answering + Send + Sync + 'static {
    let seen = Arc::clone(seen);
    move |_, ask| {
        assert!(!matches!(ask, Ask::PanicAtOnce), "asked to panic at once");
        let seen = Arc::clone(&seen);
        Box::pin(async move { answer(&seen, ask).await })
    }
}

async fn answer(seen: &Seen, ask: Ask) -> Result<Vec<u8>, Refused> {
    match ask {
        Ask::Next => Ok(seen.served.fetch_add(1, Ordering::Relaxed).to_be_bytes().to_vec()),
        Ask::Count => Ok(seen.counted.fetch_add(1, Ordering::Relaxed).to_be_bytes().to_vec()),
        Ask::Saw(words) => {
            seen.words.lock().unwrap_or_else(PoisonError::into_inner).push(words);
            Ok(Vec::new())
        }
        Ask::Deep(_) | Ask::Once | Ask::First | Ask::Second => Ok(Vec::new()),
        Ask::Forbidden => Ok(b"forbidden".to_vec()),
        Ask::Keep(_kept) => std::future::pending().await,
        Ask::Bytes(count) => Ok(vec![b'x'; usize::try_from(count)?]),
        Ask::Later => std::future::pending().await,
        Ask::Hold(bytes) => {
            std::future::pending::<()>().await;
            Ok(bytes)
        }
        Ask::PanicAtOnce | Ask::Panic => panic!("asked to panic"),
    }
}

/// Asks all the time; ends, which the test sees, when an answer takes longer than [`PATIENCE`].
async fn honest(me: Me<(), Ask>) -> Result<(), release::ipc::CallError> {
    let (master, stopping) = (me.master(), me.stopping());
    me.ready().ok();
    while me.rt().timeout(Duration::from_millis(5), stopping.clone()).await.is_err() {
        master.call_within(PATIENCE, &Ask::Next).await?;
    }
    Ok(())
}
