//! The status as people like to read it.

use std::io::IsTerminal;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use release_core::{DeathReport, StatusReport, WorkerReport, printable};

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// For programs and files.
    Plain,
    /// For people at a terminal.
    Coloured,
}

impl Style {
    /// Coloured on a terminal, unless `NO_COLOR` says otherwise.
    pub(super) fn of_stdout() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if wanted && std::io::stdout().is_terminal() { Self::Coloured } else { Self::Plain }
    }

    fn paint(self, text: &str, code: &str) -> String {
        match self {
            Self::Coloured => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

const BOLD: &str = "1";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";

/// Maximum number of characters of a worker's status text; `--json` prints all of it.
const LONGEST_STATUS: usize = 60;

type Value = fn(&WorkerReport) -> Option<String>;

struct Column {
    title: &'static str,
    is_number: bool,
    value: Value,
    /// Shown only where some worker has something to say here.
    is_optional: bool,
}

const fn column(title: &'static str, is_number: bool, value: Value) -> Column {
    Column { title, is_number, value, is_optional: false }
}

const fn optional(title: &'static str, is_number: bool, value: Value) -> Column {
    Column { title, is_number, value, is_optional: true }
}

const STATE: &str = "STATE";

const COLUMNS: [Column; 13] = [
    column("ID", true, |worker| Some(worker.id.to_string())),
    optional("GROUP", false, |worker| worker.group.as_deref().map(shown)),
    column("PID", true, |worker| worker.pid.map(|pid| pid.to_string())),
    column(STATE, false, |worker| Some(shown(&worker.state))),
    column("GENERATION", true, |worker| Some(worker.generation.to_string())),
    column("AGE", true, |worker| Some(age(worker.uptime_s))),
    column("RESTARTS", true, |worker| Some(worker.restarts.to_string())),
    optional("DRAINING", true, |worker| (worker.draining > 0).then(|| worker.draining.to_string())),
    optional("IN FLIGHT", true, |worker| worker.in_flight.map(|count| count.to_string())),
    optional("MEMORY", true, |worker| worker.memory_kb.map(memory)),
    optional("LAST EXIT", false, |worker| worker.last_exit.as_deref().map(shown)),
    optional("SANDBOX", false, |worker| worker.sandbox.as_deref().map(shown)),
    optional("STATUS", false, |worker| worker.status_text.as_deref().map(beginning)),
];

impl Column {
    /// The title and the values below it, as wide as the widest of them; `None` where it says nothing.
    fn cells(&self, workers: &[WorkerReport], style: Style) -> Option<Vec<String>> {
        let values: Vec<_> = workers.iter().map(self.value).collect();
        if self.is_optional && values.iter().all(Option::is_none) {
            return None;
        }
        let values = values.into_iter().map(|value| value.unwrap_or_else(|| "-".to_owned()));
        let texts: Vec<_> = std::iter::once(self.title.to_owned()).chain(values).collect();
        let length = |text: &String| text.chars().count();
        let width = texts.iter().map(length).max().unwrap_or(0);
        let cells = texts.iter().enumerate().map(|(row, text)| {
            let padding = " ".repeat(width - length(text));
            let text = match (row, self.title) {
                (0, _) => style.paint(text, BOLD),
                (_, STATE) => style.paint(text, colour(text)),
                _ => text.clone(),
            };
            if self.is_number { padding + &text } else { text + &padding }
        });
        Some(cells.collect())
    }
}

/// A line about the master, and a table of the workers.
pub(super) fn table(status: &StatusReport, style: Style) -> String {
    let workers = &status.workers;
    let ready = status.ready();
    let mut text = format!(
        "master {}, generation {}, {ready} of {} workers ready{}\n",
        status.master,
        status.generation,
        workers.len(),
        most(status)
    );
    let columns = COLUMNS.iter().filter_map(|column| column.cells(workers, style));
    let columns: Vec<_> = columns.collect();
    for row in 0..=workers.len() {
        let cells: Vec<_> = columns.iter().map(|cells| cells[row].as_str()).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The sizes that groups may grow to.
fn most(status: &StatusReport) -> String {
    let all: Vec<_> = match status.most.iter().collect::<Vec<_>>()[..] {
        [] => return String::new(),
        // The only one.
        [(_, most)] if status.workers.iter().all(|worker| worker.group.is_none()) => {
            vec![most.to_string()]
        }
        ref groups => {
            groups.iter().map(|(group, most)| format!("{most} in {}", shown(group))).collect()
        }
    };
    format!(", at most {}", all.join(", "))
}

/// The deaths of workers, the latest last, each with the last lines that it has written.
pub(super) fn history(deaths: &[DeathReport], now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let titles = ["AGO", "WORKER", "GROUP", "PID", "LIVED", "END", "RESTARTED"].map(str::to_owned);
    let rows = deaths.iter().map(|death| {
        let end = match &death.killed {
            Some(reason) => format!("killed: {}", shown(reason)),
            None => death
                .killed_by
                .iter()
                .fold(shown(&death.exit), |exit, killer| format!("{exit} by {}", shown(killer))),
        };
        [
            age(now - death.at),
            death.worker.to_string(),
            shown(&death.group),
            death.pid.to_string(),
            death.lived_s.map_or_else(|| "-".to_owned(), age),
            end,
            if death.restarted { "yes" } else { "no" }.to_owned(),
        ]
    });
    let rows: Vec<_> = std::iter::once(titles).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..7).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let rows = rows.iter().map(line);
    let last_lines = deaths.iter().map(|death| {
        let last_lines = death.last_lines.iter().map(|text| format!("    | {}\n", line_of(text)));
        last_lines.collect::<String>()
    });
    let no_lines = std::iter::once(String::new());
    rows.zip(no_lines.chain(last_lines)).map(|(row, lines)| row + &lines).collect()
}

/// A line of a worker, as the service says it. Tabs are kept.
fn line_of(text: &str) -> String {
    printable(text.as_bytes())
}

fn colour(state: &str) -> &'static str {
    match state {
        "ready" => GREEN,
        "waiting" | "gone" => RED,
        _ => YELLOW,
    }
}

/// Words of the service, which are not to reach the terminal as they are.
fn shown(text: &str) -> String {
    text.escape_debug().to_string()
}

/// As much of a worker's words as fits on a line.
fn beginning(text: &str) -> String {
    let text = shown(text);
    match text.char_indices().nth(LONGEST_STATUS) {
        None => text,
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// The two largest units.
fn age(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, ..) => format!("{days}d {hours}h"),
    }
}

fn memory(kib: u64) -> String {
    match kib {
        0..1024 => format!("{kib} KiB"),
        _ => format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> StatusReport {
        let report = r#"{"master":99,"generation":3,"workers":[
            {"id":1,"pid":101,"state":"ready","generation":3,"uptime_s":8000},
            {"id":10,"state":"waiting","generation":3,"restarts":12,"uptime_s":0.9}]}"#;
        serde_json::from_str(report).unwrap()
    }

    #[test]
    fn columns_that_say_nothing_are_left_out() {
        let expected = "\
master 99, generation 3, 1 of 2 workers ready
ID  PID  STATE    GENERATION     AGE  RESTARTS
 1  101  ready             3  2h 13m         0
10    -  waiting           3      0s        12
";
        assert_eq!(table(&status(), Style::Plain), expected);
    }

    #[test]
    fn all_that_a_service_says_is_shown() {
        let mut status = status();
        status.most = [("web".to_owned(), 16)].into();
        let worker = &mut status.workers[1];
        worker.group = Some("web".to_owned());
        worker.draining = 1;
        worker.in_flight = Some(7);
        worker.memory_kb = Some(12_600);
        worker.last_exit = Some("exit status 3".to_owned());
        worker.status_text = Some("x".repeat(61));
        let expected = "\
master 99, generation 3, 1 of 2 workers ready, at most 16 in web
ID  GROUP  PID  STATE    GENERATION     AGE  RESTARTS  DRAINING  IN FLIGHT    MEMORY  LAST EXIT      STATUS
 1  -      101  ready             3  2h 13m         0         -          -         -  -              -
10  web      -  waiting           3      0s        12         1          7  12.3 MiB  exit status 3  \
xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...
";
        assert_eq!(table(&status, Style::Plain), expected);
    }

    #[test]
    fn a_service_does_not_write_to_the_terminal() {
        let mut status = status();
        status.workers[0].state = "\x1b[2J\u{9b}1m".to_owned();
        status.workers[0].last_exit = Some("a\nb".to_owned());
        let text = table(&status, Style::Plain);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert_eq!(text.lines().count(), 4);
        let coloured = table(&status, Style::Coloured);
        assert!(coloured.contains("\x1b[31mwaiting\x1b[0m"), "{coloured:?}");
    }

    #[test]
    fn the_history_is_a_table() {
        let deaths = r#"[{"at":100,"worker":3,"group":"web","pid":77,"exit":"exit status 3","lived_s":2.5,
            "restarted":true},{"at":3700,"worker":10,"group":"w\u001bb","pid":8,"exit":"x",
            "killed":"not ready within 30s"},{"at":3701,"worker":1,"group":"web","pid":9,"exit":"signal 9 (SIGKILL)",
            "killed_by":"another process","lived_s":1,"last_lines":["panicked:","\t\u001b[2Jx\\u{1b}"]}]"#;
        let deaths: Vec<_> = serde_json::from_str(deaths).unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(3705);
        let expected = "\
AGO    WORKER  GROUP     PID  LIVED  END                                    RESTARTED
1h 0m  3       web       77   2s     exit status 3                          yes
5s     10      w\\u{1b}b  8    -      killed: not ready within 30s           no
4s     1       web       9    1s     signal 9 (SIGKILL) by another process  no
    | panicked:
    | \t\\u{1b}[2Jx\\u{1b}
";
        assert_eq!(history(&deaths, now), expected);
    }

    #[test]
    fn ages_have_two_units() {
        let ages = [0.0, 59.9, 61.0, 3599.0, 7260.0, 90_000.0, -1.0, f64::NAN, 1e300].map(age);
        let expected = ["0s", "59s", "1m 1s", "59m 59s", "2h 1m", "1d 1h", "0s", "0s", "0s"];
        assert_eq!(ages, expected);
    }
}
