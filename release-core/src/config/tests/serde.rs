//! Configurations in the user's types.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::messages;
use crate::config::{Config, Endpoint, Regexp, Spec, default, key};

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Settings {
    user: String,
    log_level: Level,
    ratio: f32,
    proxy: Option<Endpoint>,
    web: Web,
    limits: BTreeMap<String, u64>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Debug,
    Info,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Web {
    root: PathBuf,
    listen: Vec<SocketAddr>,
    timeout: Duration,
    retry: Option<Duration>,
    names: Regexp,
    buffer: Bytes,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Bytes(u32);

fn spec() -> Spec {
    Spec::new()
        .key(key("user"))
        .key(key("log-level").default(default::keyword("info")))
        .key(key("ratio").default(1))
        .key(key("proxy").optional())
        .section(
            "web",
            [
                key("root").default("/srv"),
                key("listen").default(vec![Endpoint::Inet(([127, 0, 0, 1], 80).into())]),
                key("timeout").default(Duration::from_millis(1500)),
                key("retry").optional(),
                key("names").default(default::regexp("^a$")),
                key("buffer").default(default::size(65536)),
            ],
        )
        .section("limits", [key("files").default(10), key("memory").default(default::size(1))])
}

fn config(text: &str) -> Config {
    Config::parse("x", text, &spec()).expect("a good file")
}

#[test]
fn the_whole_file() {
    let text = "user = \"x\" ratio = 0.5 proxy = db:1 [web] retry = 2m listen = [[::1]:8080]";
    let settings: Settings = config(text).deserialize().expect("it fits");
    let expected = Settings {
        user: "x".into(),
        log_level: Level::Info,
        ratio: 0.5,
        proxy: Some(Endpoint::Host("db".into(), 1)),
        web: Web {
            root: "/srv".into(),
            listen: vec!["[::1]:8080".parse().unwrap()],
            timeout: Duration::from_millis(1500),
            retry: Some(Duration::from_secs(120)),
            names: Regexp::new("^a$").unwrap(),
            buffer: Bytes(65536),
        },
        limits: [("files".to_owned(), 10), ("memory".to_owned(), 1)].into(),
    };
    assert_eq!(settings, expected);
}

#[test]
fn what_does_not_fit_is_reported_at_its_place() {
    for (text, message, line, column) in [
        ("user = 5", "`user`: invalid type: integer `5`, expected a string", 1, 8),
        ("user = \"\"\nlog-level = loud", "`log-level`: unknown variant `loud`", 2, 13),
        ("user = \"\" log-level = 5", "`log-level`: invalid type: integer `5`", 1, 23),
        ("user = \"\" [web] timeout = 5", "`timeout`: invalid type: integer `5`", 1, 27),
        ("user = \"\" [web] listen = [a:1,\n  db:5432]", "`listen`: invalid socket address", 1, 27),
        ("user = \"\" [web] names = \"(\"", "`names`: unclosed group", 1, 25),
        ("user = \"\" [limits] files = -1", "`files`: invalid value: integer `-1`", 1, 28),
        ("user = \"\\255\"", "`user`: invalid value: byte array, expected a string", 1, 8),
        ("user = \"\" [web] buffer = 4GiB", "`buffer`: invalid value", 1, 26),
    ] {
        let errors = config(text).deserialize::<Settings>().expect_err(text);
        let problem = &errors.problems()[0];
        assert!(problem.message().starts_with(message), "{errors}");
        assert_eq!((problem.line(), problem.column()), (Some(line), Some(column)), "{errors}");
    }
}

#[test]
fn single_values() {
    let config = config("user = \"x\"");
    assert_eq!(config.get("ratio"), Ok(1_u8));
    assert_eq!(config.get("ratio"), Ok(1.0));
    assert_eq!(config.get::<Option<String>>("proxy"), Ok(None));
    assert_eq!(config.section("web").get("timeout"), Ok(Duration::from_millis(1500)));
    assert_eq!(config.section("web").get("timeout"), Ok("1500ms".to_owned()));
    assert_eq!(
        config.section("limits").deserialize(),
        Ok(BTreeMap::from([("files", 10), ("memory", 1)]))
    );
    let unset = config.get::<String>("proxy").expect_err("it is not set");
    assert_eq!(messages(&unset), "`proxy`: it is not set, and has no default");
    let unknown = config.section("web").get::<u8>("port").expect_err("it is not specified");
    assert!(messages(&unknown).contains("asks for the key `port` in section `web`"));
    assert!(config.section("none").get::<u8>("port").is_err());
    assert!(config.value("port").is_none() && config.section("none").value("port").is_none());
}
