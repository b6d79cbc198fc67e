//! What the documents show is what the examples are.

use release_tests::source;

fn read(path: &str) -> String {
    std::fs::read_to_string(source(path)).expect("a file of this repository")
}

/// The first block of this language that contains a text.
fn block(document: &str, language: &str, marker: &str) -> String {
    let fence = format!("```{language}\n");
    let blocks = document.split(&fence).skip(1).filter_map(|rest| rest.split_once("\n```"));
    let (block, _) = blocks.into_iter().find(|(block, _)| block.contains(marker)).expect("a block");
    format!("{block}\n")
}

#[test]
fn the_readme_shows_the_example_hello() {
    let shown = block(&read("README.md"), "rust,no_run", "struct Hello");
    let example = read("examples/hello.rs");
    let code = example.split_once("\n\n").expect("a comment, then code").1;
    assert_eq!(shown, code);
    assert!(example.lines().count() < 40);
}

#[test]
fn the_protocol_shows_the_python_client() {
    let shown = block(&read("docs/PROTOCOL.md"), "python", "import");
    assert_eq!(shown, read("examples/python/control_client.py"));
    assert!(shown.lines().count() <= 20);
}

#[test]
fn the_protocol_lists_the_kinds_of_frames() {
    let numbers = |lines: &str, before: &str| -> Vec<u8> {
        let first = |line: &str| line.strip_prefix(before)?.split_once(' ')?.0.parse().ok();
        lines.lines().filter_map(first).collect()
    };
    let source = read("release-core/src/ipc/wire/header.rs");
    let (_, table) = source.split_once("\nkinds! {\n").expect("the table");
    let (table, _) = table.split_once("\n}\n").expect("its end");
    let document = read("docs/PROTOCOL.md");
    let (_, rows) =
        document.split_once("| kind (1 byte) | then | then |\n").expect("the documented table");
    let (rows, _) = rows.split_once("\n\n").expect("its end");
    let defined = numbers(table, "    ");
    assert!(defined.len() >= 10, "{defined:?}");
    assert_eq!(numbers(rows, "| "), defined);
}

#[test]
fn a_custom_executor_has_less_than_a_hundred_lines() {
    assert!(read("examples/custom_runtime/executor.rs").lines().count() < 100);
}

#[test]
fn the_servers_page_shows_the_patient_uvicorn() {
    assert_eq!(
        block(&read("docs/SERVERS.md"), "python", "Patient"),
        read("examples/deploy/patient.py")
    );
}

#[test]
fn the_page_on_tests_shows_those_of_the_service() {
    let shown = block(&read("docs/TESTING.md"), "rust,ignore", "CARGO_BIN_EXE_service");
    let program = "\nconst SERVICE: &str = env!(\"CARGO_BIN_EXE_service\");\n";
    assert_eq!(shown.replacen(program, "", 1), read("tests/tests/service/page.rs"));
}

/// The names between backticks, without those behind "unit tests of".
fn tests_named(cell: &str) -> impl Iterator<Item = &str> {
    let tests = cell.split(", ").filter(|part| !part.starts_with("unit tests of"));
    tests.filter_map(|part| part.trim().strip_prefix('`')?.split('`').next())
}

#[test]
fn the_tests_that_documents_name_are_there() {
    for document in ["docs/FEATURES.md", "docs/SECURITY.md"] {
        let text = read(document);
        let rows = text.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
        let cells = rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit('|').next());
        let names: Vec<_> = cells.flat_map(tests_named).collect();
        assert!(names.len() > 30, "{document}: {names:?}");
        for name in names {
            let path = format!("tests/tests/{name}.rs");
            assert!(source(&path).exists(), "{document} names {path}");
        }
    }
}
