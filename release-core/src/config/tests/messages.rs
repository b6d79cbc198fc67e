//! The reports that users read if their file is wrong.

use std::time::Duration;

use crate::config::validation::{
    address, bool, duration, int, int_in_range, keyword_list, keywords, list_of, regexp, size,
    string,
};
use crate::config::{Config, Spec, default, key};

fn spec() -> Spec {
    let levels = keywords(["debug", "info", "error"]);
    Spec::new()
        .key(key("user").check(string()))
        .key(key("port").default(80).check(int_in_range(1..=65535)))
        .key(key("debug").default(false).check(bool()))
        .key(key("level").default(default::keyword("info")).check(levels))
        .key(key("timeout").default(Duration::from_secs(5)).check(duration()))
        .key(key("buffer").default(default::size(5)).check(size()))
        .key(key("ports").default(vec![1]).check(list_of(int())))
        .key(key("names").default(default::regexp("x")).check(regexp()))
        .section("web", [key("root").check(string()), key("listen").optional().check(address())])
}

/// Checks that the report on a file is this text, whose lines are indented by eight blanks here.
#[track_caller]
fn assert_report(text: &str, expected: &str) {
    let errors = Config::parse("app.conf", text, &spec()).expect_err("a bad file");
    let expected: Vec<&str> =
        expected.lines().skip(1).map(|line| line.get(8..).unwrap_or_default()).collect();
    assert_eq!(errors.to_string(), expected.join("\n").trim_end());
}

/// The valid rest of a file, after the text under test.
const REST: &str = "\n[web]\nroot = \"/\"\n";

#[test]
fn values_of_the_wrong_kind() {
    let text = "user = www-data\nport = \"80\"\ndebug = yes\nlevel = inof\ntimeout = 5\nbuffer = \
                100\nports = 80\nnames = \"^a$\"\n[web]\nroot = /srv/\nlisten = localhost";
    assert_report(
        text,
        r#"
        app.conf:1:8: `user`: expected a string, found the keyword www-data
            user = www-data
                   ^^^^^^^^
            hint: text has to be in quotes: "www-data"
        app.conf:2:8: `port`: expected an integer from 1 to 65535, found the string "80"
            port = "80"
                   ^^^^
            hint: without the quotes: 80
        app.conf:3:9: `debug`: expected true or false, found the keyword yes
            debug = yes
                    ^^^
        app.conf:4:9: `level`: expected the keyword debug, info or error, found the keyword inof: is it info?
            level = inof
                    ^^^^
        app.conf:5:11: `timeout`: expected a duration such as 5s, found 5
            timeout = 5
                      ^
            hint: a duration has a unit: 5ms, 5s, 5m, 5h, 5d
        app.conf:6:10: `buffer`: expected a size such as 64KiB, found 100
            buffer = 100
                     ^^^
            hint: a size has a unit: 100B, 100KiB, 100MiB, 100GiB
        app.conf:7:9: `ports`: expected a list, each element an integer, found 80
            ports = 80
                    ^^
            hint: a list has to be in brackets, also when it has one element
        app.conf:8:9: `names`: expected a regular expression, found the string "^a$"
            names = "^a$"
                    ^^^^^
            hint: a regular expression stands between slashes, /like this/
        app.conf:10:8: `root`: expected a string, found the regular expression /srv/
            root = /srv/
                   ^^^^^
            hint: text has to be in quotes: "/srv/"
        app.conf:11:10: `listen`: expected an address such as 127.0.0.1:80, found the keyword localhost
            listen = localhost
                     ^^^^^^^^^
            hint: an address has a port: localhost:80
        "#,
    );
}

#[test]
fn unknown_duplicate_misplaced_and_missing_names() {
    assert_report(
        "prot = 80\nlevel = debug\nlevel = info\n[wbe]\nroot = \"/\"\nuser = \"x\"\n[extra]\nroot = 5\n",
        r#"
        app.conf:1:1: unknown key `prot`; is it `port`?
            prot = 80
            ^^^^
        app.conf:3:1: the key `level` comes twice; the first is at app.conf:2:1
            level = info
            ^^^^^
        app.conf:4:2: unknown section `wbe`; is it `web`?
            [wbe]
             ^^^
        app.conf:6:1: unknown key `user` in section `web`
            user = "x"
            ^^^^
            hint: it is a global key, which has to stand before the first [section]
        app.conf:7:2: unknown section `extra`
            [extra]
             ^^^^^
            hint: the sections here are web
        "#,
    );
    assert_report(
        "[web]\nlsten = a:1\n[web]\n",
        r#"
        app.conf:1:1: the required key `user` is missing
            hint: add `user = ...` before the first [section]
        app.conf:1:2: the required key `root` is missing in section `web`
            [web]
             ^^^
        app.conf:2:1: unknown key `lsten` in section `web`; is it `listen`?
            lsten = a:1
            ^^^^^
        app.conf:3:2: the section `web` comes twice; the first is at app.conf:1:2
            [web]
             ^^^
        "#,
    );
    assert_report(
        "user = \"x\"\n",
        r#"
        app.conf:2:1: the section `web` with the required `root` is missing
        "#,
    );
}

#[test]
fn one_mistake_is_one_error() {
    for text in [
        "user = \"x\nport = 80\nlevel = info",
        "user = \"x\ntimeout = 5s # \"quoted\"",
        "user = 'x'",
        "user: \"x\"",
        "user \"x\"",
        "user = \nport = 80",
        "user == \"x\"",
        "user = \"x\"\nports = [1, 2\nport = 5",
        "user = \"x\"\nports = [1, 2",
        "user = \"x\"\nports = [1,\n 2\n 3,\n 4]",
        "user = \"x\"\nports = [1, \"2\"]",
        "user = \"x\"\nports = [1, 'a', 2]",
        "user = \"x\"\nports = [[[1, 2 3], 4], 5]",
        "user = /var/www",
        "user = \"x\"\nnames = /a(/",
        "user = \"x\"\nunknown [1,\n2,\n3]",
        "user = \"x\"\nport =",
        "user = \"x\"\n; a comment of another language",
        "usr = \"x\"",
        "user = \"x\", port = 80",
        "user = two words",
    ] {
        let errors = Config::parse("x", text.to_owned() + REST, &spec()).expect_err(text);
        let expected = if text.ends_with("words") { 2 } else { 1 };
        assert_eq!(errors.count(), expected, "{text}\n{errors}");
    }
}

#[test]
fn nothing_is_hidden_by_a_mistake_before_it() {
    assert_report(
        "user: \"x\"\nport 80\n; note\n[my section]\nroot = \"x\"\n[]\nports = [1 2]\nlevel = 'x'\n[web\n\
         root = /var/www\nlisten = [::1]:x",
        r#"
        app.conf:1:5: expected `=` after `user`, found `:`
            user: "x"
                ^
            hint: a key is written user = value
        app.conf:2:6: expected `=` after `port`, found 80
            port 80
                 ^^
            hint: a key is written port = value
        app.conf:3:1: unexpected character `;`
            ; note
            ^
            hint: a comment begins with `#`
        app.conf:4:1: the name of the section is not closed: `[my`
            [my section]
            ^^^
            hint: a section is written [name], and the name is one word
        app.conf:6:1: a section needs a name between the brackets
            []
            ^
        app.conf:7:12: expected `,` or `]` in the list, found 2
            ports = [1 2]
                       ^
            hint: the elements of a list are separated by commas
        app.conf:8:9: unexpected character `'`
            level = 'x'
                    ^^^
            hint: a string is written "like this"
        app.conf:9:1: the name of the section is not closed: `[web`
            [web
            ^^^^
            hint: a section is written [name], and the name is one word
        app.conf:10:8: this is read as a regular expression, which is not closed
            root = /var/www
                   ^^^^^^^^
            hint: text such as a path has to be in quotes, "/like/this"; a slash within a regular expression is written \/
        app.conf:11:10: `[::1]:x` is no value: an IPv6 address with a port is written [::1]:80
            listen = [::1]:x
                     ^^^^^^^
        "#,
    );
}

#[test]
fn a_section_after_a_missing_value() {
    assert_report(
        "user = \"x\"\nport =\n[web]\nroot = \"/\"\n",
        r#"
        app.conf:2:1: a value is missing for `port`
            port =
            ^^^^
        "#,
    );
}

#[test]
fn a_section_after_a_missing_list() {
    let spec = Spec::new()
        .key(key("hosts").default(default::keyword_list([])).check(keyword_list()))
        .section("web", [key("root")]);
    let errors =
        Config::parse("app.conf", "hosts =\n[web]\nroot = 5", &spec).expect_err("ambiguous");
    let expected = "app.conf:2:1: the section that begins here is read as the value of `hosts`
    [web]
    ^^^^^
    hint: set a value before it; a list of one word follows `hosts =` on its line";
    assert_eq!(errors.to_string(), expected);
    for text in ["hosts = [web] [web] root = 5", "hosts =\n[other]\n[web] root = 5"] {
        assert!(Config::parse("app.conf", text, &spec).is_ok(), "{text}");
    }
}

#[test]
fn columns_count_characters_and_long_lines_are_cut() {
    let text = format!("user = \"{}\" port = 0 # {}{REST}", "\u{e9}".repeat(100), "x".repeat(1000));
    let expected = format!(
        "app.conf:1:118: `port`: expected an integer from 1 to 65535, found 0\n    \u{2026}{}\" port = \
         0 # {}\u{2026}\n{}^",
        "\u{e9}".repeat(31),
        "x".repeat(56),
        " ".repeat(45)
    );
    let errors = Config::parse("app.conf", text, &spec()).expect_err("a bad file");
    assert_eq!(errors.to_string(), expected);
    let long = format!("user = {}{REST}", "9".repeat(100_000));
    let errors = Config::parse("app.conf", long, &spec()).expect_err("a bad file");
    assert!(errors.to_string().len() < 1000, "{errors}");
}

#[test]
fn lines_behind_values_of_several_lines() {
    assert_report(
        "user = \"a\nb\"\nnames = /x\n  y/\nports = [\n1\n]\r\nport = 0\n[web]\nroot = \"/\"",
        r#"
        app.conf:8:8: `port`: expected an integer from 1 to 65535, found 0
            port = 0
                   ^
        "#,
    );
}
