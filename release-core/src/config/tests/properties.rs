//! Properties of arbitrary texts and values.

use std::time::Duration;

use proptest::prelude::*;

use crate::config::{Config, Endpoint, Regexp, Spec, Value, fuzz, key};

fn check(text: &[u8]) {
    fuzz::parse(text);
    fuzz::dump(text);
}

/// Pieces of which something like a configuration file can be made.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("a"),
        Just("s"),
        Just("b"),
        Just(" "),
        Just("\n"),
        Just("\r\n"),
        Just("="),
        Just("["),
        Just("]"),
        Just(","),
        Just("\""),
        Just("/"),
        Just("\\"),
        Just("#"),
        Just("1"),
        Just("-"),
        Just("."),
        Just(":"),
        Just("unix:"),
        Just("5s"),
        Just("1KiB"),
        Just("true"),
        Just("\u{e9}"),
        Just("[s]"),
        Just("[s \"l\"]"),
        Just("[b]"),
        Just("${A}"),
        Just("a = "),
        Just("\"x\""),
        Just("/x/"),
        Just("[1, 2]"),
        Just("\\x41"),
        Just("\\255"),
        Just("[::1]:80"),
        Just("\u{feff}"),
        Just("\u{202e}"),
        Just("("),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        prop::num::f64::NORMAL.prop_map(Value::Float),
        any::<String>().prop_map(Value::String),
        proptest::collection::vec(any::<u8>(), 0..8)
            .prop_filter("other bytes are text", |bytes| std::str::from_utf8(bytes).is_err())
            .prop_map(Value::Bytes),
        "[a-z(|)/\\\\.]{0,8}".prop_filter_map("no regular expression", |pattern| {
            Regexp::new(&pattern).ok().map(Value::Regexp)
        }),
        "[a-su-z][a-z_.]{0,8}"
            .prop_filter("a boolean", |word| word != "false")
            .prop_map(Value::Keyword),
        (any::<u64>(), 0..1_000_000_000_u32)
            .prop_map(|(seconds, rest)| Value::Duration(Duration::new(seconds, rest))),
        any::<u64>().prop_map(Value::Size),
        any::<(u32, u16)>().prop_map(|(ip, port)| {
            Value::Address(Endpoint::Inet((std::net::Ipv4Addr::from(ip), port).into()))
        }),
        any::<(u128, u16)>().prop_map(|(ip, port)| {
            Value::Address(Endpoint::Inet((std::net::Ipv6Addr::from(ip), port).into()))
        }),
        any::<String>()
            .prop_filter("a path", |path| !path.is_empty())
            .prop_map(|path| Value::Address(Endpoint::Unix(path))),
    ];
    leaf.prop_flat_map(|leaf| {
        let list = Value::List(vec![leaf.clone(), leaf.clone()]);
        prop_oneof![Just(leaf), Just(Value::List(vec![list.clone(), list.clone()])), Just(list)]
    })
}

proptest! {
    #![proptest_config(crate::cases::cases(256))]

    #[test]
    fn any_bytes(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&text);
    }

    #[test]
    fn any_text(text in ".*") {
        check(text.as_bytes());
    }

    #[test]
    fn nearly_a_file(text in pieces()) {
        check(text.as_bytes());
    }

    #[test]
    fn a_dump_gives_the_same_values(values in proptest::collection::vec(value(), 1..5)) {
        let mut spec = Spec::new();
        for (index, value) in values.iter().enumerate() {
            spec = spec.key(key(format!("key-{index}")).default(value.clone()));
        }
        let dump = Config::parse("x", "", &spec).expect("defaults that can be written").dump();
        let again = Config::parse("x", &dump, &spec).expect("a dump is a good file");
        for (index, value) in values.iter().enumerate() {
            prop_assert_eq!(again.value(&format!("key-{index}")), Some(value), "{}", dump);
        }
    }
}
