//! Files that include others: what is read, in which order, the limits, and errors across files.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::is_root;
use crate::config::validation::int_in_range;
use crate::config::{Config, Errors, Live, Spec, key};

fn spec() -> Spec {
    Spec::new()
        .include("include")
        .key(key("port").default(80).check(int_in_range(1..=65535)))
        .key(key("user").optional())
        .section("web", [key("root").optional(), key("index").optional()])
}

/// Writes files, of which the first one includes the others, and loads it.
fn load(directory: &Path, files: &[(&str, &str)]) -> Result<Config, Errors> {
    for (name, text) in files {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }
    Config::load(directory.join(files[0].0), &spec())
}

/// Returns the report, without the path of the directory.
#[track_caller]
fn report(files: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let errors = load(directory.path(), files).expect_err("a wrong file");
    errors.to_string().replace(&format!("{}/", directory.path().display()), "")
}

#[test]
fn all_values_count() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = [
        ("main", "include = \"d/*.conf\" include = [\"one\", \"none/../e/?\"]\n[web] root = 1"),
        ("d/b.conf", "port = 81 # the last line has no end"),
        ("d/a.conf", "\u{feff}include = \"more/x\"\n"),
        ("d/more/x", "[web] index = 2"),
        ("d/.hidden.conf", "="),
        ("d/a.conf~", "="),
        ("one", "# nothing"),
        ("none/x", ""),
        ("e/x", "user = 3"),
    ];
    let config = load(directory.path(), &files).expect("good files");
    assert_eq!((config.get("port"), config.get("user")), (Ok(81), Ok(3)));
    let web = config.section("web");
    assert_eq!((web.get("root"), web.get("index")), (Ok(1), Ok(2)));
    let dump = config.dump().replace(&format!("{}/", directory.path().display()), "");
    let expected = "port = 81  # d/b.conf:1\nuser = 3  # none/../e/x:1\n\n[web]\nroot = 1  # main:2\nindex = 2  # d/more/x:1\n";
    assert_eq!(dump, expected);
    load(directory.path(), &[("main", "include = \"d/*.none\"")]).expect("there may be none");
    let other = Spec::new().key(key("port").optional());
    assert!(Config::parse("x", "include = \"x\"", &other).is_err());
}

#[test]
fn errors_have_the_place_in_their_file() {
    let text = report(&[
        ("main", "port = 80\ninclude = [\"a\", \"b\"]\n[web]\nroot = 1\n[other]\n"),
        ("a", "\nport = 81\n[web]\nroot = 2 # note\nindex = [\n"),
        ("b", "port = 0\nusr = \"x"),
    ]);
    let expected = "main:5:2: unknown section `other`
    [other]
     ^^^^^
    hint: the sections here are web
a:2:1: the key `port` comes twice; the first is at main:1:1
    port = 81
    ^^^^
a:4:1: the key `root` comes twice; the first is at main:4:1
    root = 2 # note
    ^^^^
a:5:9: the list of `index` that begins here is not closed
    index = [
            ^
    hint: a list ends with `]`
b:1:1: the key `port` comes twice; the first is at main:1:1
    port = 0
    ^^^^
b:1:8: `port`: expected an integer from 1 to 65535, found 0
    port = 0
           ^
b:2:1: unknown key `usr`; is it `user`?
    usr = \"x
    ^^^
b:2:7: the string that begins here is not closed
    usr = \"x
          ^^
    hint: a string ends with \" and a quote within it is written \\\"";
    assert_eq!(text, expected);
    let text = report(&[("main", "include = \"a\"\n[web]\nroot = 1\n[web]\nroot = 2"), ("a", "")]);
    assert!(text.starts_with("main:4:2: the section `web` comes twice") && !text.contains("key"));
}

#[test]
fn includes_that_fail_are_reported_where_they_stand() {
    for (files, expected) in [
        (
            &[("main", "include = \"none\"")][..],
            "main:1:11: none: the configuration file does not exist",
        ),
        (&[("main", "include = \"none/*\"")], "main:1:11: cannot list none"),
        (
            &[("main", "include = [5]")],
            "main:1:12: expected a string or a list of strings, found 5",
        ),
        (&[("main", "include = \"/\"")], "main:1:11: expected the path of a file"),
        (&[("main", "include = \"main\"")], "main:1:11: main: this file is included twice, or"),
        (
            &[("main", "include = [\"a\", \"./a\"]"), ("a", "")],
            "main:1:17: ./a: this file is included",
        ),
        (
            &[("main", "include = \"a\""), ("a", "include = \"b\""), ("b", "\ninclude = \"a\"")],
            "b:2:11: a: this",
        ),
        (&[("main", "include = \"a\""), ("a", "x = \0")], "main:1:11: a:1:5: a NUL byte"),
        (&[("main", "include = \"a\""), ("a/b", "")], "main:1:11: a: this is a directory"),
        (&[("main", "[web]\ninclude = \"a\"")], "main:2:1: unknown key `include`"),
        (&[("main", "include = ")], "main:1:1: a value is missing for `include`"),
    ] {
        let text = report(files);
        assert!(text.starts_with(expected), "{text}\n{expected}");
        assert!(!text.contains("\nmain") && !text.contains("\na"), "one error: {text}");
    }
}

#[test]
fn there_are_limits() {
    let chain = |last: usize| {
        let text = |next| format!("include = \"{next}\"");
        let files: Vec<_> = (0..last).map(|file| (file.to_string(), text(file + 1))).collect();
        let mut files: Vec<_> =
            files.iter().map(|(name, text)| (name.clone(), text.clone())).collect();
        files.push((last.to_string(), String::new()));
        let directory = tempfile::tempdir().expect("a directory");
        let files: Vec<_> =
            files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        load(directory.path(), &files)
    };
    assert!(chain(8).is_ok());
    let deep = chain(9).expect_err("too deep").to_string();
    assert!(deep.contains("/8:1:11: ") && deep.contains("more than 8 deep"), "{deep}");

    let directory = tempfile::tempdir().expect("a directory");
    let main = ("main", "include = \"d/*\"");
    load(directory.path(), &[main, ("d/0", "")]).expect("good files");
    for file in 1..256 {
        std::fs::write(directory.path().join(format!("d/{file}")), "").expect("a file");
    }
    load(directory.path(), &[main]).expect("256 files");
    let many = load(directory.path(), &[main, ("d/256", "")]).expect_err("257 files");
    assert!(many.to_string().contains("at most 256 files"), "{many}");

    let directory = tempfile::tempdir().expect("a directory");
    load(directory.path(), &[main, ("d/a", "# 8 bytes"), ("d/b", "# 8 bytes")])
        .expect("good files");
    let path = directory.path().join("main");
    assert!(Config::load(&path, &spec().size_limit(35)).is_ok());
    let large = Config::load(&path, &spec().size_limit(30)).expect_err("too large together");
    assert!(large.to_string().contains("/d/b: the file is larger than"), "{large}");
}

#[test]
fn files_of_others_are_refused_to_root() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let main = ("main", "include = \"d/*\"");
    load(directory.path(), &[main, ("d/x", "")]).expect("good files");
    let path = directory.path().join("d");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).expect("a mode");
    let errors = load(directory.path(), &[main]).expect_err("everybody can add files").to_string();
    assert!(errors.contains("the configuration file decides what root does"), "{errors}");
}

#[test]
fn secrets_are_hidden_in_all_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("main");
    std::fs::write(&path, "include = \"x\" password = 1").expect("a file");
    let spec = Spec::new().include("include").key(key("password").secret());
    for text in [&b"password = \"hunter2"[..], b"password = hunter2", b"password = \"hunter2\xff\""]
    {
        std::fs::write(directory.path().join("x"), text).expect("a file");
        let errors = Config::load(&path, &spec).expect_err("twice");
        assert!(!format!("{errors}{errors:?}").contains("hunter"), "{errors}");
    }
}

#[test]
fn a_reload_reads_all_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = [("main", "include = \"d/*\""), ("d/a", "port = 81")];
    load(directory.path(), &files).expect("good files");
    let live = Live::load(directory.path().join("main"), spec()).expect("good files");
    std::fs::write(directory.path().join("d/b"), "user = 1").expect("a file");
    std::fs::write(directory.path().join("d/a"), "port = 82").expect("a file");
    let changes = live.reload().expect("good files");
    assert_eq!(changes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["port", "user"]);
}
