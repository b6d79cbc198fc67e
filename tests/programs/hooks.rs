// A master whose functions do what the file `hooks` says: see `tests/hooks.rs`.

use std::error::Error as StdError;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use release::ipc::{CallError, Refused, Request};
use release::supervise::{ReloadPolicy, RestartPolicy};
use release::{
    ControlSocket, Decision, Exit, Master, MasterHandle, Me, Settings, WorkerInfo, WorkerOptions, Workers,
    driver, is_worker, log, me,
};
use serde::{Deserialize, Deserializer, Serialize};

/// What a worker asks all the time.
#[derive(Debug, Serialize, Deserialize)]
struct Ask {
    #[serde(deserialize_with = "decode")]
    number: u32,
}

impl Request for Ask {
    type Response = u32;
}

fn decode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    trap("decode");
    u32::deserialize(deserializer)
}

/// Panics if that is what this hook is to do.
fn trap(hook: &str) {
    assert!(is_worker() || !is_told(hook), "in {hook}");
}

fn is_told(hook: &str) -> bool {
    std::fs::read_to_string("hooks").is_ok_and(|told| told == hook)
}

/// What the file says; one that says so panics when it is dropped.
#[derive(Default)]
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        assert!(self.0 != "taken back", "in taken back");
    }
}

/// Panics when it is dropped, if that is what it is to do.
struct Trapped;

impl Drop for Trapped {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            trap("drop");
        }
    }
}

async fn answer(_: WorkerInfo, number: u32) -> Result<u32, Refused> {
    let _trapped = Trapped;
    trap("answer");
    if is_told("block") {
        std::thread::sleep(Duration::from_millis(1500));
    }
    Ok(number)
}

async fn control(master: MasterHandle, words: String) -> String {
    trap("control");
    let done = match words.as_str() {
        "reload" => master.reload().await,
        "upgrade" => master.upgrade().await,
        "spawn" => {
            master.rt().spawn(async { trap("spawn") }).detach();
            Ok(())
        }
        "unblock" => master.rt().unblock(|| trap("unblock")).await,
        _ => return master.status().iter().map(|worker| format!("{:?} ", worker.state.as_str())).collect(),
    };
    done.map_or_else(|error| error.report(), |()| "ok".to_owned())
}

fn workers() -> Workers {
    let settings = Settings::new(Told::default(), |_| {
        trap("settings");
        std::fs::read_to_string("hooks").map(Told)
    });
    let policy = RestartPolicy::default().backoff(Duration::from_millis(10), Duration::from_millis(50));
    Workers::same_executable("hooks", 1)
        .size_from(&settings, |_| {
            trap("size_from");
            1
        })
        .user("nobody")
        .restart(policy)
        .reload(ReloadPolicy::default().canary(Duration::from_millis(10)))
        .context_from(&settings, |told, _| {
            trap("context");
            told.0.clone()
        })
        .worker_options(|_| {
            trap("worker_options");
            WorkerOptions::default()
        })
        .output(|_, _, _| trap("output"))
        .answer_permitted(
            |_| {
                trap("state");
                if is_told("local task") {
                    release::rt::spawn_local(async {}).detach();
                }
            },
            |(), _: &Ask| {
                trap("rule");
                Decision::Allow
            },
            |worker, _, Ask { number }| {
                trap("answer at once");
                answer(worker, number)
            },
        )
}

fn master() -> Exit {
    if let Err(error) = log::stderr() {
        return error.into();
    }
    Master::new()
        .workers(workers())
        .observe(|_| trap("observe"))
        .hand_over(|| trap("hand_over"))
        .control(ControlSocket::new("control"), |master, _, words: String| {
            trap("control at once");
            async move { Ok(control(master, words).await) }
        })
        .main(|master| {
            trap("main at once");
            async move {
                while !is_told("main") {
                    master.rt().sleep(Duration::from_millis(20)).await;
                }
                panic!("in main");
                #[allow(unreachable_code)]
                Ok::<(), std::io::Error>(())
            }
        })
        .run(|| {
            trap("driver");
            driver()
        })
}

/// Asks and writes until it is told to stop.
async fn work(me: Me<String, Ask>) -> Result<(), Box<dyn StdError + Send + Sync>> {
    if me.context() == "taken back" {
        return Err("on purpose".into());
    }
    me.ready()?;
    let asking = async {
        loop {
            if let Err(error @ CallError::Ended(_)) = me.master().call(&Ask { number: 1 }).await {
                return Err(error);
            }
            println!("a line");
            me.rt().sleep(Duration::from_millis(20)).await;
        }
    };
    match select(pin!(asking), pin!(me.stopping())).await {
        Either::Left((ended, _)) => Ok(ended?),
        Either::Right(_) => Ok(()),
    }
}

fn main() -> Exit {
    if is_worker() { me().run(driver, work) } else { master() }
}
