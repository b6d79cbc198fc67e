//! What is measured, and which program does it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cells::{AnyError, Cell, Latency, Task};
use crate::{by_hand, floor, library, multiplexer};

/// The first is what the others are compared with.
const BY_HAND: [&str; 3] = ["blocking", "tokio by hand", "smol by hand"];

const MULTIPLEXER: &str = "a multiplexer by hand";

const LIBRARY: [&str; 4] = ["Local", "tokio", "smol", "async-std"];

const LIBRARY_RINGS: [&str; 4] = ["Local, ring", "tokio, ring", "smol, ring", "async-std, ring"];

/// In the program of `tests/peers`.
const PEERS: [&str; 5] = ["tarpc", "tokio-unix-ipc", "remoc", "ipc-channel", "interprocess"];

pub(crate) const ON_ALL_PROCESSORS: [&str; 9] = [
    "blocking",
    "tokio by hand",
    "tokio",
    "tokio, spinning",
    "tokio, ring",
    "tokio, ring, spinning",
    "smol",
    "smol, spinning",
    "smol, ring, spinning",
];

/// The same with and without `spin`.
pub(crate) const SPINNING_OR_NOT: [&str; 2] = ["tokio", "tokio, spinning"];

/// The candidates of a cell, without the peers.
pub(crate) fn of(cell: Cell) -> Vec<&'static str> {
    let by_hand = match cell {
        // Serde is what counts, and the kernel.
        Cell::List | Cell::Descriptor => &BY_HAND[..1],
        _ => &BY_HAND,
    };
    let multiplexer = match cell {
        Cell::Sequential | Cell::InFlight => &[MULTIPLEXER][..],
        _ => &[],
    };
    let rings = match cell {
        Cell::List | Cell::Descriptor => &[][..],
        _ => &LIBRARY_RINGS,
    };
    [by_hand, multiplexer, &LIBRARY, rings].concat()
}

/// The peers of a cell: those that can do it.
pub(crate) fn peers(cell: Cell) -> &'static [&'static str] {
    match cell {
        Cell::Sequential | Cell::Large => &PEERS,
        Cell::InFlight | Cell::FanIn => &PEERS[..3],
        Cell::List => &[],
        Cell::Broadcast => &PEERS[1..2],
        Cell::Descriptor => &["tokio-unix-ipc", "ipc-channel"],
    }
}

pub(crate) fn is_of_library(candidate: &str) -> bool {
    LIBRARY.iter().any(|runtime| candidate.split(", ").next() == Some(runtime))
}

pub(crate) fn measure(task: Task) -> Result<(), AnyError> {
    match task.candidate.as_str() {
        "blocking" => floor::measure(&task),
        "tokio by hand" | "smol by hand" => by_hand::measure(&task),
        MULTIPLEXER => multiplexer::measure(&task),
        _ => library::measure(task),
    }
}

/// The part of a client: prints its latency.
pub(crate) fn ask(task: &Task) -> Result<(), AnyError> {
    let latency: Latency = match task.candidate.as_str() {
        "blocking" => floor::ask(task),
        MULTIPLEXER => multiplexer::ask(task),
        _ => by_hand::ask(task),
    }?;
    println!("{}", serde_json::to_string(&latency)?);
    Ok(())
}

/// Builds the program of the peers.
pub(crate) fn build_peers() -> Result<PathBuf, AnyError> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = root.join("target/peers");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--locked", "--release", "--quiet", "--manifest-path"])
        .arg(root.join("tests/peers/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()?;
    if !status.success() {
        return Err("the peers do not build: `--quick` goes without them".into());
    }
    Ok(target.join("release/release-peers"))
}
