//! The progress of a command, in one line of a terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use release_core::StatusReport;

use super::client::Client;

/// How often the line is written anew; a command that is faster shows none.
const LOOK: Duration = Duration::from_millis(500);

/// How long a terminal that is not read may keep the end of a command back.
const PATIENCE: Duration = Duration::from_millis(200);

const CLEAR: &[u8] = b"\r\x1b[K";

/// What a command changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Generation,
    Workers,
    Stop,
}

/// Carries a command out. Meanwhile shows on standard error how far the service is, if that is a terminal.
pub(super) fn during<T>(
    client: &Client,
    word: &'static str,
    change: Change,
    tell: impl FnOnce() -> T,
) -> T {
    if !io::stderr().is_terminal() {
        return tell();
    }
    let (over, heard) = channel::<()>();
    let (end, ended) = channel();
    let client = client.impatient();
    thread::spawn(move || show(&client, word, change, &heard, &end));
    let told = tell();
    drop(over);
    let _ = ended.recv_timeout(PATIENCE);
    told
}

/// Writes the line until the command is over, and clears it.
fn show(client: &Client, word: &str, change: Change, over: &Receiver<()>, end: &Sender<()>) {
    let began = Instant::now();
    let before = client.status().map_or(u32::MAX, |(_, status)| status.generation);
    let mut is_shown = false;
    while over.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        let Ok((_, status)) = client.status() else { continue };
        let line = line(&status, change, before);
        let seconds = began.elapsed().as_secs();
        let text = format!("{word}: {line} ({seconds} s)");
        is_shown = write(&[CLEAR, text.as_bytes()].concat());
    }
    if is_shown {
        write(CLEAR);
    }
    let _ = end.send(());
}

fn write(bytes: &[u8]) -> bool {
    let mut terminal = io::stderr();
    terminal.write_all(bytes).and_then(|()| terminal.flush()).is_ok()
}

/// Numbers only: no text of the service reaches the terminal.
fn line(status: &StatusReport, change: Change, before: u32) -> String {
    let all = status.workers.len();
    let is = |state: &str| status.workers.iter().filter(|worker| worker.state == state).count();
    let new = |worker: &&release_core::WorkerReport| {
        worker.state == "ready" && (change != Change::Generation || worker.generation > before)
    };
    let finishing = is("stopping") + status.workers.iter().map(|it| it.draining).sum::<usize>();
    let mut parts = match change {
        Change::Generation => {
            vec![format!("{} of {all} workers replaced", status.workers.iter().filter(new).count())]
        }
        Change::Workers => vec![format!("{} of {all} workers ready", is("ready"))],
        Change::Stop => vec![format!("{all} workers left")],
    };
    for (count, what) in
        [(is("starting"), "starting"), (is("waiting"), "waiting"), (finishing, "finishing")]
    {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_counts_what_is_done_and_what_is_waited_for() {
        let worker = |state: &str, generation, draining| {
            format!("{{\"state\":\"{state}\",\"generation\":{generation},\"draining\":{draining}}}")
        };
        let workers =
            [worker("ready", 2, 1), worker("ready", 1, 0), worker("starting", 2, 0)].join(",");
        let status = serde_json::from_str(&format!("{{\"workers\":[{workers}]}}")).unwrap();
        let shown = |change| line(&status, change, 1);
        assert_eq!(shown(Change::Generation), "1 of 3 workers replaced, 1 starting, 1 finishing");
        assert_eq!(shown(Change::Workers), "2 of 3 workers ready, 1 starting, 1 finishing");
        assert_eq!(shown(Change::Stop), "3 workers left, 1 starting, 1 finishing");
    }
}
