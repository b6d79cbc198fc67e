//! The modules of the core stand on floors, and each imports only what is below it. Each type has a
//! name of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// From the ground up. Modules of one line do not import each other.
const FLOORS: &[&[&str]] = &[
    &["sys", "guard", "log_throttle", "stopping", "unlogged", "worker_types", "kept"],
    &["error"],
    &["metrics", "path", "predecessor", "systemd", "rt"],
    &["signals", "start_files", "streams"],
    &["accounts", "exit", "log", "sandbox", "trusted"],
    &["config", "net"],
    &["buffer", "ipc"],
    &["bytes", "process"],
    &["daemonize", "jobs"],
    &["worker"],
    &["http"],
    // The pool knows nothing of processes, and of the rooms only the master knows it.
    &["supervise"],
    &["master"],
    // A worker's process runs the status page or its own program.
    &["entry"],
    &["testing"],
];

/// All that the pool has from elsewhere.
const FOR_THE_POOL: &[&str] =
    &["supervise", "error", "kept", "sys", "worker_types", "Error", "ErrorKind"];

/// The text without the tests at its end.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

/// The arrows that run up, if any.
fn arrows_up(module: &str, text: &str) -> Vec<String> {
    let floor = |name: &str| FLOORS.iter().position(|floor| floor.contains(&name));
    let own = floor(module).unwrap_or_else(|| panic!("`{module}` has no floor: add it"));
    let code = without_tests(text).lines().filter(|line| !line.trim_start().starts_with("//"));
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

/// The names of the types that a text defines, but for those with a comment `// Also named so: REASON`
/// directly before their documentation.
fn types(text: &str) -> Vec<&str> {
    let mut is_defended = false;
    let mut found = Vec::new();
    for line in without_tests(text).lines() {
        let code = line.trim_start();
        if code.is_empty() || code.starts_with("//") || code.starts_with('#') {
            is_defended =
                !code.is_empty() && (is_defended || code.starts_with("// Also named so:"));
            continue;
        }
        let visible = code.strip_prefix("pub").map(|rest| match rest.split_once(") ") {
            Some((_, rest)) if code.starts_with("pub(") => rest,
            _ => rest.trim_start(),
        });
        let (kind, rest) = visible.unwrap_or(code).split_once(' ').unwrap_or_default();
        // Without `pub`, an indented one is an associated type.
        let is_type = match kind {
            "struct" | "enum" | "trait" | "union" => true,
            "type" => visible.is_some() || code.len() == line.len(),
            _ => false,
        };
        let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next();
        found.extend(name.filter(|_| is_type && !is_defended));
        is_defended = false;
    }
    found
}

#[test]
fn no_two_types_have_one_name() {
    let core = release_tests::source("release-core/src");
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in sources(&core) {
        let file = path.strip_prefix(&core).expect("a source").display().to_string();
        // The format of an upgrade names each part as the type that it is read into.
        if file.starts_with("kept/") {
            continue;
        }
        for name in types(&fs::read_to_string(&path).expect("a source")) {
            places.entry(name.to_owned()).or_default().push(file.clone());
        }
    }
    assert!(places.len() > 300, "the types were not found: {}", places.len());
    places.retain(|_, files| files.len() > 1);
    assert!(places.is_empty(), "give each type a name that says what it is: {places:#?}");
}

#[test]
fn the_types_of_a_text_are_found() {
    let text = "pub(super) struct A<T>(T);\nenum B {\n}\n    pub trait C: D {\n    type E = F;\n\
                // Also named so: a reason\n/// Words.\n#[derive(Debug)]\nstruct G;\npub type H = A;\n\
                #[cfg(test)]\nmod tests {\n    struct I;";
    assert_eq!(types(text), ["A", "B", "C", "H"]);
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
