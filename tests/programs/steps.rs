// Hands connections on, and dies at the step that a file names: see `tests/live_steps.rs`.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures_util::future::{Either, join, select};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use release::net::{Active, Inet, Passive, Socket, Stream};
use release::{ControlSocket, Exit, Master, Me, Workers, driver, is_worker, log, me};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Exit {
    if let Err(error) = log::stderr() {
        return error.into();
    }
    if is_worker() { me().run(driver, work) } else { master() }
}

fn master() -> Exit {
    let address: Inet = match std::env::args().nth(1).unwrap_or_default().parse() {
        Ok(address) => address,
        Err(error) => return Exit::failure(error),
    };
    let directory = std::env::current_dir().unwrap_or_default();
    let workers = Workers::same_executable("steps", 1)
        .user("nobody")
        .listen("steps", address)
        .context(move |_| directory.clone())
        .hand_on(16, 1024);
    Master::new().workers(workers).commands(ControlSocket::new("control"), "steps").run(driver)
}

/// Counts how often a future is polled, and ends a process when the file says so.
struct Steps<'a, F> {
    future: Pin<Box<F>>,
    who: &'static str,
    count: u32,
    directory: &'a Path,
}

impl<'a, F> Steps<'a, F> {
    fn new(who: &'static str, directory: &'a Path, future: F) -> Self {
        Self { future: Box::pin(future), who, count: 0, directory }
    }
}

impl<F: Future> Future for Steps<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let polled = self.future.as_mut().poll(cx);
        self.count += 1;
        let plan = self.directory.join("plans/plan");
        // A worker may not kill its master: the test does, while it stands still.
        for (whose, signal) in [("own", Signal::SIGKILL), ("master", Signal::SIGSTOP)] {
            let now = format!("{} {} {whose}", self.who, self.count);
            if std::fs::read_to_string(&plan).is_ok_and(|plan| plan == now)
                && std::fs::remove_file(&plan).is_ok()
            {
                let _ = kill(Pid::this(), signal);
            }
        }
        polled
    }
}

async fn work(me: Me<PathBuf>) -> Result<(), BoxError> {
    let listener: Socket<Passive, Inet> = me.listener("steps")?;
    me.ready()?;
    let its = me.clone();
    let accepting = listener.accept_loop().until(me.stopping()).run(move |client| {
        let me = its.clone();
        async move { serve(me, Socket::<Active, Inet>::into_stream(client), 0).await }
    });
    let taking = async {
        let directory = me.context().clone();
        while let Some((client, lines)) =
            Steps::new("taker", &directory, me.handed_on::<u64>()).await?
        {
            me.rt().spawn(serve(me.clone(), client, lines)).detach();
        }
        Ok::<(), BoxError>(())
    };
    let (served, taken) = join(accepting, taking).await;
    served?;
    taken
}

/// Numbers the lines of a client, each of one byte.
async fn serve(me: Me<PathBuf>, client: Stream, mut lines: u64) -> Result<(), BoxError> {
    let mut byte = [0];
    loop {
        let read = match select(pin!(client.read_once(&mut byte)), me.stopping()).await {
            Either::Left((count, _)) => count?,
            Either::Right(_) => break,
        };
        if read == 0 {
            return Ok(());
        }
        lines += 1;
        client.write_all(format!("{lines}\n").as_bytes()).await?;
    }
    let directory = me.context().clone();
    match Steps::new("giver", &directory, me.hand_on(client, &lines)).await {
        Ok(()) => Ok(()),
        Err(refused) => {
            let Some(client) = refused.connection else { return Ok(()) };
            while client.read_once(&mut byte).await? > 0 {
                lines += 1;
                client.write_all(format!("{lines}\n").as_bytes()).await?;
            }
            Ok(())
        }
    }
}
