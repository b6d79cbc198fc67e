//! Secret values appear in no error, dump or debug format.

use crate::config::validation::{int_in_range, keywords, list_of, string, string_matching};
use crate::config::{Config, Spec, default, key};

fn spec() -> Spec {
    Spec::new()
        .key(key("password").secret().check(string()).check(string_matching("^[a-z0-9]+$")))
        .key(key("port").default(80).check(int_in_range(1..=65535)))
        .key(key("pins").secret().optional().check(list_of(int_in_range(0..=9999))))
        .section("db", [key("token").secret().optional().check(keywords(["none"]))])
}

/// Returns the report, which must not show a secret.
#[track_caller]
fn report(text: impl AsRef<[u8]>) -> String {
    let errors = Config::parse("x", text, &spec()).expect_err("a wrong file");
    let report = format!("{errors}\n{errors:?}");
    assert!(!report.contains("hunter") && !report.contains("4711"), "{report}");
    errors.to_string()
}

#[test]
fn errors_do_not_show_them() {
    for text in [
        "password = \"hunter2!\"",
        "password = hunter2",
        "password = /hunter2/",
        "password: \"hunter2\"",
        "password \"hunter2\"",
        "password hunter2",
        "password = 'hunter2'",
        "password = \"hunter2",
        "password = \"hunter2\nhunter2 = 5",
        "password = \"hunter\"hunter2\"",
        "password = \"x\" hunter2",
        "password = \"x\" hunter2 = 5",
        "password = \"x\" [hunter2]",
        "password = \"hunter\\999\"",
        "password = \"x\" pasword = \"hunter2\"",
        "Password = \"hunter2\"",
        "port = 0 password = \"hunter2\"",
        "password = \"hunter2\" port = 0",
        "password =\n\"hunter2\nhunter2!\" port = 0",
        "password = /hunter2",
        "password = /hunter2(/",
        "password = hunter2:99999",
        "password = 4711hunter",
        "password = 04711",
        "password = [\"hunter2\"]",
        "password = \"x\" pins = [4711, 4711x, hunter]",
        "password = \"x\" pins = [4711,\n\"hunter2\", 4711 4711]",
        "password = \"x\" pins = [1,\nhunter2 # note\n, 4711",
        "password = \"x\" [db] token = hunter2",
        "password = \"x\" password = \"hunter2\"",
        "[db]\npassword = \"hunter2\"",
    ] {
        report(text);
    }
    report(b"password = \"hunter2\xff\"");
    report("password = \"hunter2\0\"");
}

#[test]
fn errors_still_say_what_is_wrong_and_where() {
    assert_eq!(
        report("password = \"hunter2!\"\nport = 0 # note"),
        "x:1:12: `password`: expected a string that matches /^[a-z0-9]+$/; the value is not shown
    password = ***
               ^^^
x:2:8: `port`: expected an integer from 1 to 65535, found 0
    port = 0 # note
           ^"
    );
    let unclosed = report("port = 80\npassword = \"hunter2");
    assert!(unclosed.starts_with("x:2:12: the string that begins here is not closed\n"));
    let behind = report("password = \"x\" hunter2");
    assert!(
        behind.contains("x:1:16: this is wrong in or behind the value of a secret"),
        "{behind}"
    );
    let port = report("password = \"hunter2\" port = 0");
    assert!(port.contains("`port`: expected an integer from 1 to 65535, found 0"), "{port}");
}

#[test]
fn types_that_do_not_fit_do_not_show_them() {
    #[derive(serde::Deserialize, Debug)]
    struct Settings {
        #[serde(rename = "password")]
        _password: u16,
    }
    let parse = |spec: &Spec| Config::parse("x", "password = \"hunter2\"", spec);
    let config = parse(&spec()).expect("a good file");
    for errors in [
        parse(&spec().fits::<Settings>()).expect_err("no number"),
        config.deserialize::<Settings>().expect_err("no number"),
        config.get::<u16>("password").expect_err("no number"),
    ] {
        assert!(!format!("{errors}{errors:?}").contains("hunter"), "{errors}");
        assert_eq!(errors.problems()[0].column(), Some(12));
    }
    assert_eq!(config.get("password"), Ok("hunter2"));
}

#[test]
fn dumps_and_debug_formats_do_not_show_them() {
    let spec = spec().key(key("key").secret().default("hunter3"));
    let config = Config::parse("x", "password = \"hunter2\"\npins = [4711]", &spec);
    let config = config.expect("a good file");
    let dump = config.dump();
    let all = format!("{dump}{config:?}{spec:?}{:?}", config.section("db"));
    assert!(!all.contains("hunter") && !all.contains("4711"), "{all}");
    assert!(dump.starts_with("# password is set, and secret  # x:1\nport = 80  # default\n"));
    assert!(dump.contains("\n# key is set, and secret  # default\n"), "{dump}");
    assert!(dump.ends_with("\n# token is not set\n"), "{dump}");
    let wrong = Spec::new().key(key("key").secret().default("hunter3").check(keywords(["x"])));
    let errors = Config::parse("x", "", &wrong).expect_err("a wrong default");
    assert!(!errors.to_string().contains("hunter"), "{errors}");
    let wrong = Spec::new().key(key("key").secret().default(default::keyword("hunter 3")));
    let errors = Config::parse("x", "", &wrong).expect_err("a wrong default");
    assert!(!errors.to_string().contains("hunter"), "{errors}");
}

#[test]
fn they_may_stand_in_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secret");
    let parse = || {
        let text = format!("password = file:{}", path.display());
        Config::parse("x", text, &spec())
    };
    let missing = parse().expect_err("no file").to_string();
    assert!(missing.contains("the file of the secret does not exist"), "{missing}");
    for content in ["hunter2", "hunter2\n", "hunter2\r\n"] {
        std::fs::write(&path, content).expect("a file");
        assert_eq!(parse().expect(content).get("password"), Ok("hunter2"), "{content:?}");
    }
    for content in [&b"hunter2\n\n"[..], b"hunter2\xff", b""] {
        std::fs::write(&path, content).expect("a file");
        let errors = parse().expect_err("refused by a validation").to_string();
        assert!(
            !errors.contains("hunter") && errors.contains("the value is not shown"),
            "{errors}"
        );
    }
    std::fs::write(&path, vec![b'x'; 64 * 1024 + 1]).expect("a file");
    assert!(parse().expect_err("too large").to_string().contains("is it the file of a secret?"));
    let relative = report("password = file:secret");
    assert!(relative.contains("`password`: the file of a secret has an absolute path"));
    assert!(report("password = credential:../x").contains("without a directory"));
    assert!(report("password = credential:x").contains("$CREDENTIALS_DIRECTORY"));
    let spec = Spec::new().key(key("name"));
    let config = Config::parse("x", "name = file:/etc/passwd", &spec).expect("a word");
    assert_eq!(config.get("name"), Ok("file:/etc/passwd"));
}
