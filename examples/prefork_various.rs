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
use std::time::Duration;

use clap::Parser;
use release::config::validation::{duration_in_range, int_in_range, utf8};
use release::config::{Live, Spec, key};
use release::{Error, Exit, Master, Me, WorkerOptions, Workers, driver, is_worker, log, me};
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
#[derive(Debug, Deserialize)]
struct Wanted {
    greeter: Greeter,
    clock: Clock,
}

#[derive(Debug, Deserialize)]
struct Greeter {
    workers: u32,
    nice: Option<i32>,
    text: String,
}

#[derive(Debug, Deserialize)]
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

fn spec() -> Spec {
    let workers = || key("workers").default(0).check(int_in_range(0..=64));
    let nice = || key("nice").optional().check(int_in_range(0..=19));
    let text = key("text").default("hello").check(utf8());
    let second = Duration::from_secs(1);
    let every = key("every").default(second).check(duration_in_range(second / 100..=3600 * second));
    Spec::new()
        .section("greeter", [workers(), nice(), text])
        .section("clock", [workers(), nice(), every])
        .fits::<Wanted>()
}

type Settings = release::Settings<Wanted>;

fn load(path: PathBuf) -> Result<Settings, Error> {
    let file = Live::load(path, spec())?;
    let first = file.current().deserialize()?;
    Ok(Settings::new(first, move |_| -> Result<Wanted, Error> {
        file.reload()?;
        Ok(file.current().deserialize()?)
    }))
}

fn main() -> Exit {
    if is_worker() {
        return me().run(driver, worker);
    }
    log::stderr()
        .and_then(|()| load(Options::parse().file))
        .map_or_else(Exit::failure, |settings| master(&settings))
}

fn master(settings: &Settings) -> Exit {
    let greeters = Workers::same_executable("greeter", 0)
        .size_from(settings, |now| now.greeter.workers)
        .context_from(settings, |now, _| Job::Greet { text: now.greeter.text.clone() })
        .worker_options_from(settings, |Wanted { greeter, .. }, id| {
            options(greeter.nice, id).argument(format!("--text={}", greeter.text))
        });
    let clocks = Workers::same_executable("clock", 0)
        .size_from(settings, |now| now.clock.workers)
        .context_from(settings, |now, _| Job::Tick { every: now.clock.every })
        .worker_options_from(settings, |now, id| options(now.clock.nice, id).variable("TZ", "UTC"));
    let groups = [greeters, clocks].into_iter().fold(Master::new(), |master, workers| {
        master.workers(workers.user("nobody")) // when the master is root
    });
    groups.run(driver)
}

fn options(nice: Option<i32>, id: u32) -> WorkerOptions {
    let options = WorkerOptions::default().variable("WORKER", id.to_string());
    if let Some(nice) = nice { options.nice(nice) } else { options }
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
