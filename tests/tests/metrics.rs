//! Metrics, health and the history of a service, as programs and people ask for them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sys::signal::Signal;
use release_core::{EventBatch, EventKind as Kind, ServiceEvent};
use release_tests::{
    Backend, Installed, Program, Running, control, eventually, free_port, has, http_get,
    on_every_backend, try_control,
};

/// The samples of a service, by their names and labels.
fn samples(control_socket: &Path) -> BTreeMap<String, f64> {
    let text = control(control_socket, "metrics");
    assert!(text.ends_with("# EOF\n"), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a sample");
        (name.to_owned(), value.parse().expect("a number"))
    };
    lines.map(sample).collect()
}

#[track_caller]
fn value(control_socket: &Path, name: &str) -> f64 {
    let samples = samples(control_socket);
    *samples.get(name).unwrap_or_else(|| panic!("no {name} in {samples:?}"))
}

fn ask(address: SocketAddr, times: usize) {
    (0..times).for_each(|_| _ = http_get(address));
}

/// GET on a connection of its own.
#[track_caller]
fn get(address: SocketAddr, path: &str) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

/// Exit code and standard error of `release ctl`, and its output.
fn ctl(control_socket: &Path, arguments: &[&str]) -> (i32, String, String) {
    let program = Program::release().args(["ctl", "--control"]).args([control_socket]);
    let program = program.args(arguments);
    let out = program.path("stdout");
    let file = File::create(&out).expect("a file for standard output");
    let mut running = program.with(|command| _ = command.stdout(Stdio::from(file))).start();
    let code = running.wait().code().unwrap_or(-1);
    (code, running.stderr(), fs::read_to_string(out).unwrap_or_default())
}

const ANSWERS: &str = "answers_total{group=\"http\"}";

on_every_backend! {
    fn counts_are_summed_up_and_stay_when_workers_die_or_are_replaced(backend: Backend) {
        let (mut service, address) = Running::service(backend, 2, &[]);
        let socket = service.control();
        ask(address, 20);
        assert_eq!(value(&socket, ANSWERS), 20.0);
        let all = samples(&socket);
        assert_eq!(all["answer_seconds_count{group=\"http\"}"], 20.0);
        assert_eq!(all["answer_seconds_bucket{group=\"http\",le=\"+Inf\"}"], 20.0);
        assert!(all["answer_seconds_sum{group=\"http\"}"] > 0.0);
        assert_eq!(all["work_in_flight{group=\"http\"}"], 0.0);
        assert_eq!(all["work_finished_total{group=\"http\"}"], 20.0);
        assert_eq!(all["release_workers{group=\"http\",state=\"ready\"}"], 2.0);
        assert_eq!((all["release_generation"], all["release_ready"]), (1.0, 1.0));
        assert!(all["release_worker_memory_bytes{group=\"http\",worker=\"1\"}"] > 100_000.0);
        assert!(all.contains_key("release_worker_cpu_seconds_total{group=\"http\",worker=\"0\"}"));
        assert_eq!(all["release_accept_queue{group=\"http\",listener=\"http\"}"], 0.0);
        assert!(all["release_accept_queue_limit{group=\"http\",listener=\"http\"}"] > 1.0);

        for worker in service.workers() {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker.0), Signal::SIGKILL).expect("it is there");
        }
        let exits = "release_worker_exits_total{group=\"http\",cause=\"signal\"}";
        eventually("both are counted", || samples(&socket).get(exits) == Some(&2.0));
        service.await_ready(2);
        assert_eq!(value(&socket, ANSWERS), 20.0);
        ask(address, 5);
        assert_eq!(value(&socket, ANSWERS), 25.0);
        assert_eq!(control(&socket, "reload"), "ok");
        ask(address, 5);
        let all = samples(&socket);
        assert_eq!(all[ANSWERS], 30.0);
        assert_eq!(all["release_reloads_total{outcome=\"done\"}"], 1.0);
        let restarts = "release_worker_restarts_total{group=\"http\",cause=\"signal\"}";
        assert_eq!(all[restarts], 2.0);

        // The next version of the master has the counts, and the memory of the workers that it finds.
        assert_eq!(control(&socket, "upgrade"), "ok");
        ask(address, 5);
        let all = samples(&socket);
        assert_eq!((all[ANSWERS], all[exits]), (35.0, 2.0));
        assert_eq!(all["release_upgrades_total{outcome=\"done\"}"], 1.0);
        let (code, _, table) = ctl(&socket, &["history"]);
        let rows: Vec<_> = table.lines().skip(1).collect();
        assert_eq!((code, rows.len()), (0, 2), "{table}");
        assert!(rows.iter().all(|row| row.contains("SIGKILL") && row.ends_with("yes")), "{table}");
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn the_macros_of_the_facade_count_in_workers(backend: Backend) {
        let address = free_port();
        let mut service = Program::new(backend, "http").listen(address, 2).start();
        service.await_ready(2);
        let socket = service.control();
        let get = |path: &str| get(address, path);
        (0..10).for_each(|_| get("/count"));
        (0..3).for_each(|_| get("/count?again"));
        let counted = "facade_requests_total{group=\"http\",to=\"/count\"}";
        let all = samples(&socket);
        assert_eq!(all[counted], 10.0);
        assert_eq!(all["facade_requests_total{group=\"http\",to=\"/count?again\"}"], 3.0);
        assert_eq!(all["facade_size_bucket{group=\"http\",le=\"10.0\"}"], 0.0);
        assert_eq!(all["facade_size_count{group=\"http\"}"], 13.0);
        assert_eq!(all["facade_size_sum{group=\"http\"}"], 156.0);
        let text = control(&socket, "metrics");
        assert!(text.contains("# HELP facade_requests Requests by the facade\n"), "{text}");

        // Real gauges are summed up over the processes that live.
        let has_load = |workers: f64| {
            get("/count?load");
            samples(&socket).get("facade_load{group=\"http\"}") == Some(&(0.25 * workers))
        };
        eventually("both workers have one", || has_load(2.0));
        service.workers()[0].signal(Signal::SIGKILL);
        service.await_ready(2);
        assert_eq!(value(&socket, counted), 10.0);
        assert_eq!(control(&socket, "upgrade"), "ok");
        get("/count");
        assert_eq!(value(&socket, counted), 11.0);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn labels_without_bound_fill_the_memory_and_harm_nothing(backend: Backend) {
        let address = free_port();
        let mut service = Program::new(backend, "http").listen(address, 1).start();
        service.await_ready(1);
        let get = |path: &str| get(address, path);
        get("/count");
        let (worker, before) = (service.workers().remove(0), 4 << 10);
        get("/flood");
        let kib = worker.resident_kib();
        (0..20).for_each(|_| get("/flood"));
        let more = worker.resident_kib().saturating_sub(kib);
        assert!(more < before, "{more} KiB more than {kib} KiB");
        get("/count");
        let all = samples(&service.control());
        assert_eq!(all["facade_requests_total{group=\"http\",to=\"/count\"}"], 2.0);
        let flood = all.iter().filter(|(name, _)| name.starts_with("facade_flood_total{"));
        let counts: Vec<_> = flood.map(|(_, count)| *count).collect();
        assert!((100..1024).contains(&counts.len()), "{}", counts.len());
        assert!(counts.iter().all(|count| *count == 21.0), "{counts:?}");
        assert_eq!(service.stderr().matches("a metric counts nowhere").count(), 1);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn readers_that_do_not_read_hold_nobody_up(backend: Backend) {
        let (mut service, address) = Running::service(backend, 1, &[]);
        let socket = service.control();
        let deaf: Vec<_> = (0..24)
            .filter_map(|index| {
                let client = UnixStream::connect(&socket).ok()?;
                client.set_nonblocking(true).ok()?;
                // As many requests as go into the socket: their answers do not.
                let word: &[u8] = [&b"metrics"[..], b"history", b"live"][index % 3];
                let frame = [&u32::try_from(word.len()).ok()?.to_be_bytes(), word].concat();
                while (&client).write(&frame).is_ok_and(|count| count == frame.len()) {}
                Some(client)
            })
            .collect();
        assert!(deaf.len() > 8);
        ask(address, 3);
        eventually("others are answered", || {
            try_control(&socket, "metrics").is_ok_and(|text| text.contains("answers_total"))
        });
        assert_eq!(control(&socket, "live"), "ok");
        service.workers()[0].signal(Signal::SIGKILL);
        service.await_ready(1);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
        drop(deaf);
    }

    fn a_service_says_whether_it_is_ready_and_lives(backend: Backend) {
        let (mut service, address) = Running::service(backend, 1, &[]);
        let socket = service.control();
        assert_eq!(ctl(&socket, &["ready"]), (0, String::new(), String::new()));
        assert_eq!(ctl(&socket, &["live", "--json"]).2, "{\"ok\":true}\n");
        // A request that is not complete keeps the worker from ending.
        let mut client = release_tests::HttpClient::connect(address).expect("a connection");
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX").expect("it is sent");
        service.signal(Signal::SIGTERM);
        eventually("it is not ready while it stops", || {
            let (code, why, _) = ctl(&socket, &["ready"]);
            code == 3 && why.contains("the service stops")
        });
        assert_eq!(ctl(&socket, &["live"]).0, 0);
        drop(client);
        assert_eq!(service.wait().code(), Some(0), "{}", service.stderr());
    }
}

/// All events from the one after this number to one of this kind, without a gap between them.
fn events_until(control_socket: &Path, next: &mut u64, last: Kind) -> Vec<ServiceEvent> {
    let mut all: Vec<ServiceEvent> = Vec::new();
    eventually(&format!("{last:?} happens"), || {
        let Ok(text) = try_control(control_socket, &format!("events {next}")) else { return false };
        let batch: EventBatch = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
        assert_eq!(batch.lost, 0, "{text}");
        *next = batch.next;
        all.extend(batch.events);
        all.iter().any(|event| event.event == last)
    });
    all
}

fn kinds(events: &[ServiceEvent]) -> Vec<Kind> {
    events.iter().map(|event| event.event).collect()
}

on_every_backend! {
    fn events_follow_each_other_also_over_an_upgrade(backend: Backend) {
        let installed = Installed::new(backend, "service");
        let (mut service, _) = installed.program().serve(1);
        let (socket, mut next) = (service.control(), 0);
        let events = events_until(&socket, &mut next, Kind::Serving);
        let expected = [Kind::Starting, Kind::WorkerStarted, Kind::WorkerReady, Kind::Serving];
        assert_eq!(kinds(&events), expected);
        let pid = service.workers()[0].0;
        assert_eq!((events[2].worker, events[2].pid), (Some(0), Some(pid)));
        // Nothing happens, and the answer does not wait for it.
        let batch: EventBatch =
            serde_json::from_str(&control(&socket, &format!("events {next}"))).expect("a batch");
        assert_eq!((batch.next, batch.events.len()), (next, 0));

        service.workers()[0].signal(Signal::SIGKILL);
        let events = events_until(&socket, &mut next, Kind::WorkerReady);
        assert_eq!(kinds(&events), [Kind::WorkerDied, Kind::WorkerStarted, Kind::WorkerReady]);
        assert_eq!(events[0].exit.as_deref(), Some("signal 9 (SIGKILL)"));
        assert!(events.windows(2).all(|two| two[0].seq + 1 == two[1].seq), "{events:?}");

        assert_eq!(control(&socket, "upgrade"), "ok");
        let events = events_until(&socket, &mut next, Kind::Upgraded);
        assert!(events.windows(2).all(|two| two[0].seq < two[1].seq), "{events:?}");
        assert_eq!(control(&socket, "scale 2"), "ok");
        let events = events_until(&socket, &mut next, Kind::Resized);
        let resized = events.iter().find(|event| event.event == Kind::Resized).expect("an event");
        assert_eq!((resized.group.as_deref(), resized.count), (Some("http"), Some(2)));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }
}

#[test]
fn release_ctl_follows_the_events_until_the_end() {
    let (mut service, _) = Running::service(Backend::Smol, 1, &[]);
    let socket = service.control();
    let following = thread::spawn(move || ctl(&socket, &["events", "--json"]));
    assert_eq!(control(&service.control(), "reload"), "ok");
    eventually("the old worker has ended", || service.stderr().contains(" ended "));
    assert_eq!(service.stop(), 0, "{}", service.stderr());
    let (code, error, text) = following.join().expect("it ends");
    assert_eq!(code, 0, "{error}");
    let lines = text.lines().map(|line| serde_json::from_str::<ServiceEvent>(line).expect("JSON"));
    let events: Vec<_> = lines.collect();
    let kinds = kinds(&events);
    for expected in
        [Kind::Serving, Kind::Reloading, Kind::WorkerDied, Kind::Reloaded, Kind::Stopping]
    {
        assert!(kinds.contains(&expected), "{expected:?}: {kinds:?}");
    }
}

#[test]
fn a_program_that_has_done_its_work_is_no_failure() {
    let start = |first: &str| {
        let program = Program::release().args(["run", "--config", "site.conf"]);
        let text = format!(
            "control = control\nready = 0\n[program \"first\"]\nrespawn = never\ncommand = {first}\n\
             [program \"second\"]\nafter = [\"first\"]\ncommand = [\"sleep\", \"1000\"]\n"
        );
        fs::write(program.path("site.conf"), text).expect("a file");
        let running = program.start();
        eventually("it answers", || try_control(&running.control(), "status").is_ok());
        running
    };
    let answers = |running: &Running, word| ctl(&running.control(), &[word]).0;
    for (first, code) in [("[\"true\"]", 0), ("[\"sh\", \"-c\", \"exit 3\"]", 3)] {
        let mut running = start(first);
        let has_ended = || control(&running.control(), "history").contains("exit status 3");
        eventually("the first one has ended", || match code {
            0 => running.workers().len() == 1,
            _ => has_ended(),
        });
        eventually("both answers", || {
            (answers(&running, "ready"), answers(&running, "live")) == (code, code)
        });
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }
}

/// A Prometheus that is killed at the end of the test.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Answers each connection with the metrics, as a scraper wants them.
fn serve_metrics(listener: &TcpListener, control_socket: &Path) {
    for client in listener.incoming() {
        let Ok(mut client) = client else { return };
        let mut head = [0; 4096];
        if !client.read(&mut head).is_ok_and(|count| count > 0) {
            continue;
        }
        let Ok(text) = try_control(control_socket, "metrics") else { return };
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\
                    Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\r\n";
        let _ = client.write_all(format!("{head}{text}").as_bytes());
    }
}

fn query(prometheus: SocketAddr, path: &str) -> String {
    let mut answer = String::new();
    if let Ok(mut stream) = TcpStream::connect(prometheus) {
        let _ = stream.write_all(format!("GET /api/v1/{path} HTTP/1.0\r\n\r\n").as_bytes());
        let _ = stream.read_to_string(&mut answer);
    }
    answer
}

#[test]
fn prometheus_scrapes_it() {
    if !has("prometheus", "--version") {
        return;
    }
    let (mut service, address) = Running::service(Backend::Smol, 2, &[]);
    ask(address, 3);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let target = listener.local_addr().expect("its address");
    let socket = service.control();
    thread::spawn(move || serve_metrics(&listener, &socket));
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs: [{{job_name: release, static_configs: [{{targets: ['{target}']}}]}}]\n"
    );
    fs::write(service.path("prometheus.yml"), config).expect("a file");
    let web = free_port();
    let mut command = Command::new("prometheus");
    command.arg(format!("--web.listen-address={web}")).arg("--config.file=prometheus.yml");
    command.arg("--storage.tsdb.path=data").current_dir(service.path("."));
    let log = File::create(service.path("prometheus.log")).expect("a file");
    let prometheus = Prometheus(command.stderr(log).spawn().expect("it starts"));
    eventually("the target is healthy", || {
        let targets = query(web, "targets");
        targets.contains("\"health\":\"up\"") && targets.contains("\"lastError\":\"\"")
    });
    for (name, expected) in [
        ("answers_total", "\"3\""),
        ("release_ready", "\"1\""),
        ("answer_seconds_count", "\"3\""),
        ("release_workers%7Bstate=%22ready%22%7D", "\"2\""),
    ] {
        eventually(name, || query(web, &format!("query?query={name}")).contains(expected));
    }
    drop(prometheus);
    service.stop();
}
