//! Other crates in the cells of the benchmark `calls`, which builds and starts this program.
//!
//! Each is used as its documentation shows, on one thread. The messages are the same as those of the
//! library, which `cells.rs` measures, too.

use std::future::Future;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use futures::future::join_all;
use serde_bytes::ByteBuf;

use cells::{AnyError, Blob, Cell, Clients, Latency, Meter, SMALL, Task, Times};

#[allow(dead_code, reason = "the rest is for the benchmark itself")]
#[path = "../../benches/calls/cells.rs"]
mod cells;
mod over_interprocess;
mod over_ipc_channel;
mod over_remoc;
mod over_tarpc;
mod over_unix_ipc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--ask", candidate, cell, calls] => {
            Task::new(candidate, cell, calls).and_then(|task| ask(&task))
        }
        ["--measure", candidate, cell, calls] => {
            Task::new(candidate, cell, calls).and_then(|task| measure(&task))
        }
        _ => Err("this program is started by `cargo bench --bench calls`".into()),
    };
    done.map_or_else(
        |error| {
            eprintln!("{error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// What answers the clients of one connection.
struct Server {
    meter: Arc<Meter>,
    blob: Blob,
    requests: AtomicU32,
    batch: u32,
}

impl Server {
    fn new(task: &Task, meter: Arc<Meter>) -> Arc<Self> {
        let (blob, requests) = (Blob::new(task.cell.answer()), AtomicU32::new(0));
        Arc::new(Self { meter, blob, requests, batch: task.batch() })
    }

    /// A request has come.
    async fn count(&self) {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(self.batch) {
            self.meter.before(number / self.batch).await;
        }
        if (number + 1).is_multiple_of(self.batch) {
            self.meter.after(number / self.batch).await;
        }
    }
}

fn measure(task: &Task) -> Result<(), AnyError> {
    let meter =
        Meter::new(task, if task.cell == Cell::Broadcast { 1 } else { task.cell.clients() });
    let clients = Clients::start(task, &meter)?;
    let sockets =
        clients.sockets.iter().map(UnixStream::try_clone).collect::<Result<Vec<_>, _>>()?;
    match task.candidate.as_str() {
        "ipc-channel" => over_ipc_channel::serve(&sockets[0], &Server::new(task, meter.clone()))?,
        _ => on_tokio(serve(task, sockets, &meter))?,
    }
    meter.print(clients.end()?)
}

async fn serve(task: &Task, sockets: Vec<UnixStream>, meter: &Arc<Meter>) -> Result<(), AnyError> {
    if task.cell == Cell::Broadcast {
        return over_unix_ipc::broadcast(sockets, task, meter).await;
    }
    let served = sockets.into_iter().map(async |socket| {
        socket.set_nonblocking(true)?;
        let server = Server::new(task, meter.clone());
        match task.candidate.as_str() {
            "tarpc" => over_tarpc::serve(socket, server).await,
            "remoc" => over_remoc::serve(socket, server).await,
            "tokio-unix-ipc" => over_unix_ipc::serve(socket, task, server).await,
            "interprocess" => over_interprocess::serve(socket, task, server).await,
            other => Err(format!("no candidate `{other}`").into()),
        }
    });
    join_all(served).await.into_iter().collect()
}

fn ask(task: &Task) -> Result<(), AnyError> {
    let socket = cells::own_socket()?;
    let times = match task.candidate.as_str() {
        "ipc-channel" => over_ipc_channel::ask(socket, task)?,
        _ => on_tokio(async {
            socket.set_nonblocking(true)?;
            match task.candidate.as_str() {
                "tarpc" => over_tarpc::ask(socket, task).await,
                "remoc" => over_remoc::ask(socket, task).await,
                "tokio-unix-ipc" => over_unix_ipc::ask(socket, task).await,
                "interprocess" => over_interprocess::ask(socket, task).await,
                other => Err(format!("no candidate `{other}`").into()),
            }
        })?,
    };
    let latency: Latency = times.latency(task);
    println!("{}", serde_json::to_string(&latency)?);
    Ok(())
}

fn on_tokio<T>(main: impl Future<Output = Result<T, AnyError>>) -> Result<T, AnyError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, main)
}

fn request() -> ByteBuf {
    vec![b'x'; SMALL].into()
}

/// Has so many tasks as there are calls in flight make one call after the other.
async fn in_turn<F, A>(task: &Task, call: F) -> Result<Times, AnyError>
where
    F: Fn() -> A + Clone + 'static,
    A: Future<Output = Result<Blob, AnyError>>,
{
    let callers = (0..task.cell.in_flight()).map(|_| {
        let (call, task) = (call.clone(), task.clone());
        tokio::task::spawn_local(async move {
            let mut times = Times::default();
            for _ in 0..task.batches() {
                let began = Instant::now();
                let blob = call().await?;
                times.add(began);
                assert_eq!(blob.len(), task.cell.answer());
            }
            Ok::<_, AnyError>(times)
        })
    });
    let mut times = Times::default();
    for caller in callers.collect::<Vec<_>>() {
        times = caller.await??;
    }
    Ok(times)
}
