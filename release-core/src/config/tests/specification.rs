//! Specifications: validations of values, defaults, and mistakes of the program.

use std::time::Duration;

use super::{messages, value};
use crate::config::validation::{self as is, Validation};
use crate::config::{Config, Spec, Value, default, key};

/// Checks that the validation accepts the first values and no others.
fn only(validation: &Validation, good: &[&str], bad: &[&str]) {
    for (accepted, texts) in [(true, good), (false, bad)] {
        for text in texts {
            let value = value(text).expect("a value");
            assert_eq!(validation.accepts(&value), accepted, "{validation:?} {text}");
        }
    }
}

#[test]
fn kinds() {
    only(&is::bool(), &["true", "false"], &["yes", "1", "\"true\"", "[true]"]);
    only(&is::int(), &["0", "-5"], &["0.5", "\"0\"", "5s", "1B"]);
    only(&is::float(), &["0.5", "-1e3", "5"], &["\"0.5\"", "5s", "nan"]);
    only(&is::string(), &["\"\"", "\"\\255\""], &["a", "5", "/a/"]);
    only(&is::utf8(), &["\"\"", "\"\\195\\169\""], &["\"\\255\"", "a"]);
    only(&is::regexp(), &["/a/"], &["\"a\"", "a"]);
    only(&is::duration(), &["5s", "0ms"], &["5", "5B", "\"5s\""]);
    only(&is::size(), &["5B", "1KiB"], &["5", "5s", "\"5B\""]);
    only(&is::address(), &["a:1", "[::]:1", "unix:/x"], &["a", "\"a:1\""]);
    only(&is::keyword("a"), &["a"], &["b", "\"a\"", "true"]);
    only(&is::keywords(["a", "b"]), &["a", "b"], &["c", "A"]);
}

#[test]
fn lists() {
    only(&is::bool_list(), &["[]", "[true]"], &["true", "[1]"]);
    only(&is::int_list(), &["[]", "[1, -2]"], &["1", "[1.0]", "[[1]]"]);
    only(&is::float_list(), &["[]", "[1.5]", "[1, 2]"], &["1.5", "[\"1\"]"]);
    only(&is::string_list(), &["[]", "[\"a\"]"], &["\"a\"", "[a]"]);
    only(&is::keyword_list(), &["[]", "[a, b]"], &["a", "[\"a\"]"]);
    only(&is::list_of(is::int_less_than(3)), &["[]", "[1, 2]"], &["1", "[1, 3]", "[a]"]);
    only(&is::list_of(is::list_of(is::int())), &["[]", "[[1], []]"], &["[1]", "[[a]]"]);
}

#[test]
fn numbers() {
    only(&is::int_in_range(-1..=2), &["-1", "2"], &["-2", "3", "1.0", "1s"]);
    only(&is::int_greater_than(5), &["6"], &["5", "4", "6.5"]);
    only(&is::int_less_than(5), &["4", "-9"], &["5", "6", "4.5"]);
    only(&is::int_in([1, 3]), &["1", "3"], &["2", "1.0"]);
    only(&is::float_in_range(0.0..=1.0), &["0", "0.5", "1", "1.0", "-0.0"], &["1.1", "-0.1", "2"]);
    only(&is::float_greater_than(0.5), &["0.6", "1"], &["0.5", "0"]);
    only(&is::float_less_than(0.5), &["0.4", "0"], &["0.5", "1"]);
    let (nan, numbers) = (f64::NAN, ["0.5", "1", "1e308", "-1e308"]);
    for never in
        [is::float_in_range(nan..=1.0), is::float_greater_than(nan), is::float_less_than(nan)]
    {
        only(&never, &[], &numbers);
    }
    let second = Duration::from_secs(1);
    only(
        &is::duration_in_range(second..=2 * second),
        &["1s", "1500ms", "2s"],
        &["0.9s", "1m", "1"],
    );
    only(&is::size_in_range(1024..=4096), &["1KiB", "4096B"], &["1KB", "1MiB", "2000"]);
}

#[test]
fn text() {
    only(&is::string_in(["a", "b"]), &["\"a\"", "\"b\""], &["\"c\"", "a"]);
    only(&is::string_matching("^a+$"), &["\"aa\""], &["\"ab\"", "\"\\255\"", "a"]);
    only(&is::string_matching("b"), &["\"abc\""], &["\"ac\""]);
    only(&is::string_matching("("), &[], &["\"(\""]);
}

#[test]
fn compositions() {
    let even =
        Validation::new("an even number", |value| value.as_int().is_some_and(|n| n % 2 == 0));
    only(&even, &["2"], &["1", "2.0"]);
    only(&is::int_greater_than(1).and(is::int_less_than(4)), &["2", "3"], &["1", "4", "a"]);
    only(&is::int().or(is::keyword("auto")), &["1", "auto"], &["1.5", "other", "\"auto\""]);
    let spec = Spec::new().key(key("n").check(is::int().or(is::keyword("auto"))));
    let errors = Config::parse("x", "n = 1.5", &spec).unwrap_err();
    assert_eq!(messages(&errors), "`n`: expected an integer or the keyword auto, found 1.5");
}

#[test]
fn each_wrong_element_is_reported_where_it_is() {
    let spec = Spec::new().key(key("n").check(is::list_of(is::list_of(is::int_in_range(0..=9)))));
    let errors = Config::parse("x", "n = [[1, 10],\n [20, 2], [3]]", &spec).unwrap_err();
    let places: Vec<_> = errors.problems().iter().map(|p| (p.line(), p.column())).collect();
    assert_eq!(places, [(Some(1), Some(10)), (Some(2), Some(3))]);
}

#[test]
fn helpers_make_defaults() {
    for (default, text) in [
        (default::keyword("info"), "info"),
        (default::bool(true), "true"),
        (default::int(-5), "-5"),
        (default::float(0.5), "0.5"),
        (default::string("a b"), "\"a b\""),
        (default::regexp("^a$"), "/^a$/"),
        (default::duration(Duration::from_secs(5)), "5s"),
        (default::size(1024), "1KiB"),
        (default::address("[::1]:80"), "[::1]:80"),
        (default::keyword_list(["a", "b"]), "[a, b]"),
        (default::bool_list([true, false]), "[true, false]"),
        (default::int_list([1, 2]), "[1, 2]"),
        (default::float_list([1.0, 2.5]), "[1.0, 2.5]"),
        (default::string_list(["a"]), "[\"a\"]"),
    ] {
        assert_eq!(default.to_string(), text);
        assert_eq!(value(text), Ok(default));
    }
}

#[test]
fn defaults_have_to_be_valid_too() {
    let spec = Spec::new().key(key("dir").default("/absent").check(is::existing_directory()));
    let errors = Config::parse("x", "", &spec).unwrap_err();
    let expected = "the default of `dir`: expected an existing directory, found the string \
                    \"/absent\": No such file or directory";
    assert_eq!(messages(&errors), expected);
    assert_eq!(errors.problems()[0].hint(), Some("set dir in the file"));
    assert!(Config::parse("x", "dir = \"/\"", &spec).is_ok());
}

#[test]
fn mistakes_of_the_program_are_reported() {
    for (spec, mistake) in [
        (Spec::new().key(key("a b").optional()), "`a b` cannot be the name of a key"),
        (Spec::new().key(key("").optional()), "`` cannot be the name of a key"),
        (Spec::new().section("5", []), "`5` cannot be the name of a section"),
        (
            Spec::new().key(key("a").optional()).key(key("a").optional()),
            "key `a` is specified twice",
        ),
        (Spec::new().section("s", []).section("s", []), "section `s` is specified twice"),
        (Spec::new().key(key("a").default(f64::NAN)), "default of `a` cannot be written: NaN"),
        (Spec::new().key(key("a").default(default::keyword("b c"))), "cannot be written"),
        (Spec::new().key(key("a").default(default::keyword("b\u{202e}"))), "cannot be written"),
        (Spec::new().key(key("a").default(default::keyword("true"))), "cannot be written"),
        (Spec::new().key(key("a").default(default::keyword("a:1"))), "cannot be written"),
        (
            Spec::new().key(key("a").default(Value::List(vec![1.into(), true.into()]))),
            "cannot be written",
        ),
    ] {
        let errors = Config::parse("x", "", &spec).expect_err(mistake);
        assert!(messages(&errors).contains(mistake), "{errors}");
    }
}
