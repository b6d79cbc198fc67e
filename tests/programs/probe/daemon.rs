//! `Daemon::run`: the source's `daemon f`.

use std::path::PathBuf;

use clap::Args;
use release::{Daemon, Detached, Error, ErrorKind, Exit, driver};

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long, default_value = "022")]
    umask: String,
    #[arg(long, default_value = "/")]
    directory: PathBuf,
    #[arg(long)]
    output: Option<PathBuf>,
    #[arg(long)]
    error: Option<PathBuf>,
    /// Tells the launcher that the start failed, or `silent`: nothing
    #[arg(long, default_value = "")]
    word: String,
    /// Starts a thread too early
    #[arg(long)]
    thread: bool,
}

pub(crate) fn run(options: Options) -> Exit {
    if options.thread {
        std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(60)));
    }
    let mask = u32::from_str_radix(&options.umask, 8).unwrap_or(0o022);
    let mut daemon = Daemon::new().umask(mask).directory(options.directory);
    if let Some(path) = options.output {
        daemon = daemon.output(path);
    }
    if let Some(path) = options.error {
        daemon = daemon.error(path);
    }
    daemon.run(driver, |_, detached| work(detached, options.word))
}

async fn work(detached: Detached, word: String) -> Result<(), Error> {
    // The file is closed at once: what is wanted is its mode.
    let made = std::fs::File::create("made");
    println!("daemon {} made {}", std::process::id(), made.is_ok());
    eprintln!("an error");
    match word.as_str() {
        "fail" => detached.fail(&Error::new(ErrorKind::Program, "on purpose")),
        "silent" => drop(detached),
        _ => detached.ready(),
    }
    Ok(())
}
