// A master whose pool of jobs is used over its control socket: see `tests/jobs.rs`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use clap::Parser;
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use release::ipc::{CallError, Peer, Refused, Request};
use release::jobs::{JobError, JobNumber, Jobs, Submission};
use release::rt::Rt;
use release::supervise::ReloadPolicy;
use release::{ControlSocket, Exit, Master, MasterHandle, Me, Workers, driver, handed_over, is_worker, log, me};
use serde::{Deserialize, Serialize};

#[derive(Parser)]
struct Options {
    #[arg(long, default_value_t = 1)]
    workers: u32,
    #[arg(long, default_value_t = 1)]
    per_worker: usize,
    #[arg(long, default_value_t = 1024)]
    queue: usize,
}

/// A job: an instruction in words, see `work`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Work {
    number: JobNumber,
    words: String,
}

impl Request for Work {
    type Response = String;
}

/// The progress of a job.
#[derive(Debug, Serialize, Deserialize)]
struct Step {
    number: JobNumber,
    step: u32,
}

impl Request for Step {
    type Response = bool;
}

type Pool = Jobs<Work, u32>;

fn main() -> Exit {
    if is_worker() { me().run_answering(driver, work, worker) } else { master(&Options::parse()) }
}

/// The runtime of a worker and its master, for its jobs.
static ME: OnceLock<(Rt, Peer<Step>)> = OnceLock::new();

/// Lets the main function end, and is told that it does.
static LAST: Mutex<Option<oneshot::Sender<oneshot::Sender<()>>>> = Mutex::new(None);

async fn worker(me: Me<(), Step>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    ME.set((me.rt().clone(), me.master())).map_err(|_| "set twice")?;
    let (last, ends) = oneshot::channel();
    *LAST.lock().map_err(|_| "a panic")? = Some(last);
    me.ready()?;
    if let Either::Right((Ok(tell), _)) = select(me.stopping(), ends).await {
        let _ = tell.send(());
    }
    Ok(())
}

fn write(path: &str, line: &str) -> Result<(), Refused> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(file.write_all(format!("{line}\n").as_bytes())?)
}

/// Makes a file when it is dropped.
struct Mark(String);

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, "");
    }
}

async fn work(Work { number, words }: Work) -> Result<String, Refused> {
    let (rt, master) = ME.get().ok_or_else(|| Refused::new("not ready"))?;
    let words: Vec<_> = words.split_whitespace().collect();
    let pause = || rt.sleep(Duration::from_millis(2));
    let wait = async |file: &str| {
        while !Path::new(file).exists() {
            pause().await;
        }
    };
    write("begun", &format!("{} {}", std::process::id(), words.join(" ")))?;
    match words[..] {
        ["echo", word] => return Ok(word.to_owned()),
        ["wait", file] => wait(file).await,
        // Both ends of the job, with time for another one in between.
        ["step", file, word] => {
            write(file, &format!("begin {word}"))?;
            pause().await;
            write(file, &format!("end {word}"))?;
        }
        ["last", word] => {
            let last = LAST.lock().map_err(|_| Refused::new("a panic"))?.take();
            let (tell, told) = oneshot::channel();
            let _ = last.ok_or_else(|| Refused::new("not ready"))?.send(tell);
            told.await.map_err(|_| Refused::new("main has ended"))?;
            return Ok(word.to_owned());
        }
        ["refuse"] => return Err(Refused::new("on purpose")),
        ["die-once", file] | ["hang-once", file] if !Path::new(file).exists() => {
            write(file, "")?;
            if words[0] == "die-once" {
                std::process::exit(7);
            }
            loop {
                std::thread::sleep(Duration::from_secs(60));
            }
        }
        ["mark", file] => {
            let _mark = Mark(file.to_owned());
            std::future::pending::<()>().await;
        }
        ["progress", file] => {
            for step in 1..=3 {
                master.notify(Step { number, step })?;
                while !Path::new(&format!("{file}{step}")).exists() {
                    pause().await;
                }
            }
        }
        // The master begins no request while a new version takes over.
        ["until-paused"] => {
            let (step, patience) = (Step { number, step: 0 }, Duration::from_secs(1));
            while !matches!(master.call_within(patience, &step).await, Err(CallError::TimedOut)) {
                pause().await;
            }
        }
        _ => {}
    }
    Ok(std::process::id().to_string())
}

fn master(options: &Options) -> Exit {
    if let Err(error) = log::stderr() {
        return error.into();
    }
    let left: Vec<Work> = match handed_over() {
        Ok(left) => left.unwrap_or_default(),
        Err(error) => return error.into(),
    };
    let jobs = Pool::with_progress().per_worker(options.per_worker).queue(options.queue);
    let (reported, waiting, controlled) = (jobs.clone(), jobs.clone(), jobs.clone());
    let workers = Workers::same_executable("pool", options.workers)
        .user("nobody")
        .directory("work")
        .reload(ReloadPolicy::default().canary(Duration::from_millis(10)))
        .requests()
        .jobs(&jobs)
        .answer(move |worker, Step { number, step }| {
            let is_its = reported.report(&worker, number, step);
            async move { Ok(is_its) }
        });
    Master::new()
        .workers(workers)
        .hand_over(move || waiting.waiting())
        .control(ControlSocket::new("control"), move |master, _, words: String| {
            let jobs = controlled.clone();
            async move { Ok(control(&master, &jobs, &words).await) }
        })
        .main(move |master| async move {
            tracing::info!("jobs of the version before: {}", left.len());
            for Work { words, .. } in left {
                // The values are handed over without their keys.
                let job = jobs.submit_with(|number| Work { number, words: words.clone() });
                note(&master, job.key("left"), words);
            }
            master.stopping().await;
            Ok::<(), std::io::Error>(())
        })
        .run(driver)
}

fn said(outcome: Result<String, JobError>) -> String {
    outcome.unwrap_or_else(|error| error.to_string())
}

/// Submits a job in a task of its own, which writes the outcome to a file.
fn note(master: &MasterHandle, job: Submission<Work, u32>, words: String) {
    let job = job.start();
    let noted = async move { drop(write("work/outcomes", &format!("{words}: {}", said(job.await)))) };
    master.rt().spawn(noted).detach();
}

/// `VERB OPTIONS.. -- WORDS`: what is done with a job.
async fn control(master: &MasterHandle, jobs: &Pool, request: &str) -> String {
    let (verb, words) = request.split_once(" -- ").unwrap_or((request, ""));
    let mut options = verb.split_whitespace();
    let verb = options.next().unwrap_or_default();
    let work = |number| Work { number, words: words.to_owned() };
    let mut job = match verb {
        "try" => jobs.try_submit_with(work),
        _ => jobs.submit_with(work),
    };
    let mut file = "";
    for option in options {
        job = match option.split_once('=') {
            Some(("timeout", time)) => job.timeout(Duration::from_millis(time.parse().unwrap_or(0))),
            Some(("attempts", attempts)) => job.attempts(attempts.parse().unwrap_or(0)),
            Some(("key", key)) => job.key(key),
            Some(("file", name)) => {
                file = name;
                job
            }
            _ => return format!("what is {option}?"),
        };
    }
    let done = match verb {
        "run" | "try" => return said(job.await),
        "note" => {
            note(master, job, words.to_owned());
            Ok(())
        }
        "accept" => {
            let mut job = job.start();
            let accepted = job.accepted().await;
            return accepted.map_or_else(|error| error.to_string(), |()| "accepted".to_owned());
        }
        // Gives the job up when there is this file.
        "drop" => {
            let job = job.start();
            while !Path::new(&format!("work/{file}")).exists() {
                master.rt().sleep(Duration::from_millis(2)).await;
            }
            drop(job);
            Ok(())
        }
        "watch" => {
            let (mut job, mut seen) = (job.start(), String::new());
            while let Some(step) = job.progress().await {
                seen += &format!("{step} ");
                let _ = fs::write(format!("work/{file}{step}"), "");
            }
            return seen + &said(job.await);
        }
        "waiting" => {
            let waiting: Vec<_> = jobs.waiting().into_iter().map(|work| work.words).collect();
            return waiting.join(", ");
        }
        "status" => {
            let states = master.status().into_iter();
            return states.map(|worker| format!("{:?} ", worker.state.as_str())).collect();
        }
        "reload" => master.reload().await,
        "upgrade" => master.upgrade().await,
        _ => return format!("what is {verb}?"),
    };
    done.map_or_else(|error| error.report(), |()| "ok".to_owned())
}
