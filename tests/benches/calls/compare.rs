//! Candidates in turns, and their table.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::candidates;
use crate::cells::{AnyError, Cell, Measured};
use crate::traces;

/// The figures of a candidate in a cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) cell: String,
    pub(crate) candidate: String,
    /// Messages a second, and its ratio to that of the first candidate.
    pub(crate) rate: f64,
    pub(crate) rate_ratio: f64,
    /// Microseconds of all processes for a message, and how many times that the first takes of it.
    pub(crate) processor: f64,
    pub(crate) processor_ratio: f64,
    /// Microseconds.
    pub(crate) median: f64,
    pub(crate) p99: f64,
    /// Of all processes, for a message.
    pub(crate) system_calls: Option<f64>,
    pub(crate) instructions: Option<f64>,
}

/// How the candidates are compared.
pub(crate) struct Comparison {
    rounds: usize,
    is_quick: bool,
    peers: Option<PathBuf>,
}

impl Comparison {
    /// A quick one has no peers unless they are asked for.
    pub(crate) fn new(is_quick: bool, peers: bool) -> Result<Self, AnyError> {
        let peers = (peers || !is_quick).then(candidates::build_peers).transpose()?;
        Ok(Self { rounds: if is_quick { 3 } else { 27 }, is_quick, peers })
    }

    pub(crate) fn is_quick(&self) -> bool {
        self.is_quick
    }

    pub(crate) fn candidates(&self, cell: Cell) -> Vec<&'static str> {
        let peers = if self.peers.is_some() { candidates::peers(cell) } else { &[] };
        [candidates::of(cell).as_slice(), peers].concat()
    }

    /// The program that measures, with its arguments.
    fn command(&self, candidate: &str, cell: Cell, calls: u32) -> Result<Command, AnyError> {
        let is_peer = candidates::peers(cell).contains(&candidate);
        let program = match &self.peers {
            Some(peers) if is_peer => peers.clone(),
            _ => std::env::current_exe()?,
        };
        let mut command = Command::new(program);
        command.args(["--measure", candidate, cell.name(), &calls.to_string()]);
        Ok(command)
    }

    fn measured(&self, candidate: &str, cell: Cell, calls: u32) -> Result<Measured, AnyError> {
        let output = self.command(candidate, cell, calls)?.stderr(Stdio::inherit()).output()?;
        let measured = serde_json::from_slice(&output.stdout);
        measured.map_err(|error| format!("{candidate}, {cell}, {}: {error}", output.status).into())
    }

    /// Lets the candidates take turns, and prints the medians and their ratios to the first.
    pub(crate) fn compare(
        &self,
        title: &str,
        cell: Cell,
        calls: u32,
        candidates: &[&str],
        is_traced: bool,
    ) -> Result<Vec<Row>, AnyError> {
        let mut results = vec![Vec::new(); candidates.len()];
        for _ in 0..self.rounds {
            for (candidate, results) in candidates.iter().zip(&mut results) {
                results.push(self.measured(candidate, cell, calls)?);
            }
        }
        println!("\n{title}: {calls} messages, median of {} rounds\n", self.rounds);
        println!("{HEAD}");
        let floor = results[0].clone();
        let mut rows = Vec::new();
        for (candidate, results) in candidates.iter().zip(results) {
            let mut row = Row::of(title, candidate, &floor, &results);
            if is_traced {
                let command = |calls| self.command(candidate, cell, calls);
                row.system_calls = traces::system_calls(cell, &command);
                let counts = matches!(cell, Cell::Sequential | Cell::InFlight) && !self.is_quick;
                row.instructions = counts.then(|| traces::instructions(cell, &command)).flatten();
            }
            println!("{}", row.line());
            rows.push(row);
        }
        Ok(rows)
    }
}

/// The head of a table of rows.
pub(crate) const HEAD: &str = "\
| | messages/s | ratio | processor time, µs | ratio | median, µs | p99, µs | system calls | instructions |
|---|---:|---:|---:|---:|---:|---:|---:|---:|";

impl Row {
    fn of(cell: &str, candidate: &str, floor: &[Measured], results: &[Measured]) -> Self {
        let each = |figure: fn(&Measured) -> f64| results.iter().map(figure).collect::<Vec<_>>();
        let ratio = |figure: fn(&Measured) -> f64| {
            middle(
                floor.iter().zip(results).map(|(floor, it)| figure(floor) / figure(it)).collect(),
            )
        };
        let elapsed = |it: &Measured| it.elapsed.as_secs_f64();
        let processor = |it: &Measured| it.processor.as_secs_f64();
        Self {
            cell: cell.to_owned(),
            candidate: candidate.to_owned(),
            rate: middle(each(|it| f64::from(it.messages) / it.elapsed.as_secs_f64())),
            rate_ratio: ratio(elapsed),
            processor: middle(each(|it| it.processor.as_secs_f64() * 1e6 / f64::from(it.messages))),
            processor_ratio: ratio(processor),
            median: middle(each(|it| it.latency.median.as_secs_f64() * 1e6)),
            p99: middle(each(|it| it.latency.p99.as_secs_f64() * 1e6)),
            system_calls: None,
            instructions: None,
        }
    }

    /// The line of a table.
    pub(crate) fn line(&self) -> String {
        let traced = |figure: Option<f64>, digits| {
            figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.digits$}"))
        };
        // A client that only listens, or has many calls in flight, has no round trip to tell of.
        let time = |micros: f64| if micros > 0.0 { format!("{micros:.1}") } else { "-".to_owned() };
        format!(
            "| {} | {:.0} | {:.2} | {:.2} | {:.2} | {} | {} | {} | {} |",
            self.candidate,
            self.rate,
            self.rate_ratio,
            self.processor,
            self.processor_ratio,
            time(self.median),
            time(self.p99),
            traced(self.system_calls, 1),
            traced(self.instructions, 0),
        )
    }
}

/// The median.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
