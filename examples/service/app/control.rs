//! The words that the control socket understands.

use release::{Connections, Error, MasterHandle};
use serde::Serialize;

pub(crate) async fn answer(
    master: &MasterHandle,
    connections: &Connections<String>,
    request: &str,
) -> String {
    match request.split_once(' ').unwrap_or((request, "")) {
        ("ping", "") => "pong".to_owned(),
        ("status", "") => status(master),
        ("reload", "") => outcome(master.reload().await),
        ("reopen", "") => outcome(master.reopen_logs().await),
        ("upgrade", "") => outcome(master.upgrade().await),
        ("scale", number) => match number.parse() {
            Ok(workers) => outcome(master.scale(super::GROUP, workers).await),
            Err(_) => "error: say how many workers: `scale N`".to_owned(),
        },
        ("restart", number) => match number.parse() {
            Ok(worker) => outcome(master.restart(worker).await),
            Err(_) => "error: say which worker: `restart ID`".to_owned(),
        },
        ("stop", "") => {
            master.stop();
            "ok".to_owned()
        }
        ("broadcast", text) if !text.is_empty() => {
            format!("sent {}", connections.broadcast(&text.to_owned()))
        }
        ("broadcast", _) => "error: say what to broadcast: `broadcast TEXT`".to_owned(),
        (word, _) => {
            // The answer is a frame too: it does not grow with the question.
            let start: String = word.chars().take(40).collect();
            let word = start.escape_debug();
            format!(
                "error: unknown command `{word}`; there is: ping, status, reload, reopen, \
                 upgrade, scale N, restart ID, stop, broadcast TEXT"
            )
        }
    }
}

fn outcome(changed: Result<(), Error>) -> String {
    changed.map_or_else(|error| format!("error: {}", error.report()), |()| "ok".to_owned())
}

#[derive(Serialize)]
struct Status {
    master: u32,
    workers: Vec<Worker>,
    generation: u32,
}

#[derive(Serialize)]
struct Worker {
    id: u32,
    pid: Option<i32>,
    state: &'static str,
    restarts: u32,
    uptime_s: f64,
    generation: u32,
    draining: usize,
}

fn status(master: &MasterHandle) -> String {
    let workers = master.status().into_iter().map(|worker| Worker {
        id: worker.id,
        pid: worker.pid,
        state: worker.state.as_str(),
        restarts: worker.restarts,
        uptime_s: (worker.uptime.as_secs_f64() * 10.0).round() / 10.0,
        generation: worker.generation,
        draining: worker.draining,
    });
    let (master, generation) = (std::process::id(), master.generation());
    let status = Status { master, workers: workers.collect(), generation };
    serde_json::to_string(&status).unwrap_or_else(|error| format!("error: {error}"))
}
