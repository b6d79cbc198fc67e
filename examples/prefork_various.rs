// Groups of different workers, as many as a file says, each with a context and options of its own.
//
// ```sh
// cargo run --example prefork_various -- examples/workers.conf
// ps ax -o pid,ni,args | grep '[w]orker '     # worker greeter id=0 --text=hello, ...
// ```
//
// Change the file and send SIGHUP: workers get new processes with what it says now, missing ones are
// started and surplus ones stopped. A file with an error, or a worker that does not get ready,
// changes nothing, and the log says why.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Parser;
use futures_channel::mpsc::{UnboundedReceiver, unbounded};
use futures_util::StreamExt;
use release::config::validation::{duration_in_range, int_in_range, utf8};
use release::config::{Live, Spec, key};
use release::ipc::Never;
use release::supervise::Report;
use release::{
    Error, Exit, Master, MasterHandle, Me, WorkerOptions, Workers, driver, is_worker, log, me,
};
use serde::{Deserialize, Serialize};

/// Workers of different kinds, as a file describes them; SIGHUP reads it again.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
The file, where everything may be left out:
  [greeter] workers = 2  nice = 10  text = \"hello\"
  [clock]   workers = 1  nice = 19  every = 2s"
)]
struct Options {
    /// The file with the desired workers
    file: PathBuf,
}

/// The file.
#[derive(Clone, Debug, Deserialize)]
struct Settings {
    greeter: Greeter,
    clock: Clock,
}

#[derive(Clone, Debug, Deserialize)]
struct Greeter {
    workers: u32,
    nice: Option<i32>,
    text: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Clock {
    workers: u32,
    nice: Option<i32>,
    every: Duration,
}

/// The context of a worker: what it is to do.
#[derive(Debug, Serialize, Deserialize)]
enum Job {
    Greet { text: String },
    Tick { every: Duration },
}

/// What the file says about one group.
struct Wanted {
    workers: u32,
    job: Job,
    options: WorkerOptions,
}

/// Where the file speaks of a group.
type Group = fn(&Settings) -> Wanted;

const GROUPS: [(&str, Group); 2] = [("greeter", Settings::greeter), ("clock", Settings::clock)];

impl Settings {
    fn greeter(&self) -> Wanted {
        let Greeter { workers, nice, text } = self.greeter.clone();
        let options = with_nice(nice).argument(format!("--text={text}"));
        Wanted { workers, job: Job::Greet { text }, options }
    }

    fn clock(&self) -> Wanted {
        let Clock { workers, nice, every } = self.clock;
        let options = with_nice(nice).variable("TZ", "UTC");
        Wanted { workers, job: Job::Tick { every }, options }
    }
}

fn with_nice(nice: Option<i32>) -> WorkerOptions {
    let options = WorkerOptions::default();
    if let Some(nice) = nice { options.nice(nice) } else { options }
}

fn spec() -> Spec {
    let workers = || key("workers").default(0).check(int_in_range(0..=64));
    let nice = || key("nice").optional().check(int_in_range(0..=19));
    let text = key("text").default("hello").check(utf8());
    let second = Duration::from_secs(1);
    let every = key("every").default(second).check(duration_in_range(second / 100..=3600 * second));
    Spec::new()
        .section("greeter", [workers(), nice(), text])
        .section("clock", [workers(), nice(), every])
        .fits::<Settings>()
}

/// The workers that there are to be.
struct Desired {
    file: Live,
    /// Now, and before the last reload, which may fail.
    settings: Mutex<[Settings; 2]>,
}

impl Desired {
    fn load(path: PathBuf) -> Result<Self, Error> {
        let file = Live::load(path, spec())?;
        let now: Settings = file.current().deserialize()?;
        Ok(Self { file, settings: Mutex::new([now.clone(), now]) })
    }

    fn of(&self, group: Group) -> Wanted {
        group(&self.settings()[0])
    }

    fn read(&self) -> Result<(), Error> {
        self.file.reload()?;
        let new = self.file.current().deserialize()?;
        let mut settings = self.settings();
        settings.swap(0, 1);
        settings[0] = new;
        Ok(())
    }

    fn restore(&self) {
        self.settings().swap(0, 1);
    }

    fn settings(&self) -> MutexGuard<'_, [Settings; 2]> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn main() -> Exit {
    if is_worker() {
        return me().run(driver, worker);
    }
    log::stderr()
        .and_then(|()| Desired::load(Options::parse().file))
        .map_or_else(Exit::failure, |desired| master(&Arc::new(desired)))
}

fn master(desired: &Arc<Desired>) -> Exit {
    let [read, restore, resized] = [(); 3].map(|()| Arc::clone(desired));
    let (serves, reloaded) = unbounded();
    let mut master = Master::new()
        .on_reload(move || std::future::ready(read.read()))
        .on_rollback(move || restore.restore())
        .observe(move |report| {
            if let Report::Reloaded { .. } = report {
                // Fails when the master ends.
                let _ = serves.unbounded_send(());
            }
        })
        .main(|master| resize(master, resized, reloaded));
    for (name, group) in GROUPS {
        let [told, options] = [(); 2].map(|()| Arc::clone(desired));
        let workers = Workers::same_executable(name, desired.of(group).workers)
            .user("nobody") // when the master is root
            .context(move |_| told.of(group).job)
            .each(move |id| options.of(group).options.variable("WORKER", id.to_string()))
            .answer(|_, never: Never| async move { match never {} });
        master = master.workers(workers);
    }
    master.run(driver)
}

/// Gives each group its new size, where the file has changed it, when the new generation serves.
async fn resize(
    master: MasterHandle,
    desired: Arc<Desired>,
    mut reloaded: UnboundedReceiver<()>,
) -> Result<(), Error> {
    while let Some(()) = reloaded.next().await {
        for (name, group) in GROUPS {
            if let Err(error) = master.configure_size(name, desired.of(group).workers).await {
                tracing::error!(group = name, reason = error.report(), "its size stays");
            }
        }
    }
    Ok(())
}

async fn worker(me: Me<Job>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // Each line is written as a whole, whoever else writes to the same place.
    log::stderr()?;
    let id = me.id();
    me.ready()?;
    match me.context() {
        Job::Greet { text } => {
            tracing::info!("worker {id} says {text}");
            me.stopping().await;
        }
        Job::Tick { every } => {
            while me.rt().timeout(*every, me.stopping()).await.is_err() {
                tracing::info!("worker {id} ticks");
            }
        }
    }
    Ok(())
}
