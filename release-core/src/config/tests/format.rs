//! The format: the meaning of each value, and texts that are not values.

use std::time::Duration;

use super::value;
use crate::config::validation::{self, float_list, int, int_in_range, int_list, list_of, mode};
use crate::config::{Config, Endpoint, Kind, Regexp, Spec, Value, default, key};

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn keyword(word: &str) -> Value {
    Value::Keyword(word.to_owned())
}

fn regexp(pattern: &str) -> Value {
    Regexp::new(pattern).expect("a regular expression").into()
}

#[test]
fn numbers() {
    for (text, expected) in [
        ("0", 0),
        ("-0", 0),
        ("1_000_000", 1_000_000),
        ("-42", -42),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
    ] {
        assert_eq!(value(text), Ok(Value::Int(expected)), "{text}");
    }
    for (text, expected) in [
        ("0.5", 0.5),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1e3", 1000.0),
        ("1.5E-3", 0.0015),
        ("2e+2", 200.0),
        ("1_0.2_5", 10.25),
        ("1e-999", 0.0),
    ] {
        assert_eq!(value(text), Ok(Value::Float(expected)), "{text}");
    }
}

#[test]
fn no_numbers() {
    for (text, reason) in [
        ("9223372036854775808", "from -9223372036854775808 to 9223372036854775807"),
        ("-9223372036854775809", "from -9223372036854775808 to 9223372036854775807"),
        ("1e999", "from -1.7976931348623157e308 to 1.7976931348623157e308"),
        ("5.", "a digit has to follow the point"),
        ("1__0", "an underscore in a number stands between two digits"),
        ("1_", "an underscore"),
        ("0x1F", "decimal"),
        ("0o17", "decimal"),
        ("007", "an integer has no leading zero, as in 7; a file mode"),
        ("00", "no leading zero, as in 0"),
        ("-0640", "no leading zero, as in 640"),
        ("0800", "no leading zero, as in 800"),
        ("0_640", "no leading zero, as in 640"),
        ("0640", "an integer has no leading zero, found 0640"),
        ("[0640]", "an integer has no leading zero, found 0640"),
        ("--1", "neither a number"),
        ("-", "neither a number"),
        (".", "a digit has to follow the point"),
        ("1.2.3", "neither a number"),
        ("2024-01-01", "neither a number"),
        ("5e", "`e` is no unit"),
        ("+5", "unexpected character `+`"),
    ] {
        let message = value(text).expect_err(text);
        assert!(message.contains(reason), "{text}: {message}");
    }
}

#[test]
fn durations_and_sizes() {
    let duration = |text: &str| value(text).map(|value| value.as_duration().expect("a duration"));
    for (text, milliseconds) in [
        ("250ms", 250),
        ("1.5s", 1500),
        ("2m", 120_000),
        ("1h", 3_600_000),
        ("0.5d", 43_200_000),
        ("0s", 0),
        ("1_000s", 1_000_000),
    ] {
        assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
    }
    assert_eq!(duration("0.000000001s"), Ok(Duration::from_nanos(1)));
    assert_eq!(duration("18446744073709551615s"), Ok(Duration::from_secs(u64::MAX)));
    for (text, bytes) in [
        ("0B", 0),
        ("64KiB", 65536),
        ("64KB", 64000),
        ("64kB", 64000),
        ("1.5MiB", 1_572_864),
        ("2GB", 2_000_000_000),
        ("18446744073709551615B", u64::MAX),
    ] {
        assert_eq!(value(text), Ok(Value::Size(bytes)), "{text}");
    }
    for (text, reason) in [
        ("-5s", "not negative"),
        ("1e3s", "without an exponent"),
        ("0.0000000001s", "not finer than a nanosecond"),
        ("18446744073709551616s", "at most 18446744073709551615s"),
        ("99999999999999999999999999999999999999999d", "at most 18446744073709551615s"),
        ("18446744073709551616B", "at most 18446744073709551615B"),
        ("18446744073709551615KiB", "at most"),
        ("0.5B", "whole number of bytes"),
        ("64K", "KiB"),
        ("1h30m", "neither a number"),
        ("5sec", "`sec` is no unit"),
    ] {
        let message = value(text).expect_err(text);
        assert!(message.contains(reason), "{text}: {message}");
    }
}

#[test]
fn addresses() {
    for text in ["127.0.0.1:80", "[::1]:80", "[fe80::1%3]:80", "0.0.0.0:0"] {
        let address = Endpoint::Inet(text.parse().expect("an address"));
        assert_eq!(value(text), Ok(Value::Address(address)), "{text}");
    }
    for (text, host) in [("localhost:8080", "localhost"), ("a-b.example:8080", "a-b.example")] {
        assert_eq!(value(text), Ok(Endpoint::Host(host.into(), 8080).into()), "{text}");
    }
    assert_eq!(value("unix:/run/x.sock"), Ok(Endpoint::Unix("/run/x.sock".into()).into()));
    assert_eq!(value("unix:@abstract"), Ok(Endpoint::Unix("@abstract".into()).into()));
    assert_eq!(value("unix:\"/run/a b\""), Ok(Endpoint::Unix("/run/a b".into()).into()));
    for (text, reason) in [
        ("127.0.0.1:65536", "a port is at most 65535"),
        ("localhost:99999", "a port is at most 65535"),
        ("300.0.0.1:80", "four numbers up to 255"),
        ("127.0.0.1", "an address needs a port"),
        ("[::1]:", "[::1]:80"),
        ("[::1]:port", "[::1]:80"),
        ("[::g]:1", "unexpected character `:`"),
        ("unix:", "a path has to follow"),
        ("unix:\"\"", "not empty"),
        (":80", "unexpected character `:`"),
        ("*:80", "unexpected character `*`"),
    ] {
        let message = value(text).expect_err(text);
        assert!(message.contains(reason), "{text}: {message}");
    }
}

#[test]
fn strings() {
    for (text, expected) in [
        (r#""""#, ""),
        (r#""a b # c = [d]""#, "a b # c = [d]"),
        (r#""\n\t\b\r\\\"\'\ ""#, "\n\t\u{8}\r\\\"' "),
        (r#""\065\x41\x7e""#, "AA~"),
        (r#""\195\169 \xc3\xA9 é""#, "é é é"),
        // An unknown escape stays as it is.
        (r#""\d\q\x4g\12""#, r"\d\q\x4g\12"),
        ("\"two\nlines\"", "two\nlines"),
        ("\"CR\r\nLF\"", "CR\r\nLF"),
        (r#""\000""#, "\0"),
    ] {
        assert_eq!(value(text), Ok(string(expected)), "{text}");
    }
    assert_eq!(value(r#""\255\xff""#), Ok(Value::Bytes(vec![255, 255])));
    for (text, reason) in [
        (r#""\256""#, r"\DDD is from \000 to \255"),
        (r#""abc"#, "the string that begins here is not closed"),
        (r#""abc\""#, "the string that begins here is not closed"),
        (r#""a"b""#, "more follows without a blank"),
        (r"'a'", "unexpected character `'`"),
    ] {
        let message = value(text).expect_err(text);
        assert!(message.contains(reason), "{text}: {message}");
    }
}

#[test]
fn regular_expressions() {
    for (text, expected) in [
        ("/^[a-z]+$/", "^[a-z]+$"),
        (r"/a\/b/", "a/b"),
        (r"/\d+\\/", r"\d+\\"),
        ("//", ""),
        (r#"/\"\'\ \.\-/"#, r#"\"\'\ \.\-"#),
        ("/\t/", "\t"),
        ("/[#=,\"]/", "[#=,\"]"),
        ("/^(foo\n      |bar)$/", "^(foo|bar)$"),
        ("/a\r\n\t b\n\n c/", "abc"),
    ] {
        assert_eq!(value(text), Ok(regexp(expected)), "{text}");
    }
    let grouped = value("/^(foo|bar)(,baz)?$/").expect("a value");
    let grouped = grouped.as_regexp().expect("a regular expression").regex();
    assert!(grouped.is_match("foo,baz") && !grouped.is_match("(foo|bar)"));
    for (text, reason) in [
        ("/(?=a)/", "look-around"),
        ("/(?<!a)b/", "look-around"),
        (r"/(a)\1/", "back-references"),
        ("/(/", "unclosed group"),
        ("/[z-a]/", "invalid character class range"),
        ("/(a{1000}){1000}/", "too large"),
        ("/\u{1b}[2J/", "a character that cannot be seen has to be written \\x{1b}"),
        ("/abc", "not closed"),
        ("/etc/passwd", "read as a regular expression"),
    ] {
        let message = value(text).expect_err(text);
        assert!(message.contains(reason), "{text}: {message}");
    }
    let deep = format!("/{}{}/", "(".repeat(100_000), ")".repeat(100_000));
    assert!(value(&deep).is_err());
}

#[test]
fn words() {
    for word in [
        "debug",
        "x",
        "a-b_c.d9",
        "True",
        "yes",
        "nan",
        "inf",
        "http://host/a",
        "caf\u{e9}",
        "host:",
    ] {
        assert_eq!(value(word), Ok(keyword(word)), "{word}");
    }
    assert_eq!(value("true"), Ok(Value::Bool(true)));
    assert_eq!(value("false"), Ok(Value::Bool(false)));
}

#[test]
fn lists() {
    let list = |items: Vec<Value>| Ok(Value::List(items));
    assert_eq!(value("[]"), list(vec![]));
    assert_eq!(value("[ \n # nothing\n ]"), list(vec![]));
    assert_eq!(value("[true, false]"), list(vec![true.into(), false.into()]));
    assert_eq!(value("[foo,bar]"), list(vec![keyword("foo"), keyword("bar")]));
    assert_eq!(value("[1\n,\n2 # two\n,3]"), list(vec![1.into(), 2.into(), 3.into()]));
    assert_eq!(value("[/a/, /b/]"), list(vec![regexp("a"), regexp("b")]));
    assert_eq!(value("[1s, 2m]").map(|value| value.kind()), Ok(Kind::List));
    assert_eq!(value("[0.0.0.0:80, [::]:80, web:80]").map(|value| value.kind()), Ok(Kind::List));
    assert_eq!(value("[1, 2.5]"), list(vec![1.into(), 2.5.into()]));
    assert_eq!(value("[[1], []]"), list(vec![vec![1].into(), Value::List(vec![])]));
    for (text, reason) in [
        ("[1, \"2\"]", "expected an integer as before it, found the string \"2\""),
        ("[1, 2.5, x]", "expected an integer as before it, found 2.5"),
        ("[1, [2, x]]", "expected an integer as before it, found the list"),
        ("[[1, x]]", "expected an integer as before it, found the keyword x"),
        ("[1, 2, true, 3]", "expected an integer as before it, found true"),
        ("[1, 2,]", "a value is missing after the comma"),
        ("[,]", "a value is missing for `key`, found `,`"),
        ("[1 2]", "expected `,` or `]` in the list, found 2"),
        ("[1, 2", "the list of `key` that begins here is not closed"),
        ("[1,", "the list of `key` that begins here is not closed"),
        ("[", "the list of `key` that begins here is not closed"),
        ("[[1, 2]", "the list of `key` that begins here is not closed"),
    ] {
        let message = value(text).expect_err(text);
        assert!(message.contains(reason), "{text}: {message}");
    }
}

#[test]
fn lists_of_mixed_kinds_if_a_validation_accepts_them() {
    let spec = Spec::new()
        .key(key("cores").check(list_of(int().or(validation::keyword("auto")))))
        .key(key("rates").check(float_list()))
        .key(key("ports").optional().check(int_list()));
    let text = "cores = [1, auto, 3] rates = [1, 2.5]";
    let config = Config::parse("x", text, &spec).expect("a good file");
    let cores = Value::List(vec![1.into(), keyword("auto"), 3.into()]);
    assert_eq!(config.value("cores"), Some(&cores));
    assert_eq!(config.get("rates"), Ok(vec![1.0, 2.5]));
    let again = Config::parse("again", config.dump(), &spec).expect("a dump is a good file");
    assert_eq!(again.value("cores"), Some(&cores));

    let text = "cores = [1, none] rates = [1, x] ports = [1, x]";
    let errors = Config::parse("x", text, &spec).expect_err("wrong elements");
    let columns: Vec<_> = errors.problems().iter().map(|problem| problem.column()).collect();
    assert_eq!(columns, [Some(13), Some(31), Some(46)], "{errors}");
}

#[test]
fn file_modes() {
    let spec = Spec::new()
        .key(key("mode").default(default::mode(0o640)).check(mode()))
        .key(key("other").default(default::mode(0o1777)));
    let parse = |text| Config::parse("x", text, &spec);
    for (text, bits) in
        [("", 0o640), ("mode = 0755", 0o755), ("mode = 01777", 0o1777), ("mode = 0000", 0)]
    {
        let config = parse(text).expect(text);
        assert_eq!(config.get("mode"), Ok(bits), "{text}");
        let again = Config::parse("again", config.dump(), &spec).expect("a dump is a good file");
        assert_eq!((again.get("mode"), again.get("other")), (Ok(bits), Ok(0o1777)));
    }
    assert_eq!(parse("other = 0600").expect("its default is a mode").get("other"), Ok(0o600));
    for (text, hint) in [
        ("mode = 640", Some("a file mode is octal, and begins with a zero: 0640")),
        ("mode = 989", None),
        ("mode = \"0640\"", Some("without the quotes: 0640")),
    ] {
        let errors = parse(text).expect_err(text);
        assert!(errors.to_string().contains("expected a file mode such as 0640"), "{errors}");
        assert_eq!(errors.problems()[0].hint(), hint);
    }
    let spec = Spec::new().key(key("port").check(int_in_range(1..=1000)));
    let errors = Config::parse("x", "port = 0640", &spec).expect_err("no integer");
    assert_eq!(errors.problems()[0].hint(), Some("an integer has no leading zero: 640"));
}

#[test]
fn lists_are_nested_so_deep_and_no_deeper() {
    let nested = |depth| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    assert!(value(&nested(16)).is_ok());
    assert_eq!(value(&nested(17)), Err("lists are nested more than 16 deep".to_owned()));
}

#[test]
fn layout_does_not_matter() {
    let spec = Spec::new().key(key("a")).key(key("b")).section("s", [key("c"), key("d.e-f_9")]);
    for text in [
        "a = 1\nb = \"x\"\n[s]\nc = y\nd.e-f_9 = /z/\n",
        "a=1 b=\"x\"[s]c=y d.e-f_9=/z/",
        "a\n=\n1\nb\n=\"x\"\n\n[ s ]\nc\t=\ty # comment\nd.e-f_9 = /z/ # last comment without an end",
        "\u{feff}# BOM\r\na = 1\r\nb = \"x\"\r\n[s]\r\nc = y\r\nd.e-f_9 = /z/\r\n",
        "a = 1#glued\nb = \"x\"#glued\n[s]#glued\nc = y#glued\nd.e-f_9 = /z/#glued",
        "[s] c = y d.e-f_9 =/z/ # but the global keys come first\n",
    ] {
        let config = Config::parse("x", text, &spec);
        if text.starts_with("[s]") {
            assert!(config.is_err());
            continue;
        }
        let config = config.expect(text);
        assert_eq!(config.value("a"), Some(&Value::Int(1)), "{text}");
        assert_eq!(config.value("b"), Some(&string("x")), "{text}");
        assert_eq!(config.section("s").value("c"), Some(&keyword("y")), "{text}");
        assert_eq!(config.section("s").value("d.e-f_9"), Some(&regexp("z")), "{text}");
    }
}
