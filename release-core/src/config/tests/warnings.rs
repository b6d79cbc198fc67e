//! Warnings: renamed keys, and text in which variables are not replaced.

use crate::config::{Config, Spec, key};

fn warnings(text: &str, spec: &Spec) -> Vec<String> {
    let config = Config::parse("x", text, spec).expect("a good file");
    config.warnings().iter().map(ToString::to_string).collect()
}

#[test]
fn a_renamed_key() {
    let spec = Spec::new().section("web", [key("port").formerly("prt").formerly("listen-port")]);
    assert_eq!(warnings("[web] port = 80", &spec), [""; 0]);
    let expected = "x:2:1: warning: the key `listen-port` is now called `port`
    listen-port = 80
    ^^^^^^^^^^^";
    assert_eq!(warnings("[web]\nlisten-port = 80", &spec), [expected]);
    let config = Config::parse("x", "[web] prt = 80", &spec).expect("a good file");
    assert_eq!(config.section("web").get("port"), Ok(80));
    assert_eq!(config.dump(), "[web]\nport = 80  # x:1\n");
    for text in
        ["[web] port = 1\nprt = 2", "[web] prt = 1\nport = 2", "[web] prt = 1\nlisten-port = 2"]
    {
        let errors = Config::parse("x", text, &spec).expect_err("both names");
        let message = errors.problems()[0].message();
        assert!(message.ends_with("is another name of the key that is set at x:1:7"), "{message}");
        assert_eq!((errors.count(), errors.problems()[0].line()), (1, Some(2)));
    }
    let twice = Spec::new().key(key("a").formerly("b")).key(key("b"));
    assert!(Config::parse("x", "a = 1 b = 2", &twice).is_err());
    let secret = Spec::new().key(key("password").secret().formerly("token"));
    let errors = Config::parse("x", "token = \"hunter2", &secret).expect_err("not closed");
    assert!(!errors.to_string().contains("hunter"), "{errors}");
}

#[test]
fn variables_are_not_replaced() {
    let spec = Spec::new().key(key("a"));
    let expected = "x:1:5: warning: `a` contains ${HOME}, which is not replaced
    a = \"b/${HOME}\"
        ^^^^^^^^^^^
    hint: to mean this text, write the dollar sign as \\x24";
    assert_eq!(warnings("a = \"b/${HOME}\"", &spec), [expected]);
    assert_eq!(warnings("a = [[\"x\", \"${A_1}\"], [\"${B}\"]]", &spec).len(), 2);
    for text in [r#""\x24{HOME}""#, r#""${home}""#, r#""${}""#, r#""$HOME""#, r#""${A""#] {
        assert_eq!(warnings(&format!("a = {text}"), &spec), [""; 0], "{text}");
    }
    assert_eq!(warnings("a = unix:\"/run/${A}\"", &spec).len(), 1);
    let secret = Spec::new().key(key("a").secret());
    let warnings = warnings("a = \"${HUNTER}\"", &secret);
    assert!(warnings[0].contains("part of the secret"), "{warnings:?}");
    assert!(!warnings[0].contains("HUNTER"), "{warnings:?}");
}

#[test]
fn there_are_at_most_a_hundred() {
    let spec = Spec::new().key(key("a"));
    let text = format!("a = [{}\"\"]", "\"${A}\", ".repeat(200));
    assert_eq!(warnings(&text, &spec).len(), 100);
}
