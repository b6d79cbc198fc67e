//! The modules of the core stand on floors, and each imports only what is below it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// From the ground up. Modules of one line do not import each other.
const FLOORS: &[&[&str]] = &[
    &["sys", "guard", "log_throttle", "stopping", "unlogged", "worker_types"],
    &["error"],
    &["path", "predecessor", "systemd", "rt"],
    &["signals", "start_files", "streams"],
    &["accounts", "exit", "log", "trusted"],
    &["config", "net"],
    &["buffer", "ipc"],
    &["bytes", "process"],
    &["daemonize", "jobs"],
    &["worker"],
    &["http"],
    // The pool knows nothing of processes, and of the rooms only the master knows it.
    &["supervise"],
    &["master"],
];

/// All that the pool has from elsewhere.
const FOR_THE_POOL: &[&str] = &["supervise", "error", "sys", "worker_types", "Error", "ErrorKind"];

/// The arrows that run up, if any.
fn arrows_up(module: &str, text: &str) -> Vec<String> {
    let floor = |name: &str| FLOORS.iter().position(|floor| floor.contains(&name));
    let own = floor(module).unwrap_or_else(|| panic!("`{module}` has no floor: add it"));
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let mut named = BTreeSet::new();
    for part in code.split("crate::").skip(1) {
        let names = match part.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default(),
            None => {
                part.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
            }
        };
        let first = |name: &str| name.trim().split("::").next().unwrap_or_default().to_owned();
        named.extend(names.split(',').map(first));
    }
    let is_up = |name: &&String| match module {
        "supervise" => !FOR_THE_POOL.contains(&name.as_str()),
        _ => floor(name).is_some_and(|other| other >= own && *name != module),
    };
    named.iter().filter(is_up).map(|name| format!("{module} -> {name}")).collect()
}

/// The sources below a directory, but for tests.
fn sources(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).expect("the sources");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let kept = paths.filter(|path| path.file_stem().is_some_and(|stem| stem != "tests"));
    kept.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn no_import_runs_up() {
    let core = release_tests::source("release-core/src");
    let mut up = BTreeSet::new();
    for path in sources(&core) {
        let below = path.strip_prefix(&core).expect("a source").with_extension("");
        let module = below.iter().next().expect("a module").to_string_lossy().into_owned();
        if ["lib", "cases", "fuzzing"].contains(&&*module) {
            continue;
        }
        up.extend(arrows_up(&module, &fs::read_to_string(&path).expect("a source")));
    }
    assert!(up.is_empty(), "imports run down only, as FLOORS says: {up:?}");
}

#[test]
fn an_arrow_that_runs_up_is_found() {
    assert_eq!(arrows_up("ipc", "use crate::{Error, master};"), ["ipc -> master"]);
    assert_eq!(arrows_up("sys", "fn a() {\n    crate::rt::b();\n}"), ["sys -> rt"]);
    assert!(arrows_up("master", "use crate::process::Child; // crate::lib").is_empty());
    for room in ["ipc", "process", "worker", "daemonize"] {
        let found = arrows_up(room, "use crate::supervise::WorkerId;");
        assert_eq!(found, [format!("{room} -> supervise")]);
    }
    assert_eq!(arrows_up("supervise", "use crate::rt::Rt;"), ["supervise -> rt"]);
}
