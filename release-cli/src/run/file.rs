//! The configuration file of `release run`: the options by the same names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use release_core::config::validation::{Validation, bool, list_of};
use release_core::config::{Config, Key, Spec, Value, key};
use release_core::{Error, ErrorKind};

use super::Options;
use super::program::{ONLY, Program};
use super::sandbox::{Restrictions, Strictness};
use super::values::{self, Listen, OutputKind};
use crate::variables::{Pair, Variables};

/// The programs of `release run` by their names.
pub(super) type Programs = BTreeMap<String, Program>;

/// Kind and check of a value.
type Text = (&'static str, &'static str, fn(&str) -> Result<(), String>);

/// Options with one value, as on the command line.
const VALUES: [Text; 28] = [
    ("workers", "`auto` or a number of workers", |text| values::workers(text).map(drop)),
    ("max-workers", "a number from 1 to 10000", |text| values::count(text).map(drop)),
    ("user", "a login name", |_| Ok(())),
    ("group", "the name of a group", |_| Ok(())),
    ("ready", "notify, ack, fd, \"fd:N\" or a time", |text| values::readiness(text).map(drop)),
    ("start-timeout", "a time longer than 0", |text| values::some_time(text).map(drop)),
    ("watchdog", "a time longer than 0", |text| values::some_time(text).map(drop)),
    ("stop-signal", "the name of a signal", |text| values::stop_signal(text).map(drop)),
    ("stop-timeout", "a time", |text| values::duration(text).map(drop)),
    ("surge", "a number from 1 to 10000", |text| values::count(text).map(drop)),
    ("canary", "a time", |text| values::duration(text).map(drop)),
    ("drain", "a number from 1 to 10000", |text| values::count(text).map(drop)),
    ("respawn", "always, on-failure or never", |text| values::respawn(text).map(drop)),
    ("max-age", "a time of a second or more", |text| values::age(text).map(drop)),
    ("max-memory", "a size such as 512MiB", |text| values::size(text).map(drop)),
    ("output", "prefixed, raw, json or inherit", |text| text.parse::<OutputKind>().map(drop)),
    ("out", "a path", |_| Ok(())),
    ("err", "a path", |_| Ok(())),
    ("line-limit", "a number of bytes", |text| values::line_limit(text).map(drop)),
    ("log-limit", "a number of lines", |text| values::log_limit(text).map(drop)),
    ("log-level", "a level such as debug, or \"info,TARGET=debug\"", |text| {
        values::log_level(text).map(drop)
    }),
    ("rotate", "a size such as 64MiB", |text| values::size(text).map(drop)),
    ("rotate-keep", "a number from 1 to 10000", |text| values::count(text).map(drop)),
    ("on-event", "the path or the name of a program", |text| {
        values::absolute_program(text).map(drop)
    }),
    ("pid-file", "a path", |_| Ok(())),
    ("control", "a path", |_| Ok(())),
    ("http", "the address of the status page", |text| values::http(text).map(drop)),
    ("sandbox", "strict, basic or none", |text| text.parse::<Strictness>().map(drop)),
];

/// Options that may come several times.
const LISTS: [Text; 10] = [
    ("listen", "the URI of a socket", |text| text.parse::<Listen>().map(drop)),
    ("env", "a variable such as \"NAME=VALUE\" or \"NAME\"", |text| text.parse::<Pair>().map(drop)),
    ("signal", "a signal and its action, such as \"QUIT=stop\"", |text| {
        values::signal(text).map(drop)
    }),
    ("command", "the program or an argument", |_| Ok(())),
    ("read", "an absolute path", path),
    ("write", "an absolute path", path),
    ("execute", "an absolute path", path),
    ("connect", "a TCP port", |text| port(text).map(drop)),
    ("bind", "a TCP port", |text| port(text).map(drop)),
    ("keep-cap", "the name of a capability", |_| Ok(())),
];

/// Directory and environment of workers.
const PLACES: [Text; 2] =
    [("chdir", "an absolute path", path), ("env-file", "an absolute path", path)];

fn path(text: &str) -> Result<(), String> {
    if text.starts_with('/') { Ok(()) } else { Err("it begins with `/`".to_owned()) }
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "it is a number from 0 to 65535".to_owned())
}

/// The section of one of several programs.
const SECTION: &str = "program";

/// Keys of all programs together.
const GLOBALS: [&str; 12] = [
    "stop-timeout",
    "out",
    "err",
    "rotate",
    "rotate-keep",
    "on-event",
    "log-level",
    "pid-file",
    "control",
    "http",
    "signal",
    "background",
];

pub(super) fn spec() -> Spec {
    let name = as_text("the name of a program", |_| Ok(()));
    let after = key("after").optional().check(list_of(name));
    let of_a_program = keys().into_iter().filter(|(name, _)| !GLOBALS.contains(name));
    let section = of_a_program.map(|(_, key)| key).chain([after]);
    let spec = keys().into_iter().fold(Spec::new(), |spec, (_, key)| spec.key(key));
    spec.key(key("syslog").default(false).check(bool())).labelled_section(SECTION, section)
}

fn as_text(expected: &str, test: fn(&str) -> Result<(), String>) -> Validation {
    Validation::explained(expected, move |value| {
        text(value).map_or_else(|| Err(String::new()), |text| test(&text))
    })
}

fn keys() -> Vec<(&'static str, Key)> {
    let texts = VALUES.into_iter().chain(PLACES);
    let texts = texts.map(|(name, expected, test)| (name, as_text(expected, test)));
    let lists = LISTS.map(|(name, expected, test)| (name, list_of(as_text(expected, test))));
    let switches = [
        "background",
        "nonblocking",
        "env-clear",
        "private-tmp",
        "sandbox-kill",
        "sandbox-best-effort",
    ];
    let switches = switches.map(|name| (name, bool()));
    let all = texts.chain(lists).chain(switches);
    all.map(|(name, check)| (name, key(name).optional().check(check))).collect()
}

/// A value as it stands on a command line.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) | Value::Keyword(text) => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Size(bytes) => Some(bytes.to_string()),
        Value::Duration(time) => Some(format!("{}ms", time.as_millis())),
        _ => None,
    }
}

/// A look at the keys of a section.
struct Keys<'a>(&'a dyn Fn(&str) -> Option<&'a Value>);

impl Keys<'_> {
    fn one(&self, name: &str) -> Option<String> {
        self.0(name).and_then(text)
    }

    fn read<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        read(&self.one(name)?).ok()
    }

    fn list<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let values = self.0(name).and_then(Value::as_list).unwrap_or_default();
        values.iter().filter_map(text).filter_map(|text| read(&text).ok()).collect()
    }

    fn is(&self, name: &str) -> bool {
        self.0(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.one(name).map(PathBuf::from)
    }

    fn program(&self) -> Program {
        let files = self.path("env-file").into_iter().collect();
        let variables = Variables::new(self.list("env", str::parse), files, self.is("env-clear"));
        Program {
            listen: self.list("listen", str::parse),
            nonblocking: self.is("nonblocking"),
            workers: self.read("workers", values::workers),
            max_workers: self.read("max-workers", values::count),
            user: self.one("user"),
            group: self.one("group"),
            ready: self.read("ready", values::readiness),
            start_timeout: self.read("start-timeout", values::duration),
            watchdog: self.read("watchdog", values::duration),
            stop_signal: self.read("stop-signal", values::stop_signal),
            surge: self.read("surge", values::count),
            canary: self.read("canary", values::duration),
            drain: self.read("drain", values::count),
            respawn: self.read("respawn", values::respawn),
            max_age: self.read("max-age", values::age),
            max_memory: self.read("max-memory", values::size),
            output: self.read("output", str::parse),
            line_limit: self.read("line-limit", values::line_limit),
            log_limit: self.read("log-limit", values::log_limit),
            chdir: self.path("chdir"),
            variables,
            command: self.list("command", |text| Ok(text.into())),
            restrictions: Restrictions {
                sandbox: self.read("sandbox", str::parse),
                read: self.list("read", |text| Ok(text.into())),
                write: self.list("write", |text| Ok(text.into())),
                execute: self.list("execute", |text| Ok(text.into())),
                connect: self.list("connect", port),
                bind: self.list("bind", port),
                keep_cap: self.list("keep-cap", |text| Ok(text.to_owned())),
                private_tmp: self.is("private-tmp"),
                sandbox_kill: self.is("sandbox-kill"),
                sandbox_best_effort: self.is("sandbox-best-effort"),
            },
            after: self.list("after", |text| Ok(text.to_owned())),
        }
    }
}

/// Merges the command line with the file, which has passed its checks. The command line wins over a
/// section of a program, and that over the keys before the sections.
pub(super) fn merge(options: &Options, file: &Config) -> Result<(Options, Programs), Error> {
    let globals = |name: &str| file.value(name);
    let keys = Keys(&globals);
    let mut merged = options.clone();
    let (own, shared) = (options.program.clone(), keys.program());
    let program = own.clone().or(shared.clone());
    // What comes later wins.
    merged.signal = keys.list("signal", values::signal);
    merged.signal.extend_from_slice(&options.signal);
    merged.stop_timeout =
        merged.stop_timeout.or_else(|| keys.read("stop-timeout", values::duration));
    merged.out = merged.out.or_else(|| keys.path("out"));
    merged.err = merged.err.or_else(|| keys.path("err"));
    merged.rotate = merged.rotate.or_else(|| keys.read("rotate", values::size));
    merged.rotate_keep = merged.rotate_keep.or_else(|| keys.read("rotate-keep", values::count));
    merged.on_event = merged.on_event.or_else(|| keys.read("on-event", values::absolute_program));
    merged.log_level = merged.log_level.or_else(|| keys.one("log-level"));
    merged.pid_file = merged.pid_file.or_else(|| keys.path("pid-file"));
    merged.control = merged.control.or_else(|| keys.path("control"));
    merged.http = merged.http.or_else(|| keys.read("http", values::http));
    merged.syslog |= keys.is("syslog");
    merged.background |= keys.is("background");
    let sections = file.labelled(SECTION).map(|(name, section)| {
        let values = |key: &str| section.value(key);
        (name.to_owned(), own.clone().or(Keys(&values).program()).or(shared.clone()))
    });
    let programs = sections.collect::<Programs>();
    let shared = [("command", program.command.is_empty()), ("listen", program.listen.is_empty())];
    if let Some((name, _)) = shared.iter().find(|(_, is_empty)| !programs.is_empty() && !is_empty) {
        let message = format!(
            "each of several programs has a `{name}` of its own: it belongs into the section"
        );
        return Err(Error::new(ErrorKind::Usage, message));
    }
    merged.program = program;
    let programs = match programs.is_empty() {
        true => Programs::from([(ONLY.to_owned(), merged.program.clone())]),
        false => programs,
    };
    Ok((merged, programs))
}

/// Refuses programs that would wait for each other, or for a program that is not there.
pub(super) fn check_order(programs: &Programs) -> Result<(), Error> {
    let mut waiting: BTreeSet<_> = programs.keys().collect();
    for (name, program) in programs {
        if let Some(other) = program.after.iter().find(|other| !programs.contains_key(*other)) {
            let message = format!(
                "program `{}` starts after `{}`, and there is no program of that name",
                name.escape_debug(),
                other.escape_debug()
            );
            return Err(Error::new(ErrorKind::Usage, message));
        }
    }
    loop {
        let waits = |name: &&&String| programs[**name].after.iter().any(|it| waiting.contains(it));
        let still: BTreeSet<_> = waiting.iter().filter(waits).copied().collect();
        if still.is_empty() {
            return Ok(());
        }
        if still.len() == waiting.len() {
            let names: Vec<_> = still.iter().map(|it| format!("`{}`", it.escape_debug())).collect();
            let message =
                format!("programs that start after each other never start: {}", names.join(", "));
            return Err(Error::new(ErrorKind::Usage, message));
        }
        waiting = still;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use release_core::{MasterSignal, Readiness, SignalAction, StopSignal};

    use super::*;

    #[test]
    fn a_file_says_what_a_command_line_says() {
        let text = "listen = [\"tcp://127.0.0.1:0\", \"fd://3\"]\nworkers = 3\nmax-workers = 9\nready = 2s\n\
            start-timeout = 2m\nwatchdog = 10\nstop-signal = USR2\nrespawn = on-failure\nmax-age = 12h\nmax-memory = 512MiB\nlog-level = debug\nenv = [\"A=1\", \"B=2\"]\n\
            surge = 2\ncanary = 1s\ndrain = 1\nsignal = [\"QUIT=stop\", \"USR1=upgrade\"]\ncommand = [\"sleep\", \"5\"]\nbackground = true\nuser = \"nobody\"\n\
            sandbox = strict\nread = [\"/srv\", \"/etc/x\"]\nconnect = [5432]\nkeep-cap = [\"KILL\"]\nsandbox-kill = true\n";
        let file = Config::parse("run.conf", text, &spec()).unwrap();
        let quit = (MasterSignal::Quit, SignalAction::StopNow);
        let program = Program { workers: Some(4), ..Program::default() };
        let options = Options { program, signal: vec![quit], ..Options::default() };
        let (options, programs) = merge(&options, &file).unwrap();
        let merged = &programs[ONLY];
        assert_eq!((merged.workers, merged.listen.len()), (Some(4), 2));
        assert_eq!(merged.max_workers, Some(9));
        assert_eq!(merged.ready, Some(Readiness::After(Duration::from_secs(2))));
        assert_eq!(merged.start_timeout, Some(Duration::from_secs(120)));
        assert_eq!(merged.watchdog, Some(Duration::from_secs(10)));
        assert_eq!((merged.surge, merged.drain), (Some(2), Some(1)));
        assert_eq!(merged.canary, Some(Duration::from_secs(1)));
        assert_eq!(merged.stop_signal, Some(StopSignal::Usr2));
        assert_eq!(merged.max_age, Some(Duration::from_secs(12 * 60 * 60)));
        assert_eq!(merged.max_memory, Some(512 << 20));
        // The command line comes last, and wins.
        let usr1 = (MasterSignal::Usr1, SignalAction::Upgrade);
        assert_eq!(options.signal, [(MasterSignal::Quit, SignalAction::Stop), usr1, quit]);
        assert_eq!(merged.command, ["sleep", "5"]);
        assert_eq!(
            (merged.variables.pairs().unwrap().len(), options.background, options.syslog),
            (2, true, false)
        );
        assert_eq!(merged.user.as_deref(), Some("nobody"));
        let restrictions = &merged.restrictions;
        assert_eq!(restrictions.sandbox, Some(Strictness::Strict));
        assert_eq!((restrictions.read.len(), &restrictions.connect[..]), (2, &[5432][..]));
        assert_eq!(restrictions.keep_cap, ["KILL"]);
        assert!(restrictions.sandbox_kill && !restrictions.sandbox_best_effort);
        assert_eq!(options.log_level.as_deref(), Some("debug"));
    }

    #[test]
    fn a_file_names_several_programs() {
        let text = "workers = 2\nuser = nobody\nenv = [\"A=1\"]\n[program \"web\"]\nafter = [\"db\"]\n\
            workers = 4\nlisten = [\"tcp://127.0.0.1:0\"]\nenv = [\"B=2\"]\ncommand = [\"web\"]\n\
            [program \"db\"]\ncommand = [\"db\"]\n";
        let file = |text: &str| Config::parse("run.conf", text, &spec()).unwrap();
        let (_, programs) = merge(&Options::default(), &file(text)).unwrap();
        let (web, db) = (&programs["web"], &programs["db"]);
        assert_eq!((web.workers, db.workers), (Some(4), Some(2)));
        assert_eq!((web.listen.len(), db.listen.len()), (1, 0));
        let count = |program: &Program| program.variables.pairs().unwrap().len();
        assert_eq!((count(web), count(db)), (2, 1));
        assert_eq!((&web.after[..], &db.command[..]), (&["db".to_owned()][..], &["db".into()][..]));
        assert_eq!(web.user.as_deref(), Some("nobody"));
        let error = merge(&Options::default(), &file(&format!("command = [\"x\"]\n{text}")));
        assert!(error.unwrap_err().to_string().contains("`command`"));
        let restrictions =
            Restrictions { sandbox: Some(Strictness::Strict), ..Restrictions::default() };
        let program = Program { workers: Some(3), restrictions, ..Program::default() };
        let options = Options { program, ..Options::default() };
        let (_, programs) =
            merge(&options, &file(&format!("sandbox = none\n{text}sandbox = basic\n"))).unwrap();
        for (name, count) in [("web", 2), ("db", 1)] {
            let program = &programs[name];
            let variables = program.variables.pairs().unwrap();
            assert_eq!((program.workers, variables.len()), (Some(3), count));
            assert_eq!(program.restrictions.sandbox, Some(Strictness::Strict));
        }
        let errors = Config::parse("run.conf", "[program \"web\"]\nout = x\n", &spec());
        assert!(errors.unwrap_err().to_string().contains("run.conf:2:"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let text = "workers = many\nlisten = [\"tcp://x\"]\nlog-level = loud\nsignal = [\"KILL=stop\"]\n\
            stop-sginal = TERM\n";
        let errors = Config::parse("run.conf", text, &spec()).unwrap_err().to_string();
        for expected in [
            "run.conf:1:",
            "run.conf:2:",
            "a port belongs",
            "`loud` is not a level",
            "`KILL` is no signal",
            "is it `stop-signal`",
        ] {
            assert!(errors.contains(expected), "{expected}: {errors}");
        }
    }
}
