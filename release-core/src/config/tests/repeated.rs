//! Sections with labels, which may be repeated, and sections with keys of any name.

use std::collections::BTreeMap;

use crate::config::validation::{int_in_range, string};
use crate::config::{Config, Live, Spec, key};

fn spec() -> Spec {
    Spec::new()
        .labelled_section(
            "site",
            [key("root").check(string()), key("port").default(80).check(int_in_range(1..=65535))],
        )
        .open_section("env", string())
        .section("web", [key("index").optional()])
}

#[track_caller]
fn report(text: &str) -> String {
    Config::parse("x", text, &spec()).expect_err("a wrong file").to_string()
}

#[test]
fn values_are_found_by_label() {
    let text = "[site \"b\\\"1\"]\nroot = \"/b\" [site \"a\"] port = 81 root = \"/a\"\n[env] Z = \"1\" A.b-c = \"2\"";
    let config = Config::parse("x", text, &spec()).expect("a good file");
    let labels: Vec<_> = config.labelled("site").map(|(label, _)| label).collect();
    assert_eq!(labels, ["b\"1", "a"]);
    let ports: Vec<_> = config.labelled("site").map(|(_, site)| site.get("port")).collect();
    assert_eq!(ports, [Ok(80), Ok(81)]);
    assert_eq!(config.labelled("web").count() + config.labelled("none").count(), 0);
    assert_eq!(config.section("site").value("root"), None);
    assert_eq!(config.section("env").get("Z"), Ok("1"));
    let dump = config.dump();
    let expected = "[site \"b\\\"1\"]\nroot = \"/b\"  # x:2\nport = 80  # default\n\n[site \"a\"]\nroot = \"/a\"  # x:2\n\
                    port = 81  # x:2\n\n[env]\nZ = \"1\"  # x:3\nA.b-c = \"2\"  # x:3\n\n[web]\n# index is not set\n";
    assert_eq!(dump, expected);
    let again = Config::parse("x", &dump, &spec()).expect("a dump is a good file");
    assert_eq!(again.labelled("site").count(), 2);
}

#[test]
fn they_are_maps() {
    #[derive(serde::Deserialize)]
    struct Settings {
        site: BTreeMap<String, Site>,
        env: BTreeMap<String, String>,
    }
    #[derive(serde::Deserialize)]
    struct Site {
        root: String,
        port: u16,
    }
    let spec = spec().fits::<Settings>();
    let none: Settings =
        Config::parse("x", "", &spec).expect("none is required").deserialize().expect("maps");
    assert!(none.site.is_empty() && none.env.is_empty());
    let text = "[site \"a\"] root = \"/a\" [site \"b\"] root = \"/b\" port = 81 [env] X = \"1\"";
    let some: Settings =
        Config::parse("x", text, &spec).expect("a good file").deserialize().expect("maps");
    let sites: Vec<_> = some
        .site
        .iter()
        .map(|(name, site)| (name.as_str(), site.root.as_str(), site.port))
        .collect();
    assert_eq!(sites, [("a", "/a", 80), ("b", "/b", 81)]);
    assert_eq!(some.env["X"], "1");
}

#[test]
fn mistakes_are_reported_where_they_are() {
    let text = "[site \"a\"]\nroot = 5\n[site \"b\"]\nport = 0\n[site \"a\"]\nroot = \"\"\n[site]\nroot = \"\"\n\
                [web \"x\"]\nindx = 1\n[env]\nX = 1\nX = \"2\"\n[site \"\"]\nroot = \"\"\n[sit \"c\"]\n";
    let expected = "x:2:8: `root`: expected a string, found 5
    root = 5
           ^
    hint: text has to be in quotes: \"5\"
x:3:2: the required key `root` is missing in section `site`
    [site \"b\"]
     ^^^^
x:4:8: `port`: expected an integer from 1 to 65535, found 0
    port = 0
           ^
x:5:2: the section `site` comes twice; the first is at x:1:2
    [site \"a\"]
     ^^^^
x:7:2: the section `site` needs a label
    [site]
     ^^^^
    hint: it is written [site \"label\"]
x:9:2: the section `web` has no label
    [web \"x\"]
     ^^^
    hint: it is written [web]
x:10:1: unknown key `indx` in section `web`; is it `index`?
    indx = 1
    ^^^^
x:12:5: `X`: expected a string, found 1
    X = 1
        ^
    hint: text has to be in quotes: \"1\"
x:13:1: the key `X` comes twice; the first is at x:12:1
    X = \"2\"
    ^
x:14:2: the section `site` needs a label
    [site \"\"]
     ^^^^
    hint: it is written [site \"label\"]
x:16:2: unknown section `sit`; is it `site`?
    [sit \"c\"]
     ^^^
x:16:2: the required key `root` is missing in section `site`
    [sit \"c\"]
     ^^^";
    assert_eq!(report(text), expected);
}

#[test]
fn wrong_headers_are_one_error_and_hide_nothing() {
    for header in [
        "[site \"a\"",
        "[site \"a]",
        "[site 'a']",
        "[site a]",
        "[site \"a\" \"b\"]",
        "[site \"\\xff\"]",
    ] {
        let text = report(&format!("[web]\nindex = [1,\n{header}\nroot = \"\"\n[web]\nindex = 2"));
        assert!(
            text.contains("x:3:") && text.contains("x:5:2: the section `web` comes twice"),
            "{header}: {text}"
        );
        let text = report(&format!("{header}\nroot = \"\"\n[env]\nX = 1"));
        let errors = text.lines().filter(|line| line.starts_with("x:")).count();
        assert!(errors == 2 && text.contains("x:4:5: `X`"), "{header}: {text}");
    }
    let text = report("[web]\nindex = [1,\n[site \"a\"]\nroot = 5");
    assert!(
        text.contains("x:2:9: the list of `index`") && text.contains("x:4:8: `root`"),
        "{text}"
    );
    let text = report("[web]\nindex =\n[site \"a\"]\nroot = 5");
    assert!(
        text.contains("x:2:1: a value is missing for `index`") && text.contains("x:4:8: `root`"),
        "{text}"
    );
    let long = format!("[env] {} = \"\"", "x".repeat(256));
    assert!(report(&long).contains("at most 255 bytes"));
}

#[test]
fn a_reload_tells_which_came_and_went() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let write = |text: &str| std::fs::write(file.path(), text).expect("the file");
    write("[site \"a\"] root = \"/a\" [site \"b\"] root = \"/b\" [env] X = \"1\"");
    let live = Live::load(file.path(), spec()).expect("a good file");
    write("[site \"c\"] root = \"/c\" [site \"b\"] root = \"/x\" [env] Y = \"1\"");
    let changes = live.reload().expect("a good file");
    let shown: Vec<_> = changes.iter().map(|change| format!("{change:#}")).collect();
    let expected = [
        "[site \"c\"] root = \"/c\", before: not set",
        "[site \"c\"] port = 80, before: not set",
        "[site \"b\"] root = \"/x\", before: \"/b\"",
        "[env] Y = \"1\", before: not set",
        "[site \"a\"] root is not set, before: \"/a\"",
        "[site \"a\"] port is not set, before: 80",
        "[env] X is not set, before: \"1\"",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn secrets_are_hidden_in_each() {
    let spec = Spec::new().labelled_section("site", [key("token").secret().check(string())]);
    let text = "[site \"a\"] token = hunter2 [site \"b\"]\ntoken = \"hunter2";
    let errors = Config::parse("x", text, &spec).expect_err("a wrong file");
    assert!(!format!("{errors}{errors:?}").contains("hunter"), "{errors}");
}
