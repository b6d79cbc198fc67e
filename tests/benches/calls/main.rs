//! Typed calls beside a blocking ping-pong over the same kind of socket, in one run, as ratios.
//!
//! ```sh
//! cargo bench --bench calls            # the table
//! cargo bench --bench calls -- --quick # fewer rounds
//! ```
//!
//! One process asks, one answers. On one processor what is measured is the work; on two also how they
//! wake each other. Each figure is the median of many short rounds in which the candidates take
//! turns, and a ratio that of the ratios within a round: a machine that changes its speed changes all
//! of them.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::process::{Child, Command, ExitCode, Stdio, Termination};
use std::thread;
use std::time::{Duration, Instant};

use futures_channel::mpsc;
use futures_util::StreamExt;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use release_core::ipc::Request;
use release_core::rt::Driver;
use release_core::rt::local::Local;
use release_core::supervise::ReloadPolicy;
use release_core::{Environment, Exit, Master, Me, Workers, is_worker, me};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

mod floor;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Tells a worker which runtime it is to be measured on.
const CANDIDATE: &str = "CANDIDATE";

/// The first is what the others are compared with.
const ON_ONE_PROCESSOR: [&str; 7] =
    ["blocking", "tokio by hand", "smol by hand", "poll(2)", "tokio", "smol", "async-std"];

const ON_ALL_PROCESSORS: [&str; 5] =
    ["blocking", "tokio", "tokio, spinning", "smol", "smol, spinning"];

/// Each beside the same that polls for its responses: there, that must not make calls slower.
const SPINNING_OR_NOT: [&str; 2] = ["tokio", "tokio, spinning"];

/// What makes a worker of this candidate spin.
const SPINNING: &str = ", spinning";

/// What is asked: bytes to be sent back, or, at the end, how long it took.
#[derive(Serialize, Deserialize)]
enum Ask {
    Echo(ByteBuf),
    Took(Measured),
}

impl Request for Ask {
    type Response = ByteBuf;
}

/// One measurement: `calls` round trips of `size` bytes each way.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Task {
    candidate: String,
    calls: u32,
    size: usize,
}

impl Task {
    /// The first tenth only warms up.
    fn rounds(&self) -> u32 {
        self.calls + self.calls / 10
    }
}

/// The whole time, and the median and 99th percentile of single round trips.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Measured {
    total: Duration,
    median: Duration,
    p99: Duration,
}

fn main() -> ExitCode {
    if is_worker() {
        return worker().report();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--echo", candidate, size] => floor::echo(candidate, size),
        ["--busy", processor] => be_busy(processor),
        ["--measure", candidate, calls, size] => measure(candidate, calls, size),
        _ => table(arguments.iter().any(|argument| argument == "--quick")),
    };
    done.map_or_else(
        |error| {
            eprintln!("{error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// Measures both processes on one processor, where only the work counts, and then on all.
fn table(quick: bool) -> Result<(), AnyError> {
    let all = sched_getaffinity(Pid::from_raw(0))?;
    let mut one = CpuSet::new();
    one.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    println!("Both processes on one processor");
    compare(&ON_ONE_PROCESSOR, 64, 7_000, quick)?;
    compare(&ON_ONE_PROCESSOR, 1 << 20, 100, quick)?;
    compare(&SPINNING_OR_NOT, 64, 7_000, quick)?;
    sched_setaffinity(Pid::from_raw(0), &all)?;
    println!("\nOn all processors");
    compare(&ON_ALL_PROCESSORS, 64, 7_000, quick)?;
    println!("\nOn all processors, one of which another process keeps busy");
    let _one = Busy::on(0)?;
    compare(&SPINNING_OR_NOT, 64, 2_000, quick)?;
    println!("\nOn all processors, each of which another process keeps busy");
    let others = (1..CpuSet::count()).filter(|processor| all.is_set(*processor).unwrap_or(false));
    let _others = others.map(Busy::on).collect::<Result<Vec<_>, _>>()?;
    compare(&SPINNING_OR_NOT, 64, 2_000, quick)
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

/// Lets the candidates take turns, and prints the medians and their ratios to the first.
fn compare(candidates: &[&str], size: usize, calls: u32, quick: bool) -> Result<(), AnyError> {
    let rounds = if quick { 3 } else { 27 };
    println!("\n{size} bytes each way, {calls} calls, median of {rounds} rounds\n");
    println!("| | calls/s | ratio | median | p99 | system calls per call |");
    println!("|---|---:|---:|---:|---:|---:|");
    let mut results = vec![Vec::new(); candidates.len()];
    for _ in 0..rounds {
        for (candidate, results) in candidates.iter().zip(&mut results) {
            results.push(measured(candidate, calls, size)?);
        }
    }
    let floor = results[0].clone();
    for (candidate, results) in candidates.iter().zip(results) {
        let rates = results.iter().map(|it| f64::from(calls) / it.total.as_secs_f64());
        let ratios = floor
            .iter()
            .zip(&results)
            .map(|(floor, it)| floor.total.as_secs_f64() / it.total.as_secs_f64());
        let (rate, ratio) = (middle(rates, f64::total_cmp), middle(ratios, f64::total_cmp));
        let median = middle(results.iter().map(|it| it.median), Ord::cmp);
        let p99 = middle(results.iter().map(|it| it.p99), Ord::cmp);
        let traced = system_calls(candidate, size).unwrap_or_else(|_| "-".to_owned());
        println!("| {candidate} | {rate:.0} | {ratio:.2} | {median:.1?} | {p99:.1?} | {traced} |");
    }
    Ok(())
}

/// The median.
fn middle<T: Copy>(
    values: impl Iterator<Item = T>,
    order: impl Fn(&T, &T) -> std::cmp::Ordering,
) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort_by(order);
    values[values.len() / 2]
}

fn task_of(candidate: &str, calls: u32, size: usize) -> Result<Command, AnyError> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--measure", candidate, &calls.to_string(), &size.to_string()]);
    Ok(command)
}

fn measured(candidate: &str, calls: u32, size: usize) -> Result<Measured, AnyError> {
    let output = task_of(candidate, calls, size)?.stderr(Stdio::inherit()).output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// System calls of both processes for one round trip: the difference of two traces.
fn system_calls(candidate: &str, size: usize) -> Result<String, AnyError> {
    let (few, many) = if size > 65_536 { (20, 70) } else { (500, 2500) };
    let count = |calls| -> Result<f64, AnyError> {
        let task = task_of(candidate, calls, size)?;
        let output = Command::new("strace")
            .args(["-f", "-c", "-U", "calls,name", "-o", "/dev/stderr"])
            .arg(task.get_program())
            .args(task.get_args())
            .output()?;
        let report = String::from_utf8(output.stderr)?;
        let total = report.lines().rev().find(|line| line.contains("total"));
        let total = total.and_then(|line| line.split_whitespace().next()).ok_or("no total")?;
        Ok(total.parse()?)
    };
    let mut text = String::new();
    write!(text, "{:.1}", (count(many)? - count(few)?) / f64::from(many - few))?;
    Ok(text)
}

fn measure(candidate: &str, calls: &str, size: &str) -> Result<(), AnyError> {
    let task = Task { candidate: candidate.to_owned(), calls: calls.parse()?, size: size.parse()? };
    match candidate {
        "blocking" | "tokio by hand" | "smol by hand" => floor::measure(&task),
        "poll(2)" => master(task, Local::new),
        "tokio" | "tokio, spinning" => master(task, release_tokio::driver),
        "smol" | "smol, spinning" => master(task, release_smol::driver),
        "async-std" => master(task, release_async_std::driver),
        other => Err(format!("no candidate `{other}`").into()),
    }
}

/// Single round trips; those at the beginning only warm up.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn add(&mut self, began: Instant) {
        self.0.push(began.elapsed());
    }

    fn summary(self, calls: u32) -> Measured {
        let counted = usize::try_from(calls).unwrap_or(usize::MAX);
        let mut times = self.0[self.0.len() - counted..].to_vec();
        let total = times.iter().sum();
        times.sort();
        Measured { total, median: times[times.len() / 2], p99: times[times.len() * 99 / 100] }
    }
}

fn master<D: Driver>(task: Task, driver: fn() -> io::Result<D>) -> Result<(), AnyError> {
    let (sender, mut receiver) = mpsc::unbounded();
    let workers = Workers::same_executable("caller", 1)
        .user("nobody")
        .environment(Environment::default().set(CANDIDATE, &task.candidate))
        // What is measured comes after the canary time, whose timer is in every wait of the master.
        .reload(ReloadPolicy::default().canary(Duration::ZERO))
        .context(move |_| task.clone())
        .answer(move |_, ask| {
            let answer = match ask {
                Ask::Echo(bytes) => bytes,
                Ask::Took(measured) => {
                    let _ = sender.unbounded_send(measured);
                    ByteBuf::new()
                }
            };
            async move { Ok(answer) }
        });
    let exit = Master::new()
        .workers(workers)
        .main(|master| async move {
            if let Some(measured) = receiver.next().await {
                println!("{}", serde_json::to_string(&measured)?);
            }
            master.stop();
            Ok::<(), serde_json::Error>(())
        })
        .run(driver);
    exit.error().map_or(Ok(()), |error| Err(error.report().into()))
}

fn worker() -> Exit {
    let candidate = std::env::var(CANDIDATE).unwrap_or_default();
    let (runtime, worker) = match candidate.strip_suffix(SPINNING) {
        Some(runtime) => (runtime, me().spin(Duration::from_micros(50))),
        None => (candidate.as_str(), me()),
    };
    match runtime {
        "poll(2)" => worker.run(Local::new, ask),
        "smol" => worker.run(release_smol::driver, ask),
        "async-std" => worker.run(release_async_std::driver, ask),
        _ => worker.run(release_tokio::driver, ask),
    }
}

async fn ask(me: Me<Task, Ask>) -> Result<(), AnyError> {
    let (task, master) = (me.context(), me.master());
    me.ready()?;
    let mut request = Ask::Echo(vec![b'x'; task.size].into());
    let mut times = Times::default();
    for _ in 0..task.rounds() {
        let began = Instant::now();
        let answer = master.call(&request).await?;
        times.add(began);
        request = Ask::Echo(answer);
    }
    master.call(&Ask::Took(times.summary(task.calls))).await?;
    me.stopping().await;
    Ok(())
}
