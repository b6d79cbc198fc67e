//! The guide is complete: its contents name every page, its links lead somewhere, its code is compiled.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use release_tests::source;

const CONTENTS: &str = "docs/SUMMARY.md";

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).expect("a file of this repository")
}

/// The pages of the guide, without its contents.
fn pages() -> Vec<PathBuf> {
    let entries = fs::read_dir(source("docs")).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let is_page = |path: &PathBuf| path.extension().is_some_and(|it| it == "md");
    let pages: Vec<_> = paths.filter(is_page).filter(|path| *path != source(CONTENTS)).collect();
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// The text outside of blocks of code and of comments.
fn prose(text: &str) -> String {
    let outside = text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n");
    outside.split("<!--").map(|part| part.rsplit("-->").next().unwrap_or(part)).collect()
}

/// The targets of `[text](target)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// The anchors of the headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
    let anchor = |heading: &str| {
        let kept = |character: &char| character.is_alphanumeric() || "-_ ".contains(*character);
        heading.trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn the_contents_name_every_page() {
    let contents = prose(&read(source(CONTENTS)));
    let named: BTreeSet<_> = links(&contents).map(str::to_owned).collect();
    let there: BTreeSet<_> = pages().iter().map(|page| name(page)).collect();
    assert_eq!(named, there, "{CONTENTS} names the pages on the left; docs has those on the right");
}

#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    for page in pages().into_iter().chain([source("README.md"), source(CONTENTS)]) {
        let text = prose(&read(&page));
        for link in links(&text).filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { page.clone() } else { page.with_file_name("").join(file) };
            assert!(target.exists(), "{}: {link}: no such file", page.display());
            let has_anchor = || anchors(&prose(&read(&target))).contains(anchor);
            assert!(anchor.is_empty() || has_anchor(), "{}: {link}: no heading", page.display());
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}

#[test]
fn the_code_of_every_page_is_compiled() {
    let compiled = read(source("tests/src/lib.rs"));
    for page in pages() {
        let has_code = read(&page).contains("```rust");
        let path = format!("../../docs/{}\"", name(&page));
        assert!(!has_code || compiled.contains(&path), "tests/src/lib.rs does not include {path}");
    }
}

#[test]
fn the_pages_name_files_that_exist() {
    let mut count = 0;
    for page in pages().into_iter().chain([source("README.md")]) {
        let text = prose(&read(&page));
        for named in text.split('`').skip(1).step_by(2) {
            let is_path = ["docs/", "examples/", "tests/tests/"];
            if is_path.iter().any(|start| named.starts_with(start)) && !named.contains(' ') {
                assert!(source(named).exists(), "{}: {named}", page.display());
                count += 1;
            }
        }
    }
    assert!(count > 20, "{count}");
}

#[test]
fn the_runtimes_page_shows_the_custom_executor() {
    let example = read(source("examples/custom_runtime/executor.rs"));
    let page = read(source("docs/RUNTIMES.md"));
    let blocks = page.split("```rust,ignore\n").skip(1).filter_map(|rest| rest.split("```").next());
    let shown: Vec<_> = blocks.filter(|block| block.starts_with("impl ")).collect();
    assert_eq!(shown.len(), 2, "the driver and the runtime");
    for block in shown {
        assert!(example.contains(block), "{block}");
    }
}

#[test]
fn the_messages_that_operators_look_up_are_in_the_code() {
    let mut code = String::new();
    let mut directories = vec![source("release-core/src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                code.push_str(&read(path));
            }
        }
    }
    let page = read(source("docs/OPERATING.md"));
    let table = page.split("| the log says |").nth(1).expect("the table");
    let rows: Vec<_> = table.lines().skip(2).take_while(|line| line.starts_with("| `")).collect();
    assert!(rows.len() > 10, "{rows:?}");
    for message in rows.iter().filter_map(|row| row.split('`').nth(1)) {
        assert!(code.contains(message), "no line of the log says {message:?}");
    }
}
