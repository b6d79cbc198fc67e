//! What `release run` costs beside the program that it runs: the time from its start to the first
//! answer of its worker, and its private memory once nothing happens. In one run with what else is
//! installed that puts a program behind a listening socket. Then the rate at which it passes on what its
//! worker writes, beside the worker alone.
//!
//! ```sh
//! cargo bench --bench manager            # the table
//! cargo bench --bench manager -- --quick # fewer rounds
//! ```

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use release_core::net::activated_sockets;
use release_tests::{DEADLINE, Program, free_port};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// How long a program is left alone before its memory is read.
const IDLE: Duration = Duration::from_millis(500);

/// Where CI installs it.
const GUNICORN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python-tools/bin/gunicorn");

/// A way to have an address served: by this very program as the worker, or by a server's own.
type Start = fn(worker: &str, address: &str) -> Command;

/// The first is what the others are compared with.
const CANDIDATES: [(&str, Start); 4] = [
    ("the worker alone", |worker, address| command(worker, &["--serve", address])),
    ("release run", |worker, address| {
        let release = Program::release_path().display().to_string();
        let listen = format!("tcp://{address}");
        command(&release, &["run", "--listen", &listen, "--ready", "0", "--", worker, "--serve"])
    }),
    ("systemd-socket-activate", |worker, address| {
        command("systemd-socket-activate", &["--listen", address, worker, "--serve"])
    }),
    ("gunicorn, one worker", |_, address| {
        command(GUNICORN, &["--bind", address, "wsgiref.simple_server:demo_app"])
    }),
];

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--serve"] => serve(None),
        ["--serve", address] => serve(Some(address)),
        _ => {
            let is_quick = arguments.iter().any(|argument| argument == "--quick");
            table(if is_quick { 3 } else { 21 }).and_then(|()| output(if is_quick { 1 } else { 7 }))
        }
    };
    done.map_or_else(
        |error| {
            eprintln!("{error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// The worker: one byte for every connection.
fn serve(address: Option<&str>) -> Result<(), AnyError> {
    let listener = match address {
        Some(address) => TcpListener::bind(address)?,
        None => {
            let (_, socket) = activated_sockets()?.pop().ok_or("no socket was passed")?;
            TcpListener::from(socket)
        }
    };
    listener.set_nonblocking(false)?;
    loop {
        let (mut client, _) = listener.accept()?;
        let _ = client.read(&mut [0; 1024])?;
        client.write_all(b"x")?;
    }
}

/// Lets the candidates take turns, and prints the medians.
fn table(rounds: usize) -> Result<(), AnyError> {
    let worker = std::env::current_exe()?.display().to_string();
    let mut results = CANDIDATES.map(|_| Vec::new());
    for _ in 0..rounds {
        for ((name, start), results) in CANDIDATES.iter().zip(&mut results) {
            match measured(*start, &worker) {
                Ok(measured) => results.push(measured),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("{name}: {error}").into()),
            }
        }
    }
    println!("Median of {rounds} rounds\n");
    println!(
        "| | first answer | more than the worker alone | private memory of what was started |"
    );
    println!("|---|---:|---:|---:|");
    let mut alone = None;
    for ((name, _), mut results) in CANDIDATES.iter().zip(results) {
        if results.is_empty() {
            println!("| {name} | not installed | | |");
            continue;
        }
        results.sort_unstable();
        let (first, _) = results[results.len() / 2];
        let kib = results.iter().map(|(_, kib)| kib).min().copied().unwrap_or_default();
        let more = first.saturating_sub(*alone.get_or_insert(first));
        println!("| {name} | {first:.1?} | {more:.1?} | {kib} KiB |");
    }
    Ok(())
}

/// The time to the first answer, and the private memory of the process in KiB.
fn measured(start: Start, worker: &str) -> io::Result<(Duration, u64)> {
    let address = free_port();
    let began = Instant::now();
    let mut child = start(worker, &address.to_string()).spawn()?;
    let measured = loop {
        match ask(address) {
            Ok(()) => break Ok(began.elapsed()),
            Err(error) if began.elapsed() > DEADLINE => break Err(error),
            Err(_) => thread::sleep(Duration::from_micros(50)),
        }
    };
    thread::sleep(IDLE);
    let kib = private_kib(child.id());
    end(&mut child)?;
    Ok((measured?, kib?))
}

/// How much a worker writes, in lines like those of an access log.
const OUTPUT: usize = 200_000_000;

const LINE: &[u8] =
    b"192.0.2.17 - - [28/Nov/2026:20:00:00 +0000] \"GET /some/path HTTP/1.1\" 200 1234 \"-\" \"-\"\n";

/// How often in all the private memory is read while the reader is slow.
const LOOKS: usize = 100;

/// The rate of `cat` alone and of `release run` in each of its formats, in turns, and how much memory
/// the latter has meanwhile: with a reader that keeps up, and with one that is behind all the time.
fn output(rounds: usize) -> Result<(), AnyError> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&LINE.repeat(OUTPUT / LINE.len()))?;
    let release = Program::release_path().display().to_string();
    let path = file.path().display().to_string();
    let formats = ["", "prefixed", "raw", "json"];
    let mut results = formats.map(|_| Vec::new());
    for _ in 0..rounds {
        for (format, results) in formats.iter().zip(&mut results) {
            let options = ["run", "--ready", "0", "--respawn", "never", "--output", format, "--"];
            let mut command = match *format {
                "" => command("cat", &[&path]),
                _ => command(&release, &[&options[..], &["cat", &path]].concat()),
            };
            let (time, kib) = passed_on(&mut command, Duration::ZERO)?;
            let (_, behind) = passed_on(&mut command, Duration::from_micros(500))?;
            results.push((time, kib, behind));
        }
    }
    println!("\n{} MB of lines, median of {rounds} rounds\n", OUTPUT / 1_000_000);
    println!(
        "| | MB/s | beside `cat` alone | private memory meanwhile | with a slow reader |\n\
         |---|---:|---:|---:|---:|"
    );
    let mut alone = None;
    for (format, mut results) in formats.iter().zip(results) {
        results.sort_unstable();
        let time = results[results.len() / 2].0.as_secs_f64();
        let kib = results.iter().map(|(_, kib, _)| *kib).max().unwrap_or_default();
        let behind = results.iter().map(|(.., behind)| *behind).max().unwrap_or_default();
        let ratio = *alone.get_or_insert(time) / time;
        let rate = OUTPUT as f64 / 1e6 / time;
        println!("| `cat` {format} | {rate:.0} | {ratio:.2} | {kib} KiB | {behind} KiB |");
    }
    Ok(())
}

/// How long it takes until everything is read, with a pause after each half megabyte, and the most private
/// memory that was seen.
fn passed_on(command: &mut Command, pause: Duration) -> io::Result<(Duration, u64)> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut reader = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let (mut block, mut count, mut most) = (vec![0; 65_536], 0, 0);
    let mut began = None;
    loop {
        let read = reader.read(&mut block)?;
        began.get_or_insert_with(Instant::now);
        count += read;
        if read == 0 {
            break;
        }
        let passes = |every: usize| count / every != (count - read) / every;
        let looks = if pause.is_zero() { LOOKS / 10 } else { LOOKS };
        if passes(OUTPUT / looks) {
            most = most.max(private_kib(child.id()).unwrap_or_default());
        }
        if !pause.is_zero() && passes(500_000) {
            thread::sleep(pause);
        }
    }
    let time = began.map_or(Duration::ZERO, |began| began.elapsed());
    child.wait()?;
    if count < OUTPUT / LINE.len() * LINE.len() {
        return Err(io::Error::other(format!("{count} bytes arrived")));
    }
    Ok((time, most))
}

fn ask(address: std::net::SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    stream.read_exact(&mut [0])
}

fn end(child: &mut Child) -> io::Result<()> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    kill(Pid::from_raw(pid), Signal::SIGTERM)?;
    child.wait().map(drop)
}

fn private_kib(pid: u32) -> io::Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    let numbers = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(numbers.sum())
}
