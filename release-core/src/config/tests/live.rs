//! Reload, check mode and dump.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::ErrorKind;
use crate::config::validation::int_in_range;
use crate::config::{Config, Endpoint, Live, Regexp, Spec, Value, check, default, key};

fn spec() -> Spec {
    Spec::new()
        .key(key("port").default(80).check(int_in_range(1..=65535)))
        .key(key("proxy").optional())
        .section("web", [key("root").default("/srv"), key("names").default(vec!["a"])])
}

fn changes(live: &Live) -> Vec<String> {
    live.reload().expect("a good file").iter().map(ToString::to_string).collect()
}

#[test]
fn a_reload_tells_what_changed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |text: &str| std::fs::write(file.path(), text).unwrap();
    write("");
    let live = Live::load(file.path(), spec()).expect("a good file");
    assert_eq!(changes(&live), [""; 0]);
    write("# the default in other words\nport = 8_0\n");
    assert_eq!(changes(&live), [""; 0]);
    write("proxy = a:1 port = 81 [web] names = [\"a\", \"b\"]");
    assert_eq!(changes(&live), ["port", "proxy", "[web] names"]);
    write("port = 81 [web] root = \"/srv\"");
    assert_eq!(changes(&live), ["proxy", "[web] names"]);
}

#[test]
fn a_reload_tells_old_and_new_values() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |text: &str| std::fs::write(file.path(), text).unwrap();
    write("password = \"hunter1\"");
    let spec = spec().key(key("password").secret());
    let live = Live::load(file.path(), spec).expect("a good file");
    write("password = \"hunter2\" port = 81 proxy = x");
    let changes = live.reload().expect("a good file");
    let shown: Vec<_> = changes.iter().map(|change| format!("{change:#}")).collect();
    assert_eq!(shown, ["port = 81, before: 80", "proxy = x, before: not set", "password"]);
    assert!(!format!("{changes:?}{live:?}").contains("hunter"), "{changes:?}");
    assert_eq!((&changes[2].old, &changes[2].new, changes[2].is_secret), (&None, &None, true));
    write("password = \"hunter2\" [web] root = \"/x\"");
    let changes = live.reload().expect("a good file");
    let shown: Vec<_> = changes.iter().map(|change| format!("{change:#}")).collect();
    let expected = [
        "port = 80, before: 81",
        "proxy is not set, before: x",
        "[web] root = \"/x\", before: \"/srv\"",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn a_wrong_file_leaves_the_old_configuration_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.conf");
    std::fs::write(&path, "port = 81").unwrap();
    let live = Live::load(&path, spec()).expect("a good file");
    let held = live.current();
    for wrong in ["port = 0", "port = ", "prot = 82", "port = \"82\"", "\0"] {
        std::fs::write(&path, wrong).unwrap();
        assert!(live.reload().is_err(), "{wrong}");
        assert_eq!(live.current().get("port"), Ok(81));
    }
    std::fs::remove_file(&path).unwrap();
    assert!(live.reload().is_err());
    std::fs::write(&path, "port = 82").unwrap();
    assert_eq!(changes(&live), ["port"]);
    assert_eq!((held.get("port"), live.current().get("port")), (Ok(81), Ok(82)));
}

#[test]
fn a_reload_has_to_fit_the_type() {
    #[derive(serde::Deserialize)]
    struct Settings {
        #[serde(rename = "port")]
        _port: u8,
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let live = Live::load(file.path(), spec().fits::<Settings>()).expect("a good file");
    std::fs::write(file.path(), "port = 256").unwrap();
    let errors = live.reload().expect_err("too large for the type");
    assert_eq!((errors.problems()[0].line(), errors.problems()[0].column()), (Some(1), Some(8)));
    assert_eq!(live.current().get("port"), Ok(80));
}

#[test]
fn readers_see_one_configuration_or_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.conf");
    let write = |port: u16| {
        let new = directory.path().join("new");
        std::fs::write(&new, format!("port = {port} [web] root = \"{port}\"")).unwrap();
        std::fs::rename(new, &path).unwrap();
    };
    write(1);
    let live = Live::load(&path, spec()).expect("a good file");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let config = live.current();
                let port: u16 = config.get("port").unwrap();
                assert_eq!(config.section("web").get("root"), Ok(port.to_string()));
            }
        });
        for port in 2..50 {
            write(port);
            assert_eq!(changes(&live), ["port", "[web] root"]);
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn check_mode() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let exit = check(file.path(), &spec());
    assert_eq!((exit.code(), exit.error().is_none()), (0, true));
    std::fs::write(file.path(), "port = 0\nprot = 1\n").unwrap();
    let exit = check(file.path(), &spec());
    let error = exit.error().expect("a reason");
    assert_eq!((exit.code(), error.kind()), (1, ErrorKind::Configuration));
    let report = error.report();
    assert!(report.starts_with("2 errors in the configuration:\n/"), "{report}");
    assert!(report.contains(":1:8: ") && report.contains(":2:1: "), "{report}");
}

#[test]
fn a_dump_shows_where_values_come_from() {
    let spec = Spec::new()
        .key(key("text"))
        .key(key("word").default(default::keyword("info")))
        .key(key("none").optional())
        .section("empty", [])
        .section(
            "kinds",
            [
                key("float").default(1.0),
                key("regexp").default(Value::from(Regexp::new("a/b|\\/").unwrap())),
                key("duration").default(Duration::from_nanos(1_500_000_001)),
                key("minutes").default(Duration::from_secs(120)),
                key("size").default(default::size(65536)),
                key("odd").default(default::size(1000)),
                key("address").default(Value::from(Endpoint::Unix("/run/a b".into()))),
                key("bytes").default(Value::Bytes(b"caf\xe9".to_vec())),
                key("list").default(vec![vec![1, 2], vec![3]]),
            ],
        );
    let config = Config::parse("a\nb.conf", "\n\ntext = \"\\\"\t\\000\u{e9}\u{202e}\"", &spec);
    let dump = config.expect("a good file").dump();
    let expected = r#"text = "\"\t\x00é\xe2\x80\xae"  # a\u{a}b.conf:3
word = info  # default
# none is not set

[empty]

[kinds]
float = 1.0  # default
regexp = /a\/b|\//  # default
duration = 1.500000001s  # default
minutes = 2m  # default
size = 64KiB  # default
odd = 1000B  # default
address = unix:"/run/a b"  # default
bytes = "caf\xe9"  # default
list = [[1, 2], [3]]  # default
"#;
    assert_eq!(dump, expected);
    let again = Config::parse("again", &dump, &spec).expect("a dump is a good file");
    assert_eq!(again.section("kinds").value("bytes"), Some(&Value::Bytes(b"caf\xe9".to_vec())));
}
