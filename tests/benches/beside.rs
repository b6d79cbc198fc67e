//! Sockets and timers of smol itself, in a worker on this library's driver, beside the same under
//! smol's own `block_on`: the worker must not be slower.
//!
//! ```sh
//! cargo bench --bench beside            # the table
//! cargo bench --bench beside -- --quick # fewer rounds; only tells
//! ```

use std::future::Future;
use std::net::Ipv4Addr;
use std::process::{Command, ExitCode, Stdio, Termination};
use std::time::{Duration, Instant};

use futures_channel::mpsc;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use nix::time::{ClockId, clock_gettime};
use release_core::ipc::Request;
use release_core::{Environment, Master, Me, Workers, is_worker, me};
use serde::{Deserialize, Serialize};
use smol::Timer;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Tells the worker what to do.
const WORK: &str = "WORK";

const WORKS: [(&str, &str); 4] = [
    ("echo", "an echo over TCP"),
    ("many-echoes", "an echo over each of 32 connections"),
    ("timer", "a timer of 100 µs"),
    ("many-timers", "each of 100 timers at once"),
];

/// How many times as slow a worker may be: what differs by less is noise.
const LIMIT: f64 = 1.1;

/// What one run took for each echo or timer, and of the processor.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Took {
    elapsed: Duration,
    processor: Duration,
}

impl Request for Took {
    type Response = ();
}

fn main() -> ExitCode {
    if is_worker() {
        return me().run(release_smol::driver, worker).report();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--alone", work] => smol::block_on(measured(work)).and_then(|took| print(&took)),
        ["--beside", work] => beside(work),
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

fn print(took: &Took) -> Result<(), AnyError> {
    println!("{}", serde_json::to_string(took)?);
    Ok(())
}

fn table(quick: bool) -> Result<(), AnyError> {
    let rounds = if quick { 3 } else { 27 };
    println!("Median of {rounds} rounds\n");
    println!(
        "| | smol alone | in a worker | times | processor time, alone | in a worker | times |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let mut slower = Vec::new();
    for (work, name) in WORKS {
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            alone.push(run("--alone", work)?);
            beside.push(run("--beside", work)?);
        }
        let middle = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let mut line = format!("| {name} |");
        for figure in [|it: &Took| it.elapsed, |it: &Took| it.processor] {
            let micros = |all: &[Took]| {
                middle(all.iter().map(|it| figure(it).as_secs_f64() * 1e6).collect())
            };
            let ratios = alone.iter().zip(&beside);
            let ratios =
                ratios.map(|(one, other)| figure(other).as_secs_f64() / figure(one).as_secs_f64());
            let times = middle(ratios.collect());
            line +=
                &format!(" {:.2} µs | {:.2} µs | {times:.2} |", micros(&alone), micros(&beside));
            if times > LIMIT {
                slower.push(format!("{name}: {times:.2} times"));
            }
        }
        println!("{line}");
    }
    match slower.is_empty() {
        true => return Ok(()),
        false => println!("\nSlower than {LIMIT} times: {slower:?}"),
    }
    if quick { Ok(()) } else { Err("a worker is slower than smol alone".into()) }
}

fn run(how: &str, work: &str) -> Result<Took, AnyError> {
    let output = Command::new(std::env::current_exe()?)
        .args([how, work])
        .stderr(Stdio::inherit())
        .output()?;
    let took = serde_json::from_slice(&output.stdout);
    took.map_err(|error| format!("{how} {work}, {}: {error}", output.status).into())
}

/// A master with the worker that does it.
fn beside(work: &str) -> Result<(), AnyError> {
    let (sender, mut receiver) = mpsc::unbounded();
    let workers = Workers::same_executable("beside", 1)
        .user("nobody")
        .environment(Environment::default().set(WORK, work))
        .answer(move |_, took: Took| {
            let _ = sender.unbounded_send(took);
            async { Ok(()) }
        });
    let exit = Master::new()
        .workers(workers)
        .main(move |master| async move {
            if let Some(took) = receiver.next().await {
                print(&took)?;
            }
            master.stop();
            Ok::<(), AnyError>(())
        })
        .run(release_smol::driver);
    exit.error().map_or(Ok(()), |error| Err(error.report().into()))
}

async fn worker(me: Me<(), Took>) -> Result<(), AnyError> {
    me.ready()?;
    let took = measured(&std::env::var(WORK)?).await?;
    me.master().call(&took).await?;
    me.stopping().await;
    Ok(())
}

async fn measured(work: &str) -> Result<Took, AnyError> {
    match work {
        "echo" => echoes(1, 10_000).await,
        "many-echoes" => echoes(32, 500).await,
        "timer" => timers(1, 500).await,
        "many-timers" => timers(100, 100).await,
        other => Err(format!("no work `{other}`").into()),
    }
}

fn processor_time() -> Result<Duration, AnyError> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// Does it once to warm up.
async fn time<F: Future<Output = Result<(), AnyError>>>(
    each: u32,
    work: impl Fn(u32) -> F,
    times: u32,
) -> Result<Took, AnyError> {
    work(times / 10).await?;
    let (began, before) = (Instant::now(), processor_time()?);
    work(times).await?;
    let all = each * times;
    Ok(Took { elapsed: began.elapsed() / all, processor: (processor_time()? - before) / all })
}

/// Both ends are in this process.
async fn echoes(connections: u32, times: u32) -> Result<Took, AnyError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut pairs = Vec::new();
    for _ in 0..connections {
        let client = TcpStream::connect(listener.local_addr()?).await?;
        let (server, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        pairs.push((client, server));
    }
    let pairs = &pairs;
    let echo = |times| async move {
        try_join_all(pairs.iter().map(async |(client, server)| {
            let ask = async {
                let (mut client, mut answer) = (client.clone(), [0; 32]);
                for _ in 0..times {
                    client.write_all(&[b'x'; 32]).await?;
                    client.read_exact(&mut answer).await?;
                }
                Ok::<_, AnyError>(())
            };
            let answer = async {
                let (mut server, mut asked) = (server.clone(), [0; 32]);
                for _ in 0..times {
                    server.read_exact(&mut asked).await?;
                    server.write_all(&asked).await?;
                }
                Ok::<_, AnyError>(())
            };
            smol::future::try_zip(ask, answer).await
        }))
        .await?;
        Ok(())
    };
    time(connections, echo, times).await
}

async fn timers(at_once: u32, times: u32) -> Result<Took, AnyError> {
    let sleep = |times| async move {
        for _ in 0..times {
            let timers = (0..at_once).map(|_| Timer::after(Duration::from_micros(100)));
            futures_util::future::join_all(timers).await;
        }
        Ok(())
    };
    time(at_once, sleep, times).await
}
