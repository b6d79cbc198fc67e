//! `release run` with real programs (rows S1 to S6, E).

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use release_tests::{
    Account, Installed, Program, Running, control, eventually, free_port, is_alive, is_root, load,
    try_control, try_http_get,
};

/// `release run` with a control socket; its command is still to come.
fn run(options: &[&str]) -> Program {
    Program::release().args(["run", "--control", "control"]).args(options).args(["--"])
}

/// A command that is a line of the shell.
fn shell(options: &[&str], line: &str) -> Program {
    run(options).args(["sh", "-c", line])
}

/// Workers in Python behind a port.
fn serve(options: &[&str], how: &str, end: &str, workers: usize) -> (Running, SocketAddr) {
    let address = free_port();
    let (listen, count) = (format!("tcp://{address}"), workers.to_string());
    let own = ["--listen", &listen, "--workers", &count, "--stop-signal", end];
    let running = run(&[&own, options].concat()).any_worker(how, end).start();
    running.await_ready(workers);
    (running, address)
}

/// Reloads so many times under load, and fails the test for every request that is lost.
fn reload_under_load(manager: &Running, address: SocketAddr, times: usize) {
    let is_over = AtomicBool::new(false);
    let (answers, failures) = thread::scope(|scope| {
        let loading = scope.spawn(|| load(address, |_| !is_over.load(Ordering::Relaxed)));
        for _ in 0..times {
            assert_eq!(control(&manager.control(), "reload"), "ok");
        }
        is_over.store(true, Ordering::Relaxed);
        loading.join().expect("the load")
    });
    assert!(failures.is_empty() && !answers.is_empty(), "{failures:?}; {}", manager.stderr());
}

/// Whether a program is there, by how it says its version; says so when a test is skipped for it.
fn has(program: &str, version: &str) -> bool {
    let found =
        Command::new(program).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

#[test]
fn an_einhorn_program_is_reloaded_under_load() {
    let (mut manager, address) = serve(&["--ready", "ack"], "ack", "USR2", 2);
    reload_under_load(&manager, address, 10);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_hundred_reloads_lose_nothing() {
    // One worker: there is never another one that could cover for it.
    let (mut manager, address) = serve(&["--ready", "ack"], "ack", "USR2", 1);
    reload_under_load(&manager, address, 100);
    let told = control(&manager.control(), "status");
    assert!(told.contains("\"generation\":101"), "{told}");
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn nginx_is_reloaded_under_load() {
    if !has("nginx", "-v") {
        return;
    }
    let address = free_port();
    let listen = format!("tcp://{address}");
    // It knows its inherited socket by the address in its configuration.
    let options = ["--listen", &listen, "--env", "NGINX=3;", "--stop-signal", "QUIT"];
    let program = run(&[&options[..], &["--ready", "1"]].concat());
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {name};"))
        .concat();
    let configuration = format!(
        "pid nginx.pid; events {{}} http {{ access_log off; keepalive_timeout 0; {paths}
        server {{ listen {address}; location / {{ return 200 \"worker=0 pid=$pid seq=0\\n\"; }} }} }}"
    );
    std::fs::write(program.path("nginx.conf"), configuration).expect("a file");
    let prefix = program.path("");
    let command = ["nginx", "-e", "stderr", "-g", "daemon off;", "-c", "nginx.conf", "-p"];
    let mut manager = program.args(command).args([&prefix]).start();
    manager.await_ready(1);
    manager.await_http(address);
    reload_under_load(&manager, address, 5);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_node_server_is_reloaded_under_load() {
    if !has("node", "--version") {
        return;
    }
    let address = free_port();
    let program =
        run(&["--listen", &format!("tcp://{address}"), "--workers", "2", "--ready", "fd"]);
    let script = "
        const server = require('http').createServer((request, response) => {
            response.setHeader('Connection', 'close');
            response.end(`worker=${process.env.EINHORN_CHILD_INDEX} pid=${process.pid} seq=0\\n`);
        });
        server.listen({ fd: 3 }, () => require('fs').writeSync(+process.env.NOTIFY_FD, '\\n'));
        process.on('SIGTERM', () => server.close());
    ";
    let mut manager = program.args(["node", "-e", script]).start();
    manager.await_ready(2);
    reload_under_load(&manager, address, 5);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

/// A server of Python, beside the directory of the tests; says so when a test is skipped for it.
fn python_tool(name: &str) -> Option<String> {
    let path = Program::release_path().with_file_name("../python-tools/bin").join(name);
    let path = path.to_string_lossy().into_owned();
    has(&path, "--version").then_some(path)
}

#[test]
fn gunicorn_is_reloaded_under_load() {
    let Some(gunicorn) = python_tool("gunicorn") else { return };
    let address = free_port();
    let listen = format!("tcp://{address}");
    let program = run(&["--listen", &listen, "--workers", "2", "--ready", "notify"]);
    let app = "
import os
def app(environ, start):
    body = f\"worker={os.environ['EINHORN_CHILD_INDEX']} pid={os.getpid()} seq=0\\n\".encode()
    start('200 OK', [('Connection', 'close'), ('Content-Length', str(len(body)))])
    return [body]
";
    std::fs::write(program.path("app.py"), app).expect("a file");
    let command = [gunicorn.as_str(), "--workers=2", "--no-control-socket", "app:app"];
    let mut manager = program.args(command).start();
    manager.await_ready(2);
    manager.await_http(address);
    reload_under_load(&manager, address, 3);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn uvicorn_is_reloaded() {
    let Some(uvicorn) = python_tool("uvicorn") else { return };
    let address = free_port();
    let listen = format!("tcp://{address}");
    let program = run(&["--listen", &listen, "--workers", "2", "--ready", "fd"]);
    let app = "
import os
async def app(scope, receive, send):
    if scope['type'] == 'lifespan':
        await receive()
        await send({'type': 'lifespan.startup.complete'})
        os.write(int(os.environ['NOTIFY_FD']), b'\\n')
        await receive()
        return await send({'type': 'lifespan.shutdown.complete'})
    body = f\"worker={os.environ['EINHORN_CHILD_INDEX']} pid={os.getpid()} seq=0\\n\".encode()
    headers = [(b'connection', b'close'), (b'content-length', str(len(body)).encode())]
    await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
    await send({'type': 'http.response.body', 'body': body})
";
    std::fs::write(program.path("app.py"), app).expect("a file");
    let mut manager = program.args([uvicorn.as_str(), "--fd=3", "app:app"]).start();
    manager.await_ready(2);
    manager.await_http(address);
    // When it stops it resets connections whose request it has not read: nothing for a load.
    for _ in 0..3 {
        assert_eq!(control(&manager.control(), "reload"), "ok");
        manager.await_http(address);
    }
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_bad_new_version_never_takes_the_old_one_down() {
    let (mut manager, address) = serve(&["--ready", "notify"], "notify", "TERM", 2);
    let before = manager.workers();
    manager.behave("crash");
    let answers = thread::scope(|scope| {
        let ask = || control(&manager.control(), "reload");
        let asked = [scope.spawn(ask), scope.spawn(ask)];
        asked.map(|one| one.join().expect("an answer"))
    });
    for answer in answers {
        assert!(answer.starts_with("error: ") && answer.contains("exit status 1"), "{answer}");
    }
    eventually("the old ones are alone", || manager.workers() == before);
    assert!(try_http_get(address).is_ok());
    assert_eq!(manager.stop(), 0);
}

#[test]
fn the_control_socket_says_and_does() {
    let (mut manager, _) = serve(&["--ready", "notify"], "notify", "TERM", 2);
    let ask = |text: &str| control(&manager.control(), text);
    let status = || serde_json::from_str::<serde_json::Value>(&ask("status")).expect("JSON");
    assert_eq!(ask("ping"), "pong");
    let told = status();
    assert_eq!(told["master"], manager.pid());
    assert_eq!(told["workers"][1]["state"], "ready");
    assert!(told["workers"][0]["memory_kb"].as_u64().is_some_and(|memory| memory > 100), "{told}");
    assert_eq!(ask("scale 3"), "ok");
    assert_eq!(manager.workers().len(), 3);
    manager.signal(Signal::SIGTTOU);
    eventually("one worker less", || manager.workers().len() == 2);
    let before = status()["workers"][1]["pid"].clone();
    assert_eq!(ask("restart 1"), "ok");
    assert_ne!(status()["workers"][1]["pid"], before);
    for wrong in ["scale", "scale x", "restart 77", "sing", ""] {
        assert!(ask(wrong).starts_with("error: "), "{wrong}");
    }
    assert_eq!(ask("stop"), "ok");
    assert_eq!(manager.wait().code(), Some(0), "{}", manager.stderr());
}

#[test]
fn others_may_do_what_they_are_named_for() {
    if !is_root("others_may_do_what_they_are_named_for") {
        return;
    }
    let options = ["--ready", "0", "--allow-read", "nobody", "--allow-operate", "daemon"];
    let mut manager = shell(&options, "exec sleep 1000").start();
    manager.await_ready(1);
    let path = manager.control();
    let directory = path.parent().expect("a directory");
    std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("a mode");
    let ask = |login: &str, text: &str| {
        let script = "import socket,struct,sys\n\
            s=socket.socket(socket.AF_UNIX)\n\
            s.connect(sys.argv[1]); m=sys.argv[2].encode()\n\
            s.sendall(struct.pack('>I',len(m))+m)\n\
            print(s.recv(65536)[4:].decode())";
        let account = Account::named(login);
        let output = Command::new("setpriv")
            .args([format!("--reuid={}", account.uid), format!("--regid={}", account.gid)])
            .args(["--clear-groups", "/usr/bin/python3", "-c", script])
            .arg(&path)
            .arg(text)
            .output()
            .expect("setpriv and Python");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert!(ask("nobody", "status").starts_with('{'));
    assert!(ask("nobody", "reload").contains("permission denied"));
    assert_eq!(ask("daemon", "scale 2"), "ok");
    assert!(ask("daemon", "stop").contains("permission denied"));
    assert_eq!(ask("bin", "status"), "");
    assert_eq!(manager.stop(), 0);
}

#[test]
fn a_socket_file_is_as_asked_for_and_goes_with_the_manager() {
    let program = run(&["--ready", "notify", "--listen", "unix://web.sock?mode=0622"]);
    let mut manager = program.any_worker("notify", "TERM").start();
    manager.await_ready(1);
    let path = manager.path("web.sock");
    assert_eq!(std::fs::metadata(&path).expect("a socket").mode() & 0o777, 0o622);
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    assert_eq!(manager.stop(), 0);
    assert!(!path.exists());
}

#[test]
fn sockets_of_systemd_keep_their_names() {
    if !has("systemd-socket-activate", "--version") {
        return;
    }
    let address = free_port();
    let line = "env > out.new; mv out.new out; exec sleep 1000";
    let program = Program::command(
        &["systemd-socket-activate", "-l", &address.to_string(), "--fdname", "web"],
        Path::new("env"),
    );
    let mut manager = program
        .args([Program::release_path()])
        .args(["run", "--control", "control", "--ready", "1", "--", "sh", "-c", line])
        .start();
    eventually("it listens", || std::net::TcpStream::connect(address).is_ok());
    eventually("it has written its environment", || manager.path("out").exists());
    let text = std::fs::read_to_string(manager.path("out")).expect("a file");
    let said = |line: &str| text.lines().any(|other| other == line);
    assert!(said("LISTEN_FDNAMES=web") && said("LISTEN_FDS=1") && said("EINHORN_FDS=3"), "{text}");
    std::fs::remove_file(manager.path("out")).expect("a file");
    let before = manager.workers();
    assert_eq!(control(&manager.control(), "upgrade"), "ok", "{}", manager.stderr());
    eventually("the next one has its socket", || manager.path("out").exists());
    eventually("the old one is gone", || {
        manager.workers().iter().all(|worker| !before.contains(worker))
    });
    let text = std::fs::read_to_string(manager.path("out")).expect("a file");
    assert!(text.contains("LISTEN_FDNAMES=web\n"), "{text}");
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn systemd_is_told_what_happens() {
    let program = run(&["--ready", "notify"]);
    let path = program.path("notify");
    let systemd = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
    systemd.set_read_timeout(Some(release_tests::DEADLINE)).expect("a timeout");
    let hear = |wanted: &str| {
        let mut bytes = [0; 4096];
        loop {
            let length = systemd.recv(&mut bytes).expect("a message");
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if text.contains(wanted) {
                return text;
            }
        }
    };
    let program = program.with(|command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    });
    let mut manager = program.any_worker("notify", "TERM").start();
    hear("STATUS=1 of 1 workers ready, generation 1");
    hear("READY=1");
    hear("WATCHDOG=1");
    manager.signal(Signal::SIGHUP);
    assert!(hear("RELOADING=1").contains("\nMONOTONIC_USEC="));
    hear("STATUS=1 of 1 workers ready, generation 2");
    hear("READY=1");
    manager.behave("crash");
    manager.signal(Signal::SIGHUP);
    hear("RELOADING=1");
    hear("; as before, since worker 0 ended before it was ready: exit status 1");
    hear("READY=1");
    assert!(control(&manager.control(), "status").contains("\"last_exit\":\"exit status 1\""));
    manager.signal(Signal::SIGTERM);
    hear("STOPPING=1");
    assert_eq!(manager.wait().code(), Some(0), "{}", manager.stderr());
}

#[test]
fn as_process_1_it_reaps_orphans() {
    if !is_root("as_process_1_it_reaps_orphans") {
        return;
    }
    let line = "for i in 1 2 3 4 5; do (sleep 0.1 & exec sleep 0.05) & done; exec sleep 1000";
    let launcher = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "env"];
    let mut manager = Program::release_under(&launcher)
        .args(["run", "--control", "control", "--ready", "0", "--respawn", "never", "--"])
        .args(["sh", "-c", line])
        .start();
    manager.await_ready(1);
    let init = manager.workers()[0];
    eventually("the worker and no zombie is left", || {
        release_tests::children(init.0).len() == 1 && release_tests::zombies(init.0).is_empty()
    });
    init.signal(Signal::SIGTERM);
    assert_eq!(manager.wait().code(), Some(0), "{}", manager.stderr());
}

#[test]
fn a_descriptor_is_passed_on() {
    let script = "import os,socket,sys\n\
        s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen()\n\
        os.dup2(s.fileno(),7)\n\
        os.execvp(sys.argv[1],sys.argv[1:])";
    let release = Program::release_path();
    let (code, log) = Program::command(&["python3", "-c", script], &release)
        .args(["run", "--listen", "fd://7", "--ready", "0", "--respawn", "never", "--"])
        .args(["sh", "-c", "readlink /proc/self/fd/3 >&2"])
        .run();
    assert!(code == 0 && log.contains("] socket:["), "{log}");
    let (code, log) = Program::release().args(["run", "--listen", "fd://9", "--", "true"]).run();
    assert!(code == 1 && log.contains("descriptor 9 was not passed"), "{log}");
}

#[test]
fn a_descriptor_is_there_after_an_upgrade_and_in_its_trial() {
    let script = "import os,socket,sys\n\
        s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen()\n\
        os.dup2(s.fileno(),7)\n\
        os.execvp(sys.argv[1],sys.argv[1:])";
    let release = Program::release_path();
    let mut manager = Program::command(&["python3", "-c", script], &release)
        .args(["run", "--listen", "fd://7", "--control", "control", "--ready", "1", "--"])
        .args(["sh", "-c", "readlink /proc/self/fd/3 >&2; exec sleep 1000"])
        .start();
    let sockets = || manager.stderr().matches("] socket:[").count();
    eventually("it has its socket", || sockets() == 1);
    eventually("it is ready", || {
        try_control(&manager.control(), "upgrade").is_ok_and(|it| it == "ok")
    });
    eventually("so has the next one", || sockets() > 1);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn an_upgrade_loses_nothing() {
    let address = free_port();
    let installed = Installed::cli();
    let program = installed.program().args(["run", "--control", "control", "--workers", "2"]);
    let program =
        program.args(["--listen", &format!("tcp://{address}"), "--ready", "notify", "--"]);
    let out = program.path("out");
    let file = std::fs::File::create(&out).expect("a file");
    let program = program.with(|command| {
        command.stdout(file);
    });
    let mut manager = program.any_worker("notify", "TERM").start();
    manager.await_ready(2);
    let is_over = AtomicBool::new(false);
    let (answers, failures) = thread::scope(|scope| {
        let loading = scope.spawn(|| load(address, |_| !is_over.load(Ordering::Relaxed)));
        for _ in 0..5 {
            let before = manager.workers();
            installed.install(&Program::release_path());
            assert_eq!(control(&manager.control(), "upgrade"), "ok", "{}", manager.stderr());
            assert!(installed.is_run_by(manager.process()));
            eventually("the old ones are gone", || {
                manager.workers().iter().all(|worker| !before.contains(worker))
            });
        }
        is_over.store(true, Ordering::Relaxed);
        loading.join().expect("the load")
    });
    assert!(failures.is_empty() && !answers.is_empty(), "{failures:?}; {}", manager.stderr());
    // What the old ones wrote to pipes that came from an earlier version was read to the end.
    let text = || std::fs::read_to_string(&out).unwrap_or_default();
    eventually("ten have stopped", || text().matches("] stops\n").count() == 10);
    assert_eq!(text().matches("] ready\n").count(), 12, "{}", text());
    installed.install_script("exit 3");
    let answer = control(&manager.control(), "upgrade");
    assert!(answer.starts_with("error: ") && answer.contains("exit status 3"), "{answer}");
    assert!(try_http_get(address).is_ok());
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn output_says_who_wrote_it() {
    let (code, log) =
        shell(&["--ready", "0", "--respawn", "on-failure"], "echo $$ is my pid >&2").run();
    assert_eq!(code, 0, "{log}");
    let line = log.lines().find(|line| line.ends_with(" is my pid")).expect("the line");
    let (who, said) = line.split_once("] ").expect("a prefix");
    assert_eq!(who, format!("[0 {}", said.split(' ').next().expect("a pid")));
}

#[test]
fn a_slow_log_holds_nobody_up() {
    let program = shell(&["--ready", "0"], "yes >&2 & while :; do echo x; sleep 0.01; done");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    // Nobody reads from it.
    let mut manager = program
        .with(|command| {
            command.stdout(writer);
        })
        .start();
    manager.await_ready(1);
    for _ in 0..20 {
        assert_eq!(control(&manager.control(), "ping"), "pong");
        thread::sleep(std::time::Duration::from_millis(50));
    }
    drop(reader);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_configuration_file_is_read_again() {
    let address = free_port();
    let program = Program::release().args(["run", "--control", "control", "--config", "run.conf"]);
    let file = program.path("run.conf");
    let write = |workers: &str, mode: &str| {
        let line = "echo $MODE $0 > mode.$EINHORN_CHILD_INDEX; exec sleep 1000";
        let text = format!(
            "listen = [\"tcp://{address}\"]\nworkers = {workers}\nready = 100ms\n\
             env = [\"MODE={mode}\"]\ncommand = [\"sh\", \"-c\", \"{line}\", \"{mode}!\"]\n"
        );
        std::fs::write(&file, text).expect("a file");
    };
    write("1", "old");
    let mut manager = program.start();
    manager.await_ready(1);
    let mode = |id: u32| {
        let text = std::fs::read_to_string(manager.path(&format!("mode.{id}")));
        text.unwrap_or_default().trim().to_owned()
    };
    eventually("the variable is there", || mode(0) == "old old!");
    write("2", "new");
    assert_eq!(control(&manager.control(), "reload"), "ok");
    manager.await_ready(2);
    eventually("the new one is there", || mode(0) == "new new!" && mode(1) == "new new!");
    write("many", "worse");
    let answer = control(&manager.control(), "reload");
    assert!(answer.starts_with("error: ") && answer.contains("run.conf:2"), "{answer}");
    assert_eq!(manager.workers().len(), 2);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn the_background_says_whether_it_is_up() {
    let program = |line: &str| {
        let options = ["--background", "--pid-file", "pid", "--ready", "0.2", "--respawn", "never"];
        shell(&options, line)
    };
    let up = program("exec sleep 1000");
    let pid = up.path("pid");
    let mut running = up.start();
    assert_eq!(running.wait().code(), Some(0), "{}", running.stderr());
    let daemon = release_tests::Daemon::named_in(&pid);
    assert_eq!(daemon.workers().len(), 1);
    daemon.stop();
    let (code, log) = program("exit 7").run();
    assert!(code == 1 && log.contains("exit status 7"), "{log}");
}

#[test]
fn one_at_a_time_with_a_pid_file() {
    let mut first = shell(&["--pid-file", "pid", "--ready", "0"], "exec sleep 1000").start();
    first.await_ready(1);
    let text = std::fs::read_to_string(first.path("pid")).expect("a pid file");
    assert_eq!(text.trim(), first.pid().to_string());
    let pid_file = first.path("pid");
    let second = Program::release().args(["run", "--pid-file"]).args([&pid_file]);
    let (code, log) = second.args(["--", "sleep", "1000"]).run();
    assert!(code == 1 && log.contains(&first.pid().to_string()), "{log}");
    let full = Program::release().args(["run", "--pid-file", "/proc/version/pid", "--", "true"]);
    let (code, log) = full.run();
    assert!(code == 1 && log.contains("/proc/version/pid"), "{log}");
    assert_eq!(first.stop(), 0);
}

#[test]
fn as_many_workers_as_processors() {
    let release = Program::release_path();
    let program = Program::command(&["taskset", "-c", "0"], &release);
    let mut manager = program
        .args(["run", "--control", "control", "--workers", "auto", "--ready", "0"])
        .args(["--", "sleep", "1000"])
        .start();
    manager.await_ready(1);
    assert_eq!(manager.workers().len(), 1);
    assert_eq!(manager.stop(), 0);
}

#[test]
fn quit_ends_everything_at_once_and_a_killed_manager_leaves_nothing() {
    let line = "trap '' TERM INT; while :; do sleep 1; done";
    let mut manager = shell(&["--ready", "0", "--workers", "2"], line).start();
    manager.await_ready(2);
    manager.signal(Signal::SIGQUIT);
    assert_eq!(manager.wait().code(), Some(3), "{}", manager.stderr());
    let mut manager = shell(&["--ready", "0", "--workers", "2"], line).start();
    manager.await_ready(2);
    let workers = manager.workers();
    manager.signal(Signal::SIGKILL);
    manager.wait();
    eventually("no worker is left", || workers.iter().all(|worker| !is_alive(worker.0)));
}

#[test]
fn too_few_descriptors_are_no_end() {
    let release = Program::release_path();
    let program = Program::command(&["prlimit", "--nofile=40:40"], &release);
    let mut manager = program
        .args(["run", "--control", "control", "--ready", "0.1", "--", "sleep", "1000"])
        .start();
    manager.await_ready(1);
    let answer = control(&manager.control(), "scale 30");
    assert!(answer.contains("Too many open files"), "{answer}");
    eventually("the one is left", || manager.workers().len() == 1);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn misuse_is_explained() {
    for (arguments, expected) in [
        (&["run", "--", "no-such-program"][..], "no program `no-such-program`"),
        (&["run"], "no command"),
        (&["run", "--stop-sginal", "HUP", "--", "true"], "--stop-signal"),
        (&["run", "--stop-signal", "WHAT", "--", "true"], "TERM, HUP"),
        (&["run", "--listen", "udp://:1", "--", "true"], "tcp://"),
        (&["run", "--user", "no-such-user", "--", "true"], "no-such-user"),
    ] {
        let (code, log) = Program::release().args(arguments).run();
        assert!((code == 1 || code == 2) && log.contains(expected), "{arguments:?}: {code} {log}");
    }
}

/// `release ctl`: exit code, standard output and standard error.
fn ctl(manager: &Running, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(Program::release_path())
        .args(["ctl", "--control"])
        .arg(manager.control())
        .args(arguments)
        .output()
        .expect("release ctl");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn two_reloads_at_once_are_both_answered() {
    let (mut manager, address) = serve(&["--ready", "notify"], "notify", "TERM", 2);
    let both = |expected: Option<i32>| {
        thread::scope(|scope| {
            let asked = [(); 2].map(|()| scope.spawn(|| ctl(&manager, &["reload"])));
            for answer in asked {
                let (code, _, why) = answer.join().expect("an answer");
                assert_eq!(code, expected, "{why}");
            }
        });
    };
    let before = manager.workers();
    both(Some(0));
    eventually("two others are there", || {
        let now = manager.workers();
        now.len() == 2 && now.iter().all(|worker| !before.contains(worker))
    });
    let before = manager.workers();
    manager.behave("crash");
    both(Some(1));
    eventually("the two are left", || manager.workers() == before);
    assert!(try_http_get(address).is_ok());
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_version_that_hangs_loses_nothing_and_the_reload_says_so() {
    let options = ["--ready", "notify", "--start-timeout", "2"];
    let (mut manager, address) = serve(&options, "notify", "TERM", 1);
    let before = manager.workers();
    manager.behave("hang");
    let is_over = AtomicBool::new(false);
    let (answers, failures) = thread::scope(|scope| {
        let loading = scope.spawn(|| load(address, |_| !is_over.load(Ordering::Relaxed)));
        let (code, _, why) = ctl(&manager, &["reload"]);
        is_over.store(true, Ordering::Relaxed);
        assert!(code == Some(1) && why.contains("not ready within 2s"), "{code:?}: {why}");
        loading.join().expect("the load")
    });
    assert!(failures.is_empty() && !answers.is_empty(), "{failures:?}; {}", manager.stderr());
    eventually("the old one is alone", || manager.workers() == before);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_stale_control_socket_is_replaced_and_a_live_one_is_not() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("control");
    let program = || {
        let program = Program::release().args(["run", "--ready", "0", "--control"]).args([&path]);
        program.args(["--", "sleep", "1000"])
    };
    let answers = || try_control(&path, "ping").is_ok_and(|answer| answer == "pong");
    let mut killed = program().start();
    eventually("the first one answers", answers);
    killed.signal(Signal::SIGKILL);
    killed.wait();
    assert!(path.exists() && !answers(), "nobody was left to remove it");
    let mut next = program().start();
    eventually("the next one answers", answers);
    let (code, log) = program().run();
    assert!(code == 1 && log.contains("somebody answers on the control socket"), "{log}");
    assert!(log.contains(&path.display().to_string()) && answers(), "{log}");
    assert_eq!(next.stop(), 0, "{}", next.stderr());
    assert!(!path.exists());
}

#[test]
fn a_full_disk_is_said_for_the_pid_file_and_survived_for_the_log() {
    let release = Program::release_path();
    if is_root("mounting a full disk") {
        // `cd`: into what is mounted there now.
        let full = "mount -t tmpfs -o size=4k none . && cd $PWD && head -c 4096 /dev/zero > file; \
                    exec \"$@\"";
        let program = Program::command(&["unshare", "--mount", "sh", "-c", full, "sh"], &release);
        let (code, log) = program.args(["run", "--pid-file", "pid", "--", "sleep", "1000"]).run();
        assert!(code == 1 && log.contains("/pid: No space left on device"), "{log}");
    }
    let full = "exec \"$@\" >/dev/full 2>/dev/full";
    let mut manager = Program::command(&["sh", "-c", full, "sh"], &release)
        .args(["run", "--control", "control", "--ready", "0.1", "--"])
        .args(["sh", "-c", "while :; do echo word; sleep 0.01; done"])
        .start();
    eventually("it is ready", || {
        let status = try_control(&manager.control(), "status");
        status.is_ok_and(|status| status.contains("\"state\":\"ready\""))
    });
    assert_eq!(control(&manager.control(), "reload"), "ok");
    assert_eq!(manager.stop(), 0);
}

#[test]
fn ctl_says_what_became_of_it() {
    let (mut manager, _) = serve(&["--ready", "notify"], "notify", "TERM", 2);
    let ctl = |arguments: &[&str]| ctl(&manager, arguments);
    let (code, table, _) = ctl(&["status"]);
    assert!(code == Some(0) && table.contains("2 of 2 workers ready"), "{table}");
    assert_eq!(ctl(&["reload"]).0, Some(0));
    assert_eq!(ctl(&["scale", "3"]).0, Some(0));
    assert_eq!(ctl(&["restart", "2"]).0, Some(0));
    manager.behave("crash");
    let (code, _, why) = ctl(&["reload"]);
    assert!(code == Some(1) && why.contains("exit status 1"), "{why}");
    manager.behave("well");
    assert_eq!(ctl(&["upgrade"]).0, Some(0));
    assert_eq!(ctl(&["stop"]).0, Some(0));
    assert_eq!(manager.wait().code(), Some(0), "{}", manager.stderr());
}
