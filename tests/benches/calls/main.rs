//! Typed calls beside a blocking ping-pong over the same kind of socket, beside what a program writes
//! by hand, and beside other crates: in one run, as ratios.
//!
//! ```sh
//! cargo bench --bench calls                    # the tables
//! cargo bench --bench calls -- --quick         # fewer rounds, without the other crates
//! cargo bench --bench calls -- --page          # also into docs/PERFORMANCE.md, with the picture
//! cargo bench --bench calls -- --cell in-flight
//! ```
//!
//! On one processor what is measured is the work; on all of them also how the processes wake each
//! other. Each figure is the median of many short rounds in which the candidates take turns, and a
//! ratio that of the ratios within a round: a machine that changes its speed changes all of them.
//!
//! The other crates are in `tests/peers`, a workspace of its own, which this program builds.

use std::io::{self, Read};
use std::process::{Child, Command, ExitCode, Stdio, Termination};
use std::thread;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use release_core::is_worker;

use cells::{AnyError, Cell, Task};
use compare::{Comparison, Row};

mod by_hand;
mod candidates;
mod cells;
mod compare;
mod floor;
mod library;
mod multiplexer;
mod page;
mod traces;

/// How much slower a call may be with `spin` than without it, whatever else runs.
const SPIN_LIMIT: f64 = 1.2;

fn main() -> ExitCode {
    if is_worker() {
        return library::worker().report();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--ask", candidate, cell, calls] => {
            Task::new(candidate, cell, calls).and_then(|task| candidates::ask(&task))
        }
        ["--measure", candidate, cell, calls] => {
            Task::new(candidate, cell, calls).and_then(candidates::measure)
        }
        ["--busy", processor] => be_busy(processor),
        ["--draw", lines] => page::read(lines).and_then(|rows| page::write(&rows)),
        ref options => run(options),
    };
    done.map_or_else(
        |error| {
            eprintln!("{error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// Measures all processes on one processor, where only the work counts, and then on all.
fn run(options: &[&str]) -> Result<(), AnyError> {
    let has = |option| options.contains(&option);
    let comparison = Comparison::new(has("--quick"), has("--peers"))?;
    let cell = options.iter().position(|option| *option == "--cell");
    let only = cell.and_then(|index| options.get(index + 1)).map(|name| Cell::of(name));
    let only = only.transpose()?;
    let all = sched_getaffinity(Pid::from_raw(0))?;
    let mut one = CpuSet::new();
    one.set((0..CpuSet::count()).find(|it| all.is_set(*it).unwrap_or(false)).unwrap_or(0))?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    let mut rows = Vec::new();
    for cell in Cell::ALL.into_iter().filter(|cell| only.is_none_or(|only| only == *cell)) {
        let title = format!("One processor, {cell}");
        let candidates = comparison.candidates(cell);
        rows.extend(comparison.compare(&title, cell, cell.calls(), &candidates, true)?);
    }
    let spun =
        if only.is_none() { on_all_processors(&comparison, &all, &mut rows) } else { Ok(()) };
    if has("--page") {
        page::write(&rows)?;
    }
    spun
}

/// Also beside other work, where a caller that spins must not be slower than one that sleeps.
fn on_all_processors(
    comparison: &Comparison,
    all: &CpuSet,
    rows: &mut Vec<Row>,
) -> Result<(), AnyError> {
    let compare = |title: &str, calls, candidates: &[&str]| {
        comparison.compare(title, Cell::Sequential, calls, candidates, false)
    };
    let spinning = |title: &str, calls| compare(title, calls, &candidates::SPINNING_OR_NOT);
    let mut beside = vec![spinning("One processor, with and without spinning", 7_000)?];
    sched_setaffinity(Pid::from_raw(0), all)?;
    rows.extend(compare("All processors", 7_000, &candidates::ON_ALL_PROCESSORS)?);
    let processors = (0..CpuSet::count()).filter(|it| all.is_set(*it).unwrap_or(false));
    let mut busy = Vec::new();
    for processor in processors {
        busy.push(Busy::on(processor)?);
        let title = format!("All processors, {} of them busy", busy.len());
        beside.push(spinning(&title, 2_000)?);
    }
    drop(busy);
    let mut slower = Vec::new();
    for pair in &beside {
        if let [sleeping, spinning] = &pair[..] {
            let times = sleeping.rate / spinning.rate;
            println!(
                "{}: a spinning call takes {times:.2} times that of one that sleeps",
                spinning.cell
            );
            if times > SPIN_LIMIT {
                slower.push(&spinning.cell);
            }
        }
        rows.extend(pair.iter().cloned());
    }
    // A few rounds on a busy machine say little.
    if slower.is_empty() || comparison.is_quick() {
        return Ok(());
    }
    Err(format!("spinning is slower than {SPIN_LIMIT} times: {slower:?}").into())
}

/// A process that keeps a processor busy until this is dropped.
struct Busy(Child);

impl Busy {
    fn on(processor: usize) -> Result<Self, AnyError> {
        let mut command = Command::new(std::env::current_exe()?);
        Ok(Self(command.args(["--busy", &processor.to_string()]).stdin(Stdio::piped()).spawn()?))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Works until its parent has gone.
fn be_busy(processor: &str) -> Result<(), AnyError> {
    let mut one = CpuSet::new();
    one.set(processor.parse()?)?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    let gone = thread::spawn(|| io::stdin().read(&mut [0]));
    while !gone.is_finished() {
        std::hint::spin_loop();
    }
    Ok(())
}
