//! The words that the control socket understands.

use release::{Connections, MasterHandle};
use serde_json::json;

pub(crate) fn answer(
    master: &MasterHandle,
    connections: &Connections<String>,
    request: &str,
) -> String {
    match request.split_once(' ').unwrap_or((request, "")) {
        ("ping", "") => "pong".to_owned(),
        ("status", "") => status(master),
        ("broadcast", text) if !text.is_empty() => {
            format!("sent {}", connections.broadcast(&text.to_owned()))
        }
        ("broadcast", _) => "error: say what to broadcast: `broadcast TEXT`".to_owned(),
        (word, _) => {
            // The answer is a frame too: it does not grow with the question.
            let start: String = word.chars().take(40).collect();
            let word = start.escape_debug();
            format!("error: unknown command `{word}`; there is: ping, status, broadcast TEXT")
        }
    }
}

fn status(master: &MasterHandle) -> String {
    let workers = master.status().into_iter().map(|worker| {
        json!({
            "id": worker.id,
            "pid": worker.pid,
            "state": worker.state.as_str(),
            "restarts": worker.restarts,
            "uptime_s": (worker.uptime.as_secs_f64() * 10.0).round() / 10.0,
        })
    });
    json!({ "master": std::process::id(), "workers": workers.collect::<Vec<_>>() }).to_string()
}
