// A daemon that does on purpose what daemons must not do, for tests that look at it from outside.

mod children;
mod client;
mod daemon;
mod master;
mod options;
mod stranger;
mod versions;
mod worker;

use clap::Parser;
use release::{Exit, is_worker};

#[derive(Parser)]
#[allow(clippy::large_enum_variant)]
enum Options {
    /// A master whose workers behave as told
    Master(Box<master::Options>),
    /// A worker of whoever is at its standard input, in plain mode
    Stranger(stranger::Options),
    /// A daemon without workers
    Daemon(daemon::Options),
    /// A master whose messages are those of its version
    Versions(versions::Options),
    /// A client of a control socket; exit status 0 says that it was answered
    Client { path: std::path::PathBuf },
}

fn main() -> Exit {
    if is_worker() {
        return worker::run();
    }
    match Options::parse() {
        Options::Master(options) => master::run(*options),
        Options::Stranger(options) => stranger::run(options),
        Options::Daemon(options) => daemon::run(options),
        Options::Versions(options) => versions::run(options),
        Options::Client { path } => client::run(&path),
    }
}
