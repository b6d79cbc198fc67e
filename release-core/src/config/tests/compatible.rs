//! Files in the format of the OCaml library, which must work here too.

use crate::config::validation::{
    bool, existing_user, int_in_range, int_list, keywords, list_of, regexp, string, string_in,
    unprivileged_user,
};
use crate::config::{Config, Spec, Value, default, key};

fn spec() -> Spec {
    Spec::new()
        .key(key("user").check(unprivileged_user()))
        .key(key("privileged").default(default::bool(true)).check(bool()))
        .key(key("read_timeout").default(default::int(5)).check(int_in_range(0..=10)))
        .key(
            key("log_level")
                .default(default::keyword("info"))
                .check(keywords(["debug", "info", "error"])),
        )
        .section(
            "some-section",
            [
                key("match_with").default(default::regexp("^[a-z]+$")).check(regexp()),
                key("tmp").default(default::string("/tmp")).check(string_in(["/tmp", "/var/tmp"])),
            ],
        )
        .section(
            "another-section",
            [key("privileged_users")
                .default(default::string_list(["root"]))
                .check(list_of(existing_user()))],
        )
}

#[test]
fn every_key() {
    let text = r#"
        # Who does what
        user         = "nobody" # text
        privileged   = false    # yes or no
        read_timeout = 1        # a number
        log_level    = debug    # a word

        [some-section] # the names
        match_with = /^.+$/
        tmp        = "/var/tmp"

        [another-section] # who may
        privileged_users = ["root", "nobody"]
    "#;
    let config = Config::parse("x", text, &spec()).expect("a good file");
    assert_eq!(config.get("user"), Ok("nobody"));
    assert_eq!(config.get("privileged"), Ok(false));
    assert_eq!(config.get("read_timeout"), Ok(1));
    assert_eq!(config.get("log_level"), Ok("debug"));
    let names = config.section("some-section");
    assert!(names.value("match_with").is_some_and(|value| value.to_string() == "/^.+$/"));
    assert_eq!(names.get("tmp"), Ok("/var/tmp"));
    let users = config.section("another-section").get::<Vec<String>>("privileged_users");
    assert_eq!(users, Ok(vec!["root".to_owned(), "nobody".to_owned()]));
}

#[test]
fn everything_else_by_default() {
    let config = Config::parse("x", "user = \"nobody\"", &spec()).expect("a good file");
    assert_eq!(config.get("privileged"), Ok(true));
    assert_eq!(config.get("read_timeout"), Ok(5));
    assert_eq!(config.get("log_level"), Ok("info"));
    assert_eq!(config.section("some-section").get("tmp"), Ok("/tmp"));
    let users = config.section("another-section").value("privileged_users").cloned();
    assert_eq!(users, Some(vec!["root"].into()));
}

#[test]
fn free_layout() {
    let spec = Spec::new()
        .key(key("first").check(int_in_range(0..=1)))
        .key(key("second").default(true).check(bool()))
        .key(key("numbers").default(vec![1]).check(int_list()))
        .key(key("nothing").default(default::string_list([])).check(list_of(string())))
        .key(key("shape").default(default::regexp(".")).check(regexp()))
        .section("one", [key("needed").check(string()), key("other").default("x")])
        .section("two", [key("other").default("x"), key("another").default("y")]);
    let text = "# note\nfirst = 0 # note\nsecond = true\nnumbers = [\n1\n\n,\n\n2\n,3 ]\nnothing =\n \
                [\n  ]\nshape = /^(up\n        |down)$/\n\n[one] # note\nneeded = \"v\"\nother\n= \
                \"w\"\n\n[two] other = \"a\" another =\n\"b\nc\"\n\n# end";
    let config = Config::parse("x", text, &spec).expect("a good file");
    assert_eq!(config.value("numbers"), Some(&vec![1, 2, 3].into()));
    assert_eq!(config.value("nothing"), Some(&Value::List(vec![])));
    let shape = config.value("shape").and_then(Value::as_regexp).expect("a regular expression");
    assert!(shape.regex().is_match("down") && !shape.regex().is_match("updown"));
    assert_eq!(config.section("one").get("other"), Ok("w"));
    assert_eq!(config.section("two").get("another"), Ok("b\nc"));
}
