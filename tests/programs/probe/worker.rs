//! Workers that behave as told.

use std::future::pending;
use std::io::Write;
use std::os::unix::fs::{chown, chroot};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Uid, getppid, setgid, setgroups, setresuid, setuid};
use release::{ControlSocket, Exit, Me, Sandbox, Victims, attempt_all, driver, log, me};

use crate::master::{Order, leave_orphans};

type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(crate) fn run() -> Exit {
    let name = std::env::args().next().unwrap_or_default();
    if name.contains("worker versions ") {
        return crate::versions::worker();
    }
    if name.contains("worker inside ") {
        return me().sandbox(Sandbox::strict().read("/etc/shells")).run(driver, behave);
    }
    match name.contains("worker confused ") {
        true => me().run(driver, async |_: Me<String, String>| Ok::<(), Failure>(())),
        false => me().run(driver, behave),
    }
}

async fn behave(me: Me<String, Order>) -> Result<(), Failure> {
    log::stderr()?;
    let order = me.master().call(&Order).await?;
    let (worker, generation) = (me.id(), me.generation());
    tracing::info!(worker, configuration = me.context(), generation, "begins");
    let (word, argument) = order.trim().split_once(' ').unwrap_or_else(|| (order.trim(), ""));
    match word {
        "fail" => return Err("on purpose".into()),
        "fail-as" if argument == me.id().to_string() => return Err("on purpose".into()),
        "exit" => leave(argument),
        "silent" => me.stopping().await,
        "" | "serve" | "fail-as" => serve(&me).await?,
        "write" => write(&me).await?,
        "ready-exit" => {
            me.ready()?;
            leave(argument);
        }
        "ignore-stop" => {
            me.ready()?;
            pending::<()>().await;
        }
        "block" => {
            me.ready()?;
            tracing::info!("blocks");
            // More than any executor has threads: it does nothing else meanwhile.
            let block = || std::thread::sleep(Duration::from_secs(3600));
            for _ in 0..64 {
                me.rt().spawn(async move { block() }).detach();
            }
            block();
        }
        "starts-slowly" => {
            std::thread::sleep(Duration::from_secs(2));
            works(&me).await?;
        }
        "stuck" => {
            let _work = me.begin_work();
            serve(&me).await?;
        }
        "works" => works(&me).await?,
        "drops" => {
            let (stopping, clone) = (me.stopping(), me.clone());
            me.rt().spawn(async move { clone.ready() }).await?;
            drop(me);
            stopping.await;
            tracing::info!("has seen that it is to stop");
        }
        "orphans" => {
            leave_orphans(me.rt()).await;
            serve(&me).await?;
        }
        "regain" => {
            report_attempts();
            serve(&me).await?;
        }
        // As a hostile worker that a sandbox holds; the victims are named.
        "attacks" => {
            report_attacks(argument)?;
            serve(&me).await?;
        }
        "enters" => {
            std::fs::read("/etc/hostname")?;
            let entered = Sandbox::new().read("/etc/shells").apply();
            let outcome = entered.map_or_else(|error| error.report(), |()| "entered".to_owned());
            let read = std::fs::read("/etc/hostname").map(drop);
            tracing::info!("sandbox: {outcome}; {read:?}");
            serve(&me).await?;
        }
        "panic" => panic!("on purpose"),
        "panic-in-task" => {
            me.rt().spawn(async { panic!("in a task") }).detach();
            serve(&me).await?;
        }
        "burst" => {
            let lines = argument.parse().unwrap_or(0);
            (0..lines).try_for_each(|number| writeln!(std::io::stdout(), "line {number}"))?;
            serve(&me).await?;
        }
        "forge" => {
            writeln!(std::io::stdout(), "\x1b[2Jover")?;
            tracing::info!("first\nsecond\x1b[31m");
            serve(&me).await?;
        }
        "runs" => {
            let done = std::process::Command::new("/usr/bin/python3").arg(argument).status();
            tracing::info!(?done, "has run it");
            serve(&me).await?;
        }
        "control" => {
            let socket = ControlSocket::new(argument).bind()?;
            let rt = me.rt().clone();
            let echo = |_, text: String| async move { Ok(text.to_uppercase()) };
            let _serving = me.rt().spawn(async move { socket.serve(&rt, echo).await });
            serve(&me).await?;
        }
        other => return Err(format!("told to `{other}`").into()),
    }
    Ok(())
}

async fn serve(me: &Me<String, Order>) -> Result<(), Failure> {
    me.ready()?;
    me.stopping().await;
    Ok(())
}

/// Writes numbered lines to standard output and error all the time.
async fn write(me: &Me<String, Order>) -> Result<(), Failure> {
    me.ready()?;
    let (pid, mut stopping) = (std::process::id(), me.stopping());
    for number in 0.. {
        // In one call each, or lines of several workers would mix.
        let line = format!("line {pid} {number}\n");
        std::io::stdout().write_all(line.as_bytes())?;
        std::io::stderr().write_all(line.as_bytes())?;
        let pause = pin!(me.rt().sleep(Duration::from_millis(number % 2)));
        if let Either::Right(_) = select(pause, &mut stopping).await {
            break;
        }
    }
    Ok(())
}

/// Units of work, one short one after the other.
async fn works(me: &Me<String, Order>) -> Result<(), Failure> {
    me.ready()?;
    loop {
        let work = me.begin_work();
        let pause = pin!(me.rt().sleep(Duration::from_millis(5)));
        if let Either::Left(_) = select(me.stopping(), pause).await {
            return Ok(());
        }
        drop(work);
    }
}

#[allow(clippy::exit, reason = "a worker that leaves without a word")]
fn leave(status: &str) -> ! {
    std::process::exit(status.parse().unwrap_or(0))
}

/// Logs how each attempt ended: `attempt NAME: OUTCOME`.
fn report_attacks(victims: &str) -> Result<(), Failure> {
    let words: Vec<_> = victims.split(' ').collect();
    let [process, socket, port] = words[..] else { return Err("PID SOCKET PORT".into()) };
    let file = std::path::Path::new("/etc/hostname");
    let directory = std::path::Path::new("/tmp");
    let (process, port) = (process.parse()?, port.parse()?);
    for (name, outcome) in attempt_all(&Victims { process, socket, file, directory, port }) {
        tracing::info!("attempt {name}: {outcome}");
    }
    // What is allowed, and what the library itself needs.
    std::fs::read("/etc/shells")?;
    std::fs::write("/dev/null", "text")?;
    std::thread::spawn(|| ()).join().map_err(|_| "a thread")?;
    Ok(())
}

/// Logs how each way back to power ended: `attempt NAME: ERRNO`.
fn report_attempts() {
    let root = Uid::from_raw(0);
    let same = Uid::from_raw(u32::MAX);
    let master = getppid();
    let of = |done: std::io::Result<()>| {
        let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
        done.map_err(errno)
    };
    let open = |path: String| of(std::fs::File::open(path).map(drop));
    let write = |path: String| of(std::fs::OpenOptions::new().write(true).open(path).map(drop));
    let attempts = [
        ("setuid", setuid(root)),
        ("setresuid", setresuid(same, same, root)),
        ("setgid", setgid(Gid::from_raw(0))),
        ("setgroups", setgroups(&[Gid::from_raw(0)])),
        ("chroot", of(chroot("/"))),
        ("chown", of(chown("/proc/self/exe", Some(65534), None))),
        ("kill", kill(master, Signal::SIGKILL)),
        ("memory", open(format!("/proc/{master}/mem"))),
        ("environ", open(format!("/proc/{master}/environ"))),
        ("fd", open(format!("/proc/{master}/fd/0"))),
        ("binary", write("/proc/self/exe".to_owned())),
        ("shadow", open("/etc/shadow".to_owned())),
    ];
    for (name, result) in attempts {
        let result = result.map_or_else(|errno| format!("{errno:?}"), |()| "worked".to_owned());
        tracing::info!("attempt {name}: {result}");
    }
}
