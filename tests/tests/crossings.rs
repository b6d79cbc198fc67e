//! Two operators give orders at random while processes die, hang and stand still. Whatever was answered
//! "ok" must be true, no accepted request may be lost, and nothing may be left over.
//!
//! `RELEASE_CROSSINGS` sets the number of histories for each kind of service, `RELEASE_SEED` the first seed.

mod crossings {
    pub(crate) mod end;
    pub(crate) mod history;
    pub(crate) mod journal;
    pub(crate) mod logs;
    pub(crate) mod nature;
    pub(crate) mod operator;
    pub(crate) mod random;
    pub(crate) mod subject;
}

use crossings::history::History;
use crossings::subject::Subject;
use release_tests::Backend;

/// The number of histories when nothing else is asked for: one of each mood.
const HISTORIES: u64 = 3;

fn number(variable: &str, default: u64) -> u64 {
    let value = std::env::var(variable).ok();
    value.map_or(default, |text| text.parse().expect("a number"))
}

fn run(subject: Subject) {
    let first = number("RELEASE_SEED", 1);
    for seed in first..first + number("RELEASE_CROSSINGS", HISTORIES) {
        History::new(subject, seed).run();
    }
}

#[test]
fn every_ok_is_true_on_tokio() {
    run(Subject::Service(Backend::Tokio));
}

#[test]
fn every_ok_is_true_on_smol() {
    run(Subject::Service(Backend::Smol));
}

#[test]
fn every_ok_is_true_on_async_std() {
    run(Subject::Service(Backend::AsyncStd));
}

#[test]
fn every_ok_of_release_run_is_true() {
    run(Subject::Manager);
}
