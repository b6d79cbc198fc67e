//! What `release run` costs beside the program that it runs: the time from its start to the first
//! answer of its worker, and its private memory once nothing happens. In one run with what else is
//! installed that puts a program behind a listening socket.
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
        _ => table(if arguments.iter().any(|argument| argument == "--quick") { 3 } else { 21 }),
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
