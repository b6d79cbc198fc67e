//! Histories of the driver: the supervisor's loop, with real connections and pipes, over processes that
//! are simulated, in virtual time.
//!
//! A history is drawn from its seed, and the same seed gives the same history.
//! `RELEASE_SEED=17 cargo test -p release-core --lib driver -- --nocapture` prints one.

mod chance;
mod checks;
mod program;
mod runtime;
mod script;
mod system;

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};

use self::chance::Chance;
use self::checks::Checks;
use self::runtime::{BlockingTime, simulated};
use self::script::Script;
use self::system::{Calls, Kernel};
use crate::ipc::Refused;
use crate::master::config::MasterConfig;
use crate::master::group::Group;
use crate::master::pending::Hooks;
use crate::master::supervisor::{Supervisor, SupervisorParts};
use crate::master::upgrade::{Invocation, Upgrader};
use crate::master::workers::IntoGroup;
use crate::rt::local::Local;
use crate::rt::{Driver, Rt, run};
use crate::signals::Signals;
use crate::supervise::{Pool, ReloadPolicy, RestartPolicy};
use crate::sys::simulated::set_system;
use crate::sys::untrusted::unclosed;
use crate::{
    Error, ErrorKind, OutputFormat, OutputStream, Readiness, Settings, WorkerInfo, Workers,
};

const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Time limit for the end of a master after the request to stop: the stop deadline, and the limits for
/// the processes that workers leave behind.
const END_TIME: Duration = Duration::from_secs(40);

/// Runs one history. Returns its lines and its faults.
fn history(seed: u64, is_shown: bool) -> (Vec<String>, Vec<String>) {
    let before = open_files();
    let local = Local::with_virtual_time().unwrap();
    let blocking = BlockingTime::default();
    let rt = simulated(local.handle(), blocking.clone());
    let mut chance = Chance(seed);
    let kernel = Kernel::new(&rt, Chance(chance.next()), is_shown);
    set_system(Some(Arc::new(Calls(Arc::clone(&kernel)))));
    let checks = Checks::new(&kernel, blocking);
    {
        let setup = Setup { rt: &rt, checks: &checks, surge: 1 + chance.small(2) };
        let supervisor = setup.supervisor(&mut chance);
        run(&local, live(&local, supervisor, &checks, chance));
    }
    // Tasks that keep time for what has ended.
    run(&local, rt.sleep(Duration::from_secs(200)));
    checks.at_the_end();
    let left = local.census();
    if left != [0, 0, 0] {
        kernel.fault(format!("tasks, timers and descriptors are left: {left:?}"));
    }
    set_system(None);
    drop((local, rt, checks));
    let (lines, mut faults) = kernel.take_history();
    drop(kernel);
    let after = open_files();
    if after != before {
        faults.push(format!("open before: {before:?}, and after: {after:?}"));
    }
    (lines, faults)
}

/// Runs a master with its operators until it ends.
async fn live(local: &Local, supervisor: Supervisor, checks: &Arc<Checks>, mut chance: Chance) {
    let kernel = Arc::clone(&checks.kernel);
    let rt = kernel.rt.clone();
    let (master, sender) = (supervisor.master.clone(), supervisor.sender.clone());
    checks.watch(&master);
    let main = chance.one_in(3).then(|| script::main(&mut chance, checks));
    let all_ready = || Some(());
    let running = std::pin::pin!(supervisor.run(Vec::new(), main, all_ready));
    let script = Script { local, checks, master, sender, chance };
    let ended = match select(running, std::pin::pin!(script.play())).await {
        Either::Left((ended, _)) => Ok(ended),
        Either::Right(((), running)) => {
            checks.ends();
            rt.timeout(END_TIME, running).await
        }
    };
    match ended {
        Err(_) => kernel.fault(format!("the master did not end within {END_TIME:?}")),
        Ok(Err(error)) => kernel.fault(format!("the master failed: {}", error.report())),
        Ok(Ok(ended)) => checks.ended(&ended),
    }
}

/// Builds the master of a history.
struct Setup<'a> {
    rt: &'a Rt,
    checks: &'a Arc<Checks>,
    surge: u32,
}

impl Setup<'_> {
    fn supervisor(&self, chance: &mut Chance) -> Supervisor {
        let checks = Arc::clone(self.checks);
        // Each generation has the next number, unless the script has it otherwise.
        let making = Arc::downgrade(self.checks);
        let settings = Settings::new(1, move |now: &u32| {
            making.upgrade().map_or_else(|| Err(no_settings()), |checks| checks.make(*now))
        });
        self.checks.set_settings(&settings);
        let mut hooks = Hooks { reload_timeout: Duration::from_secs(3), ..Hooks::default() };
        hooks.add(&settings.shared());
        hooks.observe = Some(Box::new(move |report| checks.reported(report)));
        let restart = RestartPolicy::default().ready_timeout(Duration::from_secs(4));
        let restart = if chance.one_in(8) { restart } else { restart.start_attempts(u32::MAX) };
        let groups = vec![self.web(chance, &settings, restart.clone()), self.tool(chance, restart)];
        self.checks.set_surge(self.surge);
        let specs = groups.iter().map(Group::spec).collect();
        let signals = Signals::new(self.rt, &script::SIGNALS).unwrap();
        let config = MasterConfig {
            hooks,
            stop_deadline: STOP_DEADLINE,
            forward_signals: chance.one_in(8),
            ..MasterConfig::default()
        };
        let around = SupervisorParts {
            config,
            signals,
            upgrader: Upgrader {
                invocation: Invocation::here(None),
                is_background: true,
                lock: None,
                controls: Vec::new(),
                hand_over: None,
            },
        };
        let pool = Pool::new(specs, STOP_DEADLINE, chance.next());
        Supervisor::new(self.rt, groups, (pool, Vec::new()), around, None)
    }

    /// A group of workers in call mode.
    fn web(&self, chance: &mut Chance, settings: &Settings<u32>, restart: RestartPolicy) -> Group {
        let [contexts, sizes, answers] = [(); 3].map(|()| Arc::clone(self.checks));
        let size = 1 + chance.small(4);
        let web = Workers::same_executable("web", size).requests::<String>();
        self.checks.connections(web.connections());
        let web = if chance.one_in(4) {
            web.size_from(settings, move |value| {
                sizes.panics("size_from");
                size + value % 2
            })
        } else {
            web
        };
        let context = move |value: &u32, _| {
            contexts.panics("context");
            *value
        };
        let web = web
            .context_from(settings, context)
            .heartbeat(Duration::from_secs(4))
            .restart(restart)
            .reload(self.reload(chance));
        let checks = Arc::clone(self.checks);
        let sink = move |_: &WorkerInfo, _: OutputStream, _: &[u8]| checks.panics("output");
        let web = match chance.one_in(2) {
            true => web.output(sink),
            false => web.output_format(OutputFormat::Inherit),
        };
        let answer = move |_: WorkerInfo, text: String| {
            answers.panics("answer");
            let (rt, time) = (answers.kernel.rt.clone(), answers.answer_time());
            async move {
                rt.sleep(time).await;
                if time.is_zero() { Ok(text) } else { Err(Refused::new("slow")) }
            }
        };
        Box::new(web.answer(answer)).into_group(false).unwrap()
    }

    /// A group of commands.
    fn tool(&self, chance: &mut Chance, restart: RestartPolicy) -> Group {
        let tool = Workers::command("tool", chance.small(3), "/bin/true", [""; 0])
            .readiness(Readiness::Newline(None))
            .output(|_, _, _| ())
            .restart(restart)
            .reload(self.reload(chance));
        Box::new(tool).into_group(false).unwrap()
    }

    fn reload(&self, chance: &mut Chance) -> ReloadPolicy {
        ReloadPolicy::default()
            .surge(self.surge)
            .canary(chance.pick(&[Duration::ZERO, Duration::from_millis(250)]))
            .draining(1 + usize::from(chance.one_in(2)))
    }
}

/// Returns the number of open descriptors of each kind.
fn open_files() -> BTreeMap<String, usize> {
    // Sockets that a peer has filled are closed by a thread of their own.
    while unclosed() > 0 {
        std::thread::yield_now();
    }
    let mut open = BTreeMap::new();
    for file in std::fs::read_dir("/proc/self/fd").unwrap() {
        let target = std::fs::read_link(file.unwrap().path()).unwrap_or_default();
        let kind = target.to_string_lossy().split('[').next().unwrap().to_owned();
        *open.entry(kind).or_default() += 1;
    }
    open
}

fn no_settings() -> Error {
    Error::new(ErrorKind::Program, "there are none")
}

/// Returns the largest memory of this process so far, in KiB.
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    most.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Returns the number of histories: 1,000 if the pool plays 10,000.
fn histories() -> u64 {
    let cases = std::env::var("RELEASE_HISTORIES").ok();
    cases.map_or(100, |cases| cases.parse::<u64>().expect("RELEASE_HISTORIES is a number") / 10)
}

fn play(seeds: impl Iterator<Item = u64>, is_shown: bool) {
    // The first one allocates for all others.
    let _ = history(0, false);
    let mut bad = Vec::new();
    for seed in seeds {
        let played = catch_unwind(|| {
            let (lines, mut faults) = history(seed, is_shown);
            if seed.is_multiple_of(16) && history(seed, false).0 != lines {
                faults.push("it is not always the same".to_owned());
            }
            faults
        });
        let faults = played.unwrap_or_else(|_| {
            set_system(None);
            vec!["it panicked".to_owned()]
        });
        if !faults.is_empty() {
            println!("RELEASE_SEED={seed}: {faults:#?}");
            bad.push(seed);
        }
    }
    assert!(bad.is_empty(), "RELEASE_SEED: {bad:?}");
    let most = most_memory();
    assert!(most < 64 << 10, "floods have made the master grow to {most} KiB");
}

/// Variable with the histories of a child process. Descriptors and signals belong to whole processes, so
/// histories are not played beside other tests.
const SEEDS: &str = "RELEASE_DRIVER_SEEDS";

#[test]
fn driver_histories() {
    if let Ok(seed) = std::env::var("RELEASE_SEED") {
        return play(std::iter::once(seed.parse().expect("RELEASE_SEED is a number")), true);
    }
    if let Ok(seeds) = std::env::var(SEEDS) {
        let (first, last) = seeds.split_once('-').unwrap();
        return play(first.parse().unwrap()..last.parse().unwrap(), false);
    }
    let (count, parts) = (histories(), 2);
    let children = (0..parts).map(|part| {
        let name = format!("{}::driver_histories", module_path!().split_once("::").unwrap().1);
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture", "--test-threads=1"])
            .env(SEEDS, format!("{}-{}", count * part / parts, count * (part + 1) / parts))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    });
    for child in children.collect::<Vec<_>>() {
        let played = child.wait_with_output().unwrap();
        let [text, error] =
            [played.stdout, played.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(played.status.success() && text.contains("1 passed"), "{text}\n{error}");
    }
}
