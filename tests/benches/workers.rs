//! From ten to a thousand workers: the time to start them, to reach all with a broadcast and to stop
//! them, and what each costs the master.
//!
//! ```sh
//! cargo bench --bench workers            # the table
//! cargo bench --bench workers -- --quick # up to a hundred
//! ```

use std::process::{Command, ExitCode, Stdio, Termination};
use std::time::{Duration, Instant};

use futures_channel::mpsc;
use futures_util::StreamExt;
use release_core::ipc::{Refused, Request};
use release_core::rt::local::Local;
use release_core::{Exit, Master, Me, Workers, is_worker, me};
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

#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    start: Duration,
    broadcast: Duration,
    stop: Duration,
    /// The master's private memory, in KiB: before any worker, and with all.
    before: u64,
    with_all: u64,
    descriptors: usize,
}

fn main() -> ExitCode {
    if is_worker() {
        return worker().report();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--measure", workers] => measure(workers),
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

fn table(quick: bool) -> Result<(), AnyError> {
    println!(
        "| workers | start, each | broadcast, each | stop, each | memory, each | descriptors |"
    );
    println!("|---:|---:|---:|---:|---:|---:|");
    for workers in [10_u32, 100, 1000].into_iter().take(if quick { 2 } else { 3 }) {
        let output = Command::new(std::env::current_exe()?)
            .args(["--measure", &workers.to_string()])
            .stderr(Stdio::inherit())
            .output()?;
        let measured: Measured = serde_json::from_slice(&output.stdout)?;
        let Measured { start, broadcast, stop, before, with_all, descriptors } = measured;
        let memory = with_all.saturating_sub(before) as f64 / f64::from(workers);
        let (start, broadcast, stop) = (start / workers, broadcast / workers, stop / workers);
        println!(
            "| {workers} | {start:.0?} | {broadcast:.1?} | {stop:.0?} | {memory:.1} KiB | \
             {descriptors} |"
        );
    }
    Ok(())
}

fn measure(workers: &str) -> Result<(), AnyError> {
    let count: u32 = workers.parse()?;
    let (sender, mut told) = mpsc::unbounded();
    let workers = Workers::same_executable("worker", count)
        .requests::<String>()
        .user("nobody")
        .answer(move |_, word: Told| {
            let _ = sender.unbounded_send(word);
            async { Ok(()) }
        });
    let connections = workers.connections();
    let (measured, mut result) = mpsc::unbounded();
    let began = Instant::now();
    let before = private_kib()?;
    let exit = Master::new()
        .workers(workers)
        .main(move |master| async move {
            let all = usize::try_from(count)?;
            let up = told.by_ref().filter(|word| futures_util::future::ready(*word == Told::IAmUp));
            up.take(all).for_each(|_| async {}).await;
            let start = began.elapsed();
            let sent = Instant::now();
            connections.broadcast(&"hello".to_owned());
            told.by_ref().take(all).for_each(|_| async {}).await;
            let broadcast = sent.elapsed();
            let with_all = private_kib()?;
            let descriptors = std::fs::read_dir("/proc/self/fd")?.count() - 1;
            let stop = Duration::ZERO;
            let stopping = Instant::now();
            let so_far = Measured { start, broadcast, stop, before, with_all, descriptors };
            let _ = measured.unbounded_send((so_far, stopping));
            master.stop();
            Ok::<(), AnyError>(())
        })
        .run(Local::new);
    if let Some(error) = exit.error() {
        return Err(error.report().into());
    }
    let (mut measured, stopping) = result.try_recv()?;
    measured.stop = stopping.elapsed();
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

fn worker() -> Exit {
    me().run_answering(Local::new, heard, serve)
}

thread_local! {
    /// Where broadcasts go: what answers them does not know the connection.
    static HEARD: (mpsc::UnboundedSender<String>, std::cell::Cell<Option<mpsc::UnboundedReceiver<String>>>) = {
        let (sender, receiver) = mpsc::unbounded();
        (sender, std::cell::Cell::new(Some(receiver)))
    };
}

async fn heard(word: String) -> Result<String, Refused> {
    HEARD.with(|(sender, _)| sender.unbounded_send(word)).map_err(|_| Refused::new("too late"))?;
    Ok(String::new())
}

async fn serve(me: Me<(), Told>) -> Result<(), AnyError> {
    let mut heard = HEARD.with(|(_, receiver)| receiver.take()).ok_or("taken twice")?;
    me.ready()?;
    me.master().call(&Told::IAmUp).await?;
    heard.next().await;
    me.master().call(&Told::IHeardIt).await?;
    me.stopping().await;
    Ok(())
}

fn private_kib() -> std::io::Result<u64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    let numbers = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(numbers.sum())
}
