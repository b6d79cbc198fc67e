//! From one to a thousand workers: what a heartbeat, a line of output, a broadcast, a status report and
//! a reload cost the master for each worker. None should grow with their number: the bench fails if one
//! does, from ten to a thousand, by more than half. A quick run only tells.
//!
//! ```sh
//! cargo bench --bench workers            # the tables
//! cargo bench --bench workers -- --quick # up to a hundred
//! ```

use std::process::{Command, ExitCode, Stdio, Termination};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_channel::mpsc;
use futures_util::StreamExt;
use futures_util::future::select;
use nix::time::{ClockId, clock_gettime};
use release_core::ipc::{Refused, Request};
use release_core::rt::local::Local;
use release_core::supervise::ReloadPolicy;
use release_core::{Exit, Master, MasterHandle, Me, StatusReport, Workers, is_worker, me};
use serde::{Deserialize, Serialize};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// What a worker tells the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Told {
    IAmUp,
    IHeardIt,
}

impl Request for Told {
    type Response = ();
}

/// What the master tells all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Word {
    Hello,
    /// Write lines.
    Write,
}

impl Request for Word {
    type Response = ();
}

/// For each worker: times from the beginning to the end, then processor times of the master.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Measured {
    workers: u32,
    start: Duration,
    reload: Duration,
    stop: Duration,
    heartbeat: Duration,
    line: Duration,
    broadcast: Duration,
    status: Duration,
    reload_of_master: Duration,
    /// The master's private memory, in bytes.
    memory: u64,
    descriptors: usize,
}

/// A column: its name and its figure.
type Column = (&'static str, fn(&Measured) -> Duration);

/// The columns that must not grow.
const FLAT: [Column; 5] = [
    ("heartbeat", |it| it.heartbeat),
    ("line of output", |it| it.line),
    ("broadcast", |it| it.broadcast),
    ("status", |it| it.status),
    ("reload", |it| it.reload_of_master),
];

/// What they are compared with, and how many times that they may be.
const BASE: u32 = 10;
const LIMIT: f64 = 1.5;

fn main() -> ExitCode {
    if is_worker() {
        return worker().report();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--measure", workers] => measure(workers),
        _ => tables(arguments.iter().any(|argument| argument == "--quick")),
    };
    done.map_or_else(
        |error| {
            eprintln!("{error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn tables(quick: bool) -> Result<(), AnyError> {
    let mut all = Vec::new();
    for workers in [1_u32, 10, 100, 300, 1000].into_iter().take(if quick { 3 } else { 5 }) {
        let rounds = if quick { 1 } else { 5 };
        let measured = (0..rounds).map(|_| measured(workers));
        all.push(median(&measured.collect::<Result<Vec<_>, _>>()?));
    }
    println!("For each worker, from the beginning to the end:\n");
    println!("| workers | start | reload | stop | memory | descriptors of all |");
    println!("|---:|---:|---:|---:|---:|---:|");
    for it in &all {
        let kib = it.memory as f64 / 1024.0;
        println!(
            "| {} | {:.0?} | {:.0?} | {:.0?} | {kib:.1} KiB | {} |",
            it.workers, it.start, it.reload, it.stop, it.descriptors,
        );
    }
    println!("\nFor each worker, processor time of the master:\n");
    println!(
        "| workers |{} |",
        FLAT.map(|(name, _)| format!(" {name} |")).concat().trim_end_matches(" |")
    );
    println!("|---:|{}", "---:|".repeat(FLAT.len()));
    for it in &all {
        let figures = FLAT.map(|(_, figure)| format!(" {:.2?} |", figure(it))).concat();
        println!("| {} |{figures}", it.workers);
    }
    let base = all.iter().find(|it| it.workers == BASE).ok_or("nothing to compare with")?;
    let mut grown = Vec::new();
    for it in all.iter().filter(|it| it.workers > BASE) {
        for (name, figure) in FLAT {
            let times = figure(it).as_secs_f64() / figure(base).as_secs_f64();
            if times > LIMIT {
                grown.push(format!("{name} of {} workers: {times:.2} times", it.workers));
            }
        }
    }
    match grown.is_empty() {
        true => println!("\nNothing grows beyond {LIMIT} times the figure of {BASE} workers."),
        false => println!("\nBeyond {LIMIT} times the figure of {BASE} workers: {grown:#?}"),
    }
    if quick || grown.is_empty() { Ok(()) } else { Err("the cost of a worker grows".into()) }
}

fn measured(workers: u32) -> Result<Measured, AnyError> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--measure", &workers.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    let measured = serde_json::from_slice(&output.stdout);
    measured.map_err(|error| format!("{workers} workers, {}: {error}", output.status).into())
}

/// Of each figure.
fn median(all: &[Measured]) -> Measured {
    let middle = |figure: fn(&Measured) -> Duration| {
        let mut figures: Vec<_> = all.iter().map(figure).collect();
        figures.sort_unstable();
        figures[figures.len() / 2]
    };
    Measured {
        start: middle(|it| it.start),
        reload: middle(|it| it.reload),
        stop: middle(|it| it.stop),
        heartbeat: middle(|it| it.heartbeat),
        line: middle(|it| it.line),
        broadcast: middle(|it| it.broadcast),
        status: middle(|it| it.status),
        reload_of_master: middle(|it| it.reload_of_master),
        ..all[0]
    }
}

/// Four heartbeats of each worker in its time.
const HEARTBEAT: Duration = Duration::from_secs(4);

/// How often the status is asked for, and all are told something.
const STATUSES: u32 = 100;
const BROADCASTS: u32 = 20;

/// The lines of each worker, and the time between two.
const LINES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// Processor time of this process so far.
fn processor_time() -> Result<Duration, AnyError> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// The processor time of one report.
fn status(master: &MasterHandle) -> Result<Duration, AnyError> {
    let before = processor_time()?;
    for _ in 0..STATUSES {
        std::hint::black_box(StatusReport::of(master).to_string());
    }
    Ok((processor_time()? - before) / STATUSES)
}

/// The processor time of one heartbeat of all workers, while nothing else happens.
async fn heartbeat(master: &MasterHandle) -> Result<Duration, AnyError> {
    let before = processor_time()?;
    master.rt().sleep(HEARTBEAT).await;
    Ok((processor_time()? - before) / 4)
}

/// The workers, whose words go to `told`, and whose lines are counted.
fn group(count: u32, told: mpsc::UnboundedSender<Told>, lines: Arc<AtomicUsize>) -> Workers<Word> {
    Workers::same_executable("worker", count)
        .requests::<Word>()
        .user("nobody")
        .heartbeat(HEARTBEAT)
        .reload(ReloadPolicy::default().canary(Duration::ZERO))
        .output(move |_, _, _| {
            lines.fetch_add(1, Ordering::Relaxed);
        })
        .answer(move |_, word: Told| {
            let _ = told.unbounded_send(word);
            async { Ok(()) }
        })
}

/// All the lines of the workers have come.
async fn await_lines(
    master: &MasterHandle,
    lines: &AtomicUsize,
    count: u32,
) -> Result<(), AnyError> {
    let written = usize::try_from(LINES * count)?;
    while lines.load(Ordering::Relaxed) < written {
        master.rt().sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn measure(workers: &str) -> Result<(), AnyError> {
    let count: u32 = workers.parse()?;
    let (sender, mut told) = mpsc::unbounded();
    let lines = Arc::new(AtomicUsize::new(0));
    let workers = group(count, sender, lines.clone());
    let connections = workers.connections();
    let (measured, mut result) = mpsc::unbounded();
    let (began, before) = (Instant::now(), private_memory()?);
    let exit = Master::new()
        .workers(workers)
        .main(move |master| async move {
            let all = usize::try_from(count)?;
            told.by_ref().take(all).for_each(|_| async {}).await;
            let start = began.elapsed();
            let mut tell = async |word| {
                let before = processor_time()?;
                connections.broadcast(word);
                told.by_ref().take(all).for_each(|_| async {}).await;
                Ok::<_, AnyError>(processor_time()? - before)
            };
            let mut broadcast = Duration::ZERO;
            for _ in 0..BROADCASTS {
                broadcast += tell(Word::Hello).await?;
            }
            // Their calls are a part of it, and hardly count beside the lines.
            let before_lines = processor_time()?;
            tell(Word::Write).await?;
            await_lines(&master, &lines, count).await?;
            let line = (processor_time()? - before_lines) / LINES;
            let memory = private_memory()?.saturating_sub(before);
            let descriptors = std::fs::read_dir("/proc/self/fd")?.count() - 1;
            let (status, heartbeat) = (status(&master)?, heartbeat(&master).await?);
            let (reloading, before) = (Instant::now(), processor_time()?);
            master.reload().await?;
            let so_far = Measured {
                workers: count,
                start: start / count,
                reload: reloading.elapsed() / count,
                stop: Duration::ZERO,
                heartbeat: heartbeat / count,
                line: line / count,
                broadcast: broadcast / BROADCASTS / count,
                status: status / count,
                reload_of_master: (processor_time()? - before) / count,
                memory: memory / u64::from(count),
                descriptors,
            };
            let _ = measured.unbounded_send((so_far, Instant::now()));
            master.stop();
            Ok::<(), AnyError>(())
        })
        .run(Local::new);
    if let Some(error) = exit.error() {
        return Err(error.report().into());
    }
    let (mut measured, stopping) = result.try_recv()?;
    measured.stop = stopping.elapsed() / count;
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

fn worker() -> Exit {
    me().run_answering(Local::new, heard, serve)
}

thread_local! {
    /// Where broadcasts go: what answers them does not know the connection.
    static HEARD: (mpsc::UnboundedSender<Word>, std::cell::Cell<Option<mpsc::UnboundedReceiver<Word>>>) = {
        let (sender, receiver) = mpsc::unbounded();
        (sender, std::cell::Cell::new(Some(receiver)))
    };
}

async fn heard(word: Word) -> Result<(), Refused> {
    HEARD.with(|(sender, _)| sender.unbounded_send(word)).map_err(|_| Refused::new("too late"))
}

async fn serve(me: Me<(), Told>) -> Result<(), AnyError> {
    let mut heard = HEARD.with(|(_, receiver)| receiver.take()).ok_or("taken twice")?;
    me.ready()?;
    me.master().call(&Told::IAmUp).await?;
    // Those of a reload hear nothing.
    while !me.is_stopping() {
        let word = match select(heard.next(), me.stopping()).await {
            futures_util::future::Either::Left((word, _)) => word.ok_or("nobody speaks")?,
            futures_util::future::Either::Right(_) => break,
        };
        for _ in 0..if word == Word::Write { LINES } else { 0 } {
            me.rt().sleep(PAUSE).await;
            eprintln!("a line of a worker");
        }
        me.master().call(&Told::IHeardIt).await?;
    }
    Ok(())
}

/// Of this process, in bytes.
fn private_memory() -> std::io::Result<u64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    let numbers = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(numbers.sum::<u64>() * 1024)
}
