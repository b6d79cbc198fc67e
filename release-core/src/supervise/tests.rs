//! The rules one by one, and thousands of random histories against a model of the world.

mod histories;
mod leaving;
mod limits;
mod model;
mod order;
mod reloads;
mod respawn;
mod restarts;
mod resting;
mod sizes;
mod stopping;
mod storms;
mod upgrades;
mod words;
mod world;

use std::time::Duration;

use proptest::prelude::ProptestConfig;

use super::{GroupSpec, ReloadPolicy, RestartPolicy, WorkerId};
use crate::sys::exit_status::ExitStatus;

const FIRST: WorkerId = WorkerId(0);
const SECOND: WorkerId = WorkerId(1);
const CRASH: ExitStatus = ExitStatus::Signal { number: 11, core: true };

/// A group whose workers say when they are ready, and are proven then.
fn group(size: u32, restart: RestartPolicy) -> GroupSpec {
    let reload = ReloadPolicy::default().canary(Duration::ZERO);
    GroupSpec { restart, reload, ..GroupSpec::new("web", size) }
}

/// How many histories are tried: `RELEASE_HISTORIES`, or a hundred.
fn config() -> ProptestConfig {
    let cases = std::env::var("RELEASE_HISTORIES").ok();
    let cases = cases.map_or(100, |cases| cases.parse().expect("RELEASE_HISTORIES is a number"));
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
