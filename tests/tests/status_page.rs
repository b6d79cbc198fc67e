//! The status page: its contents for people and machines, and its hostile clients.

#[path = "status_page/browser.rs"]
mod browser;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use browser::Browser;
use nix::sys::signal::Signal;
use release_core::{StatusReport, WorkerReport};
use release_tests::{
    DEADLINE, Installed, Process, Program, Running, control, eventually, free_port, has,
    on_every_backend,
};

/// Everything that is answered.
fn exchange(mut stream: impl Read + Write, method: &str, path: &str) -> io::Result<String> {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

#[track_caller]
fn get(address: SocketAddr, path: &str) -> String {
    exchange(connect(address).expect("a connection"), "GET", path).expect("an answer")
}

/// Asks on a connection that it does not close. Returns the answer, unless there is none.
fn asks_and_stays(client: &mut TcpStream) -> io::Result<String> {
    client.write_all(b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n")?;
    let (mut answer, mut part) = (String::new(), [0; 1024]);
    while !answer.ends_with("\r\n\r\nready\n") {
        match client.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => answer.push_str(&String::from_utf8_lossy(&part[..count])),
        }
    }
    Ok(answer)
}

/// The program `http` with a status page.
fn start(program: Program, workers: usize) -> (Running, SocketAddr) {
    let (address, page) = (free_port(), free_port());
    let program = program.args(["--page", &page.to_string()]).listen(address, workers);
    let service = program.start();
    service.await_ready(workers + 1);
    (service, page)
}

/// The process that serves the page.
fn page_process(service: &Running) -> Process {
    let workers = service.workers().into_iter();
    let mut its = workers.filter(|worker| worker.command_line().contains("worker status-page"));
    its.next().expect("a process of the page")
}

on_every_backend! {
    fn a_worker_without_rights_shows_the_pool(backend: Backend) {
        let (mut service, page) = start(Program::new(backend, "http"), 2);
        // It may know less than the control socket for a moment.
        eventually("it knows both workers", || get(page, "/").contains("2 of 2 ready"));
        let text = get(page, "/");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        for expected in [
            "content-security-policy: default-src 'none'; style-src 'self'; script-src 'self'",
            "x-content-type-options: nosniff",
            "<p class=\"verdict good\">Ready</p>",
            "<h2>http</h2>",
            "2 of 2 ready",
            "No worker has died.",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        let pid = service.workers().into_iter().find(|it| it.command_line().contains("http id=1"));
        assert!(text.contains(&format!("<td>{}</td>", pid.expect("a worker").0)), "{text}");
        let metrics = get(page, "/metrics");
        assert!(metrics.contains("application/openmetrics-text; version=1.0.0"), "{metrics}");
        assert!(metrics.contains("release_workers{group=\"http\",state=\"ready\"} 2\n"), "{metrics}");
        assert!(metrics.ends_with("# EOF\n"), "{metrics}");
        assert!(get(page, "/livez").ends_with("\r\n\r\nalive\n"));
        assert!(get(page, "/readyz").ends_with("\r\n\r\nready\n"));
        assert!(get(page, "/../etc/passwd").starts_with("HTTP/1.1 404"));
        let post = exchange(connect(page).expect("a connection"), "POST", "/").expect("an answer");
        assert!(post.starts_with("HTTP/1.1 405") && post.contains("allow: GET, HEAD"), "{post}");

        let process = page_process(&service);
        let status = |name| process.status(name).expect("a status");
        if nix::unistd::geteuid().is_root() {
            assert_eq!(process.numbers("Uid"), [65534; 4]);
            assert_eq!(process.numbers("Gid"), [65534; 4]);
        }
        assert_eq!((status("NoNewPrivs"), status("Seccomp")), ("1".into(), "2".into()));
        assert_eq!(u64::from_str_radix(&status("CapPrm"), 16), Ok(0));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn it_is_not_ready_while_the_service_stops(backend: Backend) {
        let (address, page) = (free_port(), free_port());
        let program = Program::new(backend, "http").args(["--page", &page.to_string()]);
        let mut service = program.listen(address, 1).start();
        service.await_ready(2);
        let mut client = connect(address).expect("a connection");
        let head = "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n";
        client.write_all(head.as_bytes()).expect("a request");
        let mut begin = [0; 12];
        client.read_exact(&mut begin).expect("the answer begins");
        let mut waiting = connect(address).expect("a connection");
        let head = b"GET /at-stop HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        waiting.write_all(head).expect("a request");
        // The request is in flight, for people and programs.
        let metric = "release_worker_in_flight{group=\"http\",worker=\"0\"} 1\n";
        eventually("it is counted", || get(page, "/metrics").contains(metric));
        let status: StatusReport =
            serde_json::from_str(&control(&service.control(), "status")).expect("a report");
        let in_flight = |worker: &WorkerReport| {
            worker.group.as_deref() == Some("http") && worker.in_flight == Some(1)
        };
        assert!(status.workers.iter().any(in_flight), "{status}");
        // The page shows the state of a moment ago.
        eventually("the page shows it", || {
            let page = get(page, "/");
            let row = page.lines().find(|line| line.starts_with("<tr><td>0</td>"));
            row.is_some_and(|row| row.contains("s</td><td>1</td><td>"))
        });
        service.signal(Signal::SIGTERM);
        eventually("it is not ready", || {
            let text = get(page, "/readyz");
            text.starts_with("HTTP/1.1 503") && text.ends_with("\r\n\r\nthe service stops\n")
        });
        assert!(get(page, "/livez").starts_with("HTTP/1.1 200"));
        client.write_all(b"last").expect("the rest");
        for (mut client, end) in [(client, "last"), (waiting, "stopped\n")] {
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("an answer");
            assert!(answer.ends_with(end), "{answer}");
        }
        assert_eq!(service.wait().code(), Some(0), "{}", service.stderr());
    }

    fn the_page_says_nothing_about_the_health_of_the_service(backend: Backend) {
        let (mut service, page) = start(Program::new(backend, "http"), 1);
        let process = page_process(&service);
        // It does not answer, and is not replaced as long as it is stopped.
        process.signal(Signal::SIGSTOP);
        process.signal(Signal::SIGKILL);
        eventually("another process serves it", || {
            service.workers().iter().any(|it| {
                *it != process && it.command_line().contains("worker status-page")
            })
        });
        assert_eq!(control(&service.control(), "ready"), "ok");
        assert_eq!(control(&service.control(), "live"), "ok");
        eventually("it shows the death", || get(page, "/").contains(&format!(
            "<td>status-page 1</td><td>{}</td>", process.0
        )));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn hostile_clients_have_limits(backend: Backend) {
        let (mut service, page) = start(Program::new(backend, "http"), 1);
        let send = |text: &str| {
            let mut stream = connect(page).expect("a connection");
            // It may have been closed in the middle.
            let _ = stream.write_all(text.as_bytes());
            stream
        };
        let mut answer = String::new();
        let large = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
        let _ = send(&large).read_to_string(&mut answer);
        assert!(!answer.contains("HTTP/1.1 200"), "{answer}");

        let follow = || send("GET /events HTTP/1.1\r\nHost: test\r\n\r\n");
        let begins = |stream: &mut TcpStream| {
            let mut begin = [0; 12];
            stream.read_exact(&mut begin).expect("an answer");
            String::from_utf8_lossy(&begin).into_owned()
        };
        let mut followers: Vec<_> = (0..32).map(|_| follow()).collect();
        assert!(followers.iter_mut().all(|one| begins(one) == "HTTP/1.1 200"));
        assert_eq!(begins(&mut follow()), "HTTP/1.1 503");
        followers.pop();
        eventually("another client can follow", || begins(&mut follow()) == "HTTP/1.1 200");

        // More clients than there is room for have begun a request, or nothing at all.
        let slow: Vec<_> = (0..150).map(|number| send(["", "GET / HT"][number % 2])).collect();
        assert_eq!(control(&service.control(), "ready"), "ok");
        assert!(get(page, "/readyz").ends_with("\r\n\r\nready\n"));
        let kib = page_process(&service).resident_kib();
        assert!(kib < 64 * 1024, "{kib} KiB");
        // The page does not wait for any of them.
        assert_eq!(service.stop(), 0, "{}", service.stderr());
        drop((followers, slow));
    }

    fn clients_that_keep_their_connections_are_in_nobodys_way(backend: Backend) {
        let (mut service, page) = start(Program::new(backend, "http"), 1);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            // More than there is room for, all of which ask again as long as they may.
            let polite = scope.spawn(|| {
                let mut kept = Vec::new();
                for _ in 0..200 {
                    let mut client = connect(page).expect("a connection");
                    assert!(asks_and_stays(&mut client).expect("an answer").contains(" 200 "));
                    kept.push(client);
                    kept.retain_mut(|client| asks_and_stays(client).is_ok());
                }
                while !over.load(Ordering::Relaxed) {
                    kept.retain_mut(|client| asks_and_stays(client).is_ok());
                    thread::yield_now();
                }
                kept.len()
            });
            (0..5).for_each(|_| assert!(get(page, "/readyz").ends_with("\r\n\r\nready\n")));
            eventually("all have asked", || {
                assert!(get(page, "/livez").ends_with("\r\n\r\nalive\n"));
                over.store(true, Ordering::Relaxed);
                polite.is_finished()
            });
            let kept = polite.join().expect("answers");
            assert!((32..=64).contains(&kept), "{kept}");
        });
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn clients_that_ask_for_nothing_give_way(backend: Backend) {
        let (mut service, page) = start(Program::new(backend, "http"), 1);
        let over = AtomicBool::new(false);
        let spent = thread::scope(|scope| {
            // Who is disconnected comes again at once.
            for text in ["", "GET / HT"].repeat(100) {
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let Ok(mut client) = connect(page) else { continue };
                        let _ = client.set_read_timeout(Some(Duration::from_secs(1)));
                        let _ = client.write_all(text.as_bytes());
                        let is_waiting = |client: &mut TcpStream| {
                            let end = client.read(&mut [0]);
                            end.is_err_and(|it| it.kind() == io::ErrorKind::WouldBlock)
                        };
                        while !over.load(Ordering::Relaxed) && is_waiting(&mut client) {}
                    }
                });
            }
            let begin = Instant::now();
            (0..10).for_each(|_| assert!(get(page, "/readyz").ends_with("\r\n\r\nready\n")));
            over.store(true, Ordering::Relaxed);
            begin.elapsed()
        });
        // It would be 5 seconds for each if they stayed as long as they may otherwise.
        assert!(spent < Duration::from_secs(30), "{spent:?}");
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn no_scrape_fails_through_reloads_and_upgrades(backend: Backend) {
        let installed = Installed::new(backend, "http");
        let (mut service, page) = start(installed.program(), 1);
        let over = AtomicBool::new(false);
        let scrape = || {
            let (mut scraped, mut failed) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                let text = connect(page).and_then(|it| exchange(it, "GET", "/metrics"));
                match text {
                    Ok(text) if text.ends_with("# EOF\n") => scraped += 1,
                    other => failed.push(other),
                }
            }
            (scraped, failed)
        };
        let (scraped, failed) = thread::scope(|scope| {
            let scraping = scope.spawn(scrape);
            for turn in 0..12 {
                let command = if turn % 6 == 5 { "upgrade" } else { "reload" };
                if command == "upgrade" {
                    installed.install(&backend.program("http"));
                }
                let outcome = control(&service.control(), command);
                assert_eq!(outcome, "ok", "{command}: {}", service.stderr());
            }
            over.store(true, Ordering::Relaxed);
            scraping.join().expect("scrapes")
        });
        assert!(failed.is_empty(), "{failed:?} failed and {scraped} did not: {}", service.stderr());
        assert!(scraped > 12, "{scraped}");
        assert!(installed.is_run_by(service.process()));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }
}

/// `release run` with a program that says this of itself and stays.
fn run(options: &[&str], text: &str) -> Program {
    let script = "import os, signal, socket\n\
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n\
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(\n\
        ('READY=1\\nSTATUS=' + os.environ['TEXT']).encode(), os.environ['NOTIFY_SOCKET'])\n\
        signal.sigwait([signal.SIGTERM])\n";
    let system = "/usr/bin/python3";
    let python = if Path::new(system).exists() { system } else { "python3" };
    let variable = format!("TEXT={text}");
    Program::release()
        .args(["run", "--ready", "notify", "--control", "control", "--env", &variable])
        .args(options)
        .args(["--", python, "-c", script])
}

const HOSTILE: &str = "<script>document.title='taken'</script>";

#[test]
fn words_of_a_worker_are_text_and_a_socket_file_has_its_mode() {
    let directory = tempfile::tempdir().expect("a directory");
    let (socket, config) = (directory.path().join("page"), directory.path().join("run.conf"));
    let text = format!("http = \"unix://{}?mode=0660\"\nworkers = 2\n", socket.display());
    fs::write(&config, text).expect("a file");
    let manager = run(&["--config", config.to_str().expect("a path")], HOSTILE);
    let mut manager = manager.start();
    manager.await_ready(3);
    let page = || {
        let stream = UnixStream::connect(&socket).expect("a connection");
        exchange(stream, "GET", "/").expect("an answer")
    };
    let text = "&lt;script&gt;document.title=&#39;taken&#39;";
    eventually("it shows the text", || page().matches(text).count() == 2);
    let text = page();
    assert_eq!(text.matches("<script").count(), 1, "{text}");
    let mode = fs::metadata(&socket).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    // In force are the groups that there were: `scale` without a name is still the program's.
    assert_eq!(control(&manager.control(), "scale 1"), "ok");
    eventually("it shows one worker", || page().contains("1 of 1 ready"));
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_wrong_address_is_told_before_anything_starts() {
    for address in ["9100", "udp://:9100", "unix://"] {
        let (code, error) = run(&["--check", "--http", address], "").run();
        assert!(code == 2 && error.contains("--http"), "{code}: {error}");
    }
    let (code, error) = run(&["--check", "--http", ":0"], "").run();
    assert_eq!(code, 0, "{error}");
}

#[test]
fn a_browser_sees_a_worker_die_and_its_successor() {
    if !has("chromium", "--version") {
        return;
    }
    let page = free_port();
    let mut manager = run(&["--workers", "3", "--http", &page.to_string()], HOSTILE).start();
    manager.await_ready(4);
    let mut browser = Browser::open(&format!("http://{page}/"));
    browser.awaits("document.body !== null && document.body.dataset.link === 'live'");
    let rows = "[...document.querySelectorAll('section')].find(it => \
        it.querySelector('h2').textContent.startsWith('workers')).querySelector('tbody').innerText";
    let victim = manager.workers().into_iter().find(|it| it.command_line().contains("python"));
    let victim = victim.expect("a worker");
    browser.awaits(&format!("{rows}.includes('{}')", victim.0));
    victim.signal(Signal::SIGKILL);
    browser.awaits(&format!("!{rows}.includes('{}')", victim.0));
    browser.awaits(&format!("document.querySelector('#live').innerText.includes('{}')", victim.0));
    browser.awaits(&format!("{rows}.split('ready').length === 4"));
    browser.awaits("document.querySelector('.verdict').innerText === 'Ready'");
    // Nothing that a worker says is run.
    assert_eq!(browser.value("document.title"), "cli-release");
    assert_eq!(browser.value("document.scripts.length"), 1);
    let directory = Program::release_path();
    let directory = directory.parent().and_then(Path::parent).expect("target");
    for (name, width, scheme) in
        [("light", 1200, "light"), ("dark", 1200, "dark"), ("phone", 390, "light")]
    {
        let picture = browser.picture(width, scheme);
        assert!(picture.len() > 10_000, "{} bytes", picture.len());
        // For people. Another user than that of the build cannot keep it.
        let _ = fs::write(directory.join(format!("status-page-{name}.png")), picture);
    }
    assert_eq!(browser.value("document.documentElement.scrollWidth <= 390"), true);
    drop(browser);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}
