//! What reloads and upgrades of the `service` example cost its clients: the latency of requests
//! while nothing happens, during a hundred reloads and during twenty upgrades, in one run. The three
//! take turns, so that a machine that changes its speed changes all of them.
//!
//! ```sh
//! cargo bench --bench restarts            # the table
//! cargo bench --bench restarts -- --quick # a tenth of it
//! ```

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use release_tests::{Backend, HttpClient, Program, Running, control, try_http_get};

/// Half of them keep their connection as long as the server does, half take a new one each time.
const CLIENTS: usize = 8;

/// The pause between two requests of a client: the processors are not full in steady times.
const PAUSE: Duration = Duration::from_millis(2);

/// How often each phase has its turn.
const TURNS: u32 = 20;

/// How long nothing happens in a turn.
const STEADY: Duration = Duration::from_secs(1);

/// What happens while the clients ask, what the master is told to have it so, and how often in a turn.
const PHASES: [(&str, Option<(&str, u32)>); 3] =
    [("steady", None), ("reloads", Some(("reload", 5))), ("upgrades", Some(("upgrade", 1)))];

/// The number of the phase that there is not: the clients are done.
const OVER: usize = PHASES.len();

fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let turns = if quick { TURNS / 10 } else { TURNS };
    println!(
        "{CLIENTS} clients, a request every {PAUSE:?} each; ratios to the steady 99th percentile\n"
    );
    println!("| | phase | how often | requests | failed | median | p99 | ratio |");
    println!("|---|---|---:|---:|---:|---:|---:|---:|");
    let mut lost = 0;
    for (backend, name) in
        [(Backend::Tokio, "tokio"), (Backend::Smol, "smol"), (Backend::AsyncStd, "async-std")]
    {
        lost += measure(backend, name, turns);
    }
    if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the lines of one backend; how many requests failed.
fn measure(backend: Backend, name: &str, turns: u32) -> usize {
    let (mut service, address) = Program::new(backend, "service").serve(4);
    let phase = AtomicUsize::new(0);
    let times = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let phase = &phase;
                scope.spawn(move || ask(number, address, phase))
            })
            .collect();
        let carried_out = (0..turns).try_for_each(|_| {
            PHASES.iter().enumerate().try_for_each(|(number, (_, change))| {
                phase.store(number, Ordering::Relaxed);
                carry_out(*change, &service)
            })
        });
        phase.store(OVER, Ordering::Relaxed);
        assert_eq!(carried_out, Ok(()), "{}", service.stderr());
        let clients = clients.into_iter().map(|client| client.join().unwrap_or_default());
        let mut times = [const { Vec::new() }; PHASES.len()];
        clients.flatten().for_each(|(phase, time)| times[phase].push(time));
        times
    });
    let stopped = service.stop();
    assert_eq!(stopped, 0, "{}", service.stderr());
    let mut steady = None;
    let mut lost = 0;
    for ((phase, change), times) in PHASES.iter().zip(times) {
        let count = change.map_or(0, |(_, times)| times * turns);
        let requests = times.len();
        let mut answered: Vec<Duration> = times.into_iter().flatten().collect();
        answered.sort_unstable();
        let failed = requests - answered.len();
        lost += failed;
        let (median, p99) = (answered[answered.len() / 2], answered[answered.len() * 99 / 100]);
        let ratio = p99.as_secs_f64() / steady.get_or_insert(p99).as_secs_f64();
        println!(
            "| {name} | {phase} | {count} | {requests} | {failed} | {median:.1?} | {p99:.2?} | {ratio:.2} |"
        );
    }
    lost
}

fn carry_out(change: Option<(&str, u32)>, service: &Running) -> Result<(), String> {
    let Some((word, times)) = change else {
        thread::sleep(STEADY);
        return Ok(());
    };
    (0..times).try_for_each(|_| match control(&service.control(), word).as_str() {
        "ok" => Ok(()),
        refused => Err(format!("{word}: {refused}")),
    })
}

/// Asks until the phases are over: in which phase each request was made, and its time if answered.
fn ask(number: usize, address: SocketAddr, phase: &AtomicUsize) -> Vec<(usize, Option<Duration>)> {
    let mut kept = None;
    let mut times = Vec::new();
    loop {
        let now = phase.load(Ordering::Relaxed);
        if now == OVER {
            return times;
        }
        let began = Instant::now();
        let answered = request(number, address, &mut kept);
        times.push((now, answered.is_ok().then(|| began.elapsed())));
        thread::sleep(PAUSE);
    }
}

fn request(number: usize, address: SocketAddr, kept: &mut Option<HttpClient>) -> io::Result<()> {
    if number.is_multiple_of(2) {
        return try_http_get(address).map(drop);
    }
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => HttpClient::connect(address)?,
    };
    connection.get()?;
    *kept = Some(connection).filter(|connection| !connection.is_over());
    Ok(())
}
