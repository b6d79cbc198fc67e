//! `release ctl events`: the events of a service, as they happen.

use std::time::{Duration, Instant};

use release_core::{ControlCommand, EventBatch, EventKind, ServiceEvent, printable};

use super::client::Client;
use super::say;

/// Time between two questions to a service that has another version of them.
const PAUSE: Duration = Duration::from_millis(200);

/// Prints all events that the service still knows, and those to come, until the service ends.
pub(super) fn follow(client: &Client, json: bool) -> Result<(), String> {
    let (mut next, mut is_stopping) = (0, false);
    loop {
        let asked = Instant::now();
        let text = match client.text(&ControlCommand::Events(next)) {
            // It may have ended between two questions.
            Err(_) if is_stopping => return Ok(()),
            answer => answer?,
        };
        let batch: EventBatch = serde_json::from_str(&text)
            .map_err(|error| format!("the service says what are no events: {error}"))?;
        if batch.lost > 0 {
            let lost = batch.lost;
            say(&match json {
                true => format!("{}\n", serde_json::json!({ "event": "dropped", "count": lost })),
                false => format!("{lost} events were lost: they came faster than they were read\n"),
            })?;
        }
        let line = |event: &ServiceEvent| match json {
            true => format!("{}\n", serde_json::json!(event)),
            false => words(event),
        };
        let lines: String = batch.events.iter().map(line).collect();
        if !lines.is_empty() {
            say(&lines)?;
        }
        for event in &batch.events {
            match event.event {
                EventKind::Finished => return Ok(()),
                EventKind::Stopping | EventKind::Failing => is_stopping = true,
                _ => {}
            }
        }
        if batch.events.is_empty() && asked.elapsed() < PAUSE {
            std::thread::sleep(PAUSE);
        }
        next = batch.next;
    }
}

/// A line for people, with the time of day in UTC.
fn words(event: &ServiceEvent) -> String {
    let time = Duration::try_from_secs_f64(event.at).unwrap_or_default().as_secs();
    let (hours, minutes, seconds) = (time / 3600 % 24, time / 60 % 60, time % 60);
    let kind = serde_json::json!(event.event);
    let kind = kind.as_str().unwrap_or_default().replace('_', " ");
    let mut line = format!("{hours:02}:{minutes:02}:{seconds:02}Z  {kind}");
    if let Some(group) = &event.group {
        line += &format!("  {group}");
    }
    if let Some(worker) = event.worker {
        line += &format!(" {worker}");
    }
    if let Some(pid) = event.pid {
        line += &format!(" (pid {pid})");
    }
    match (event.generation, event.count) {
        (Some(generation), _) => line += &format!(", generation {generation}"),
        (None, Some(count)) => line += &format!(", {count} workers"),
        (None, None) => {}
    }
    if let Some(reason) = event.exit.as_ref().or(event.reason.as_ref()) {
        line += &format!(": {reason}");
    }
    printable(line.as_bytes()) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let event = r#"{"at":90061.5,"event":"worker_left_behind","group":"web","worker":2,"pid":7,
            "generation":3,"reason":"a\nb"}"#;
        let event = serde_json::from_str(event).unwrap();
        let line = words(&event);
        assert!(
            line.starts_with("01:01:01Z  worker left behind  web 2 (pid 7), generation 3: a"),
            "{line}"
        );
        assert_eq!(line.matches('\n').count(), 1, "{line}");
    }
}
