//! The words that the control socket understands.

use release::{Connections, Error, MasterHandle};
use serde_json::json;

pub(crate) async fn answer(
    master: &MasterHandle,
    connections: &Connections<String>,
    request: &str,
) -> String {
    match request.split_once(' ').unwrap_or((request, "")) {
        ("ping", "") => "pong".to_owned(),
        ("status", "") => status(master),
        ("reload", "") => outcome(master.reload().await),
        ("scale", number) => match number.parse() {
            Ok(workers) => outcome(master.scale(super::GROUP, workers).await),
            Err(_) => "error: say how many workers: `scale N`".to_owned(),
        },
        ("broadcast", text) if !text.is_empty() => {
            format!("sent {}", connections.broadcast(&text.to_owned()))
        }
        ("broadcast", _) => "error: say what to broadcast: `broadcast TEXT`".to_owned(),
        (word, _) => {
            // The answer is a frame too: it does not grow with the question.
            let start: String = word.chars().take(40).collect();
            let word = start.escape_debug();
            format!(
                "error: unknown command `{word}`; there is: ping, status, reload, scale N, \
                 broadcast TEXT"
            )
        }
    }
}

fn outcome(changed: Result<(), Error>) -> String {
    changed.map_or_else(|error| format!("error: {}", error.report()), |()| "ok".to_owned())
}

fn status(master: &MasterHandle) -> String {
    let workers = master.status().into_iter().map(|worker| {
        json!({
            "id": worker.id,
            "pid": worker.pid,
            "generation": worker.generation,
            "state": worker.state.as_str(),
            "restarts": worker.restarts,
            "draining": worker.draining,
            "uptime_s": (worker.uptime.as_secs_f64() * 10.0).round() / 10.0,
        })
    });
    json!({
        "master": std::process::id(),
        "generation": master.generation(),
        "workers": workers.collect::<Vec<_>>(),
    })
    .to_string()
}
