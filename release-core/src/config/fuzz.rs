//! Entry points for fuzzers and property tests: any bytes are allowed, and a panic is a defect.

use super::{Config, Key, Spec, key, parse as parser, read, validation};

/// Files that use every feature, as seeds for fuzzers.
#[cfg(feature = "fuzzing")]
pub(crate) const SEEDS: [&str; 4] = [
    "user = \"a\\n\\065\\xff\" # note\nn = [-1, 2_0, 3]\nf = 1.5e-3 b = true k = word\n",
    "[web]\r\nr = /^(a|b)\\/\n  c$/ t = 1.5s s = 64KiB l = [[a], []]\n",
    "a = \"x\" [s \"l\"] port = 5 mode = 0640 [b] any = \"${A}\" # labels\n",
    "a = [127.0.0.1:80, [::1]:80, host:80, unix:/x, unix:\"a b\"]\n[s] x = \"two\nlines\"",
];

/// Parses an arbitrary file: every error has a position in it.
pub(crate) fn parse(text: &[u8]) {
    let spec = Spec::new()
        .key(key("user"))
        .key(key("a").optional().secret())
        .section("web", [key("port").default(80)])
        .labelled_section("s", [key("port").default(80)])
        .open_section("b", validation::string());
    if let Err(errors) = Config::parse("fuzz", text, &spec) {
        for problem in errors.problems() {
            let Some((line, column)) = problem.line().zip(problem.column()) else { continue };
            let found = text.split(|byte| *byte == b'\n').nth(line - 1);
            assert!(found.is_some_and(|found| column <= found.len() + 1), "{problem}");
        }
        assert!(!errors.to_string().is_empty());
    }
}

/// Dumps a file without mistakes: its dump has the same values, and is its own dump.
pub(crate) fn dump(text: &[u8]) {
    let Some(spec) = specification(text) else { return };
    let Ok(config) = Config::parse("fuzz", text, &spec) else { return };
    let dump = config.dump();
    let again = Config::parse("fuzz", &dump, &spec);
    assert!(again.is_ok(), "{dump}");
    let Ok(again) = again else { return };
    for (old, new) in config.sections.iter().zip(&again.sections) {
        for (old, new) in old.entries.iter().zip(&new.entries) {
            assert_eq!(old.value, new.value, "{} in\n{dump}", old.key);
        }
    }
}

/// Returns a specification with exactly the keys of the file.
fn specification(text: &[u8]) -> Option<Spec> {
    let source = read::text("fuzz", text.to_vec(), false).ok()?;
    let (sections, problems) = parser::parse(&source);
    problems.result().ok()?;
    let mut spec = Spec::new();
    if sections.iter().any(|section| section.label.is_some()) {
        return None;
    }
    for section in sections {
        let keys = section.entries.iter().map(|entry| key(source.slice(&entry.key)));
        let keys: Vec<Key> = keys.collect();
        spec = match section.name {
            Some(name) => spec.section(source.slice(&name), keys),
            None => keys.into_iter().fold(spec, Spec::key),
        };
    }
    Some(spec)
}
