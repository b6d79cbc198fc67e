//! `release run`: its options, its control socket and its place among processes.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;
use release_tests::{
    Account, DEADLINE, Daemon, Installed, Program, Running, children, control, eventually,
    free_port, is_root, load, try_control, try_http_get, zombies,
};

#[test]
fn the_control_socket_says_and_does() {
    let (mut manager, _) = Running::manager(&["--ready", "notify"], "notify", "TERM", 2);
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
fn ctl_says_what_became_of_it() {
    let (mut manager, _) = Running::manager(&["--ready", "notify"], "notify", "TERM", 2);
    let ctl = |arguments: &[&str]| manager.ctl(arguments);
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

#[test]
fn others_may_do_what_they_are_named_for() {
    if !is_root("others_may_do_what_they_are_named_for") {
        return;
    }
    let options = ["--ready", "0", "--allow-read", "nobody", "--allow-operate", "daemon"];
    let mut manager = Program::manager_of_shell(&options, "exec sleep 1000").start();
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
fn a_stranger_who_passes_a_descriptor_on_holds_nobody_up() {
    if !is_root("a_stranger_who_passes_a_descriptor_on_holds_nobody_up") {
        return;
    }
    let options = ["--ready", "0", "--allow-read", "nobody"];
    let mut manager = Program::manager_of_shell(&options, "exec sleep 1000").start();
    manager.await_ready(1);
    let path = manager.control();
    let directory = path.parent().expect("a directory");
    std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("a mode");
    // A socket that waits for its peer when it is closed, which the manager is the last to do. Newer
    // kernels refuse to send it.
    let script = "import socket,sys\n\
        server=socket.create_server(('127.0.0.1', 0))\n\
        passed=socket.create_connection(server.getsockname())\n\
        passed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\\1\\0\\0\\0\\0\\4\\0\\0')\n\
        passed.setblocking(False)\n\
        try:\n \
            while True: passed.send(bytes(65536))\n\
        except BlockingIOError: pass\n\
        kept=server.accept()\n\
        stranger=socket.socket(socket.AF_UNIX)\n\
        stranger.connect(sys.argv[1])\n\
        number=passed.fileno().to_bytes(4, sys.byteorder)\n\
        try: stranger.sendmsg([b'word'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, number)])\n\
        except PermissionError: passed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(8))\n\
        passed.close()\n\
        print(flush=True)\n\
        sys.stdin.read()";
    manager.signal(Signal::SIGSTOP);
    let account = Account::named("bin");
    let mut stranger = Command::new("setpriv")
        .args([format!("--reuid={}", account.uid), format!("--regid={}", account.gid)])
        .args(["--clear-groups", "/usr/bin/python3", "-c", script])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("setpriv and Python");
    let mut passed_on = [0];
    stranger.stdout.take().expect("a pipe").read_exact(&mut passed_on).expect("a line");
    manager.signal(Signal::SIGCONT);
    let answer = try_control(&path, "ping");
    drop(stranger.stdin.take());
    stranger.wait().expect("it ends");
    assert_eq!(answer.ok().as_deref(), Some("pong"));
    assert_eq!(manager.stop(), 0);
}

#[test]
fn systemd_is_told_what_happens() {
    let program = Program::manager(&["--ready", "notify"]);
    let path = program.path("notify");
    let systemd = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
    systemd.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let hear = |wanted: &str| {
        let (mut bytes, begun) = ([0; 4096], Instant::now());
        loop {
            // Signs of life come all the time.
            assert!(begun.elapsed() < DEADLINE, "{wanted} is not heard");
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
        children(init.0).len() == 1 && zombies(init.0).is_empty()
    });
    init.signal(Signal::SIGTERM);
    assert_eq!(manager.wait().code(), Some(0), "{}", manager.stderr());
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
    let (code, log) = Program::manager_of_shell(
        &["--ready", "0", "--respawn", "on-failure"],
        "echo $$ is my pid >&2",
    )
    .run();
    assert_eq!(code, 0, "{log}");
    let line = log.lines().find(|line| line.ends_with(" is my pid")).expect("the line");
    let (who, said) = line.split_once("] ").expect("a prefix");
    assert_eq!(who, format!("[0 {}", said.split(' ').next().expect("a pid")));
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
fn a_reload_changes_the_levels_of_the_log_and_warns_of_the_file() {
    let program = Program::release()
        .args(["run", "--control", "control", "--config", "run.conf"])
        .with(|command| {
            command.env_remove("RUST_LOG");
        });
    let file = program.path("run.conf");
    let write = |more: &str| {
        let command = "ready = 0\ncommand = [\"sleep\", \"1000\"]\n";
        std::fs::write(&file, format!("{command}{more}")).expect("a file");
    };
    write("log-level = error\nenv = [\"A=${HOME}\"]\n");
    let mut manager = program.start();
    manager.await_ready(1);
    let reload = || control(&manager.control(), "reload");
    // The levels are in force when the reload is over.
    assert_eq!(reload(), "ok");
    assert_eq!(manager.stderr(), "");
    write("log-level = \"warn\"\nenv = [\"A=${HOME}\"]\n");
    assert_eq!(reload(), "ok");
    assert_eq!(reload(), "ok");
    let log = manager.stderr();
    assert!(log.contains("WARN") && log.contains("run.conf:4:8: warning"), "{log}");
    assert!(!log.contains("INFO"), "{log}");
    write("log-level = loud\n");
    let answer = reload();
    assert!(answer.contains("run.conf:3:") && answer.contains("`loud` is not a level"), "{answer}");
    // Without the key, the default is in force again.
    write("");
    assert_eq!(reload(), "ok");
    assert_eq!(reload(), "ok");
    assert!(manager.stderr().contains("INFO"), "{}", manager.stderr());
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_reload_that_fails_leaves_as_many_workers_as_there_were() {
    let program = Program::release().args(["run", "--control", "control", "--config", "run.conf"]);
    let file = program.path("run.conf");
    let write = |workers: u32, line: &str| {
        let command = format!("command = [\"sh\", \"-c\", \"{line}\"]\n");
        let text = format!("workers = {workers}\nready = 100ms\n{command}");
        std::fs::write(&file, text).expect("a file");
    };
    write(1, "exec sleep 1000");
    let mut manager = program.start();
    manager.await_ready(1);
    let ask = |text: &str| control(&manager.control(), text);
    assert_eq!(ask("scale 3"), "ok");
    write(2, "exit 7");
    assert!(ask("reload").contains("exit status 7"));
    write(1, "exec sleep 1000");
    assert_eq!(ask("reload"), "ok");
    manager.await_ready(3);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_program_never_runs_with_the_arguments_of_another_one_or_none() {
    let program = Program::release().args(["run", "--control", "control", "--config", "run.conf"]);
    let file = program.path("run.conf");
    let write = |text: &str| std::fs::write(&file, text).expect("a file");
    write("ready = 100ms\ncommand = [\"sleep\", \"1000\"]\n");
    let mut manager = program.start();
    manager.await_ready(1);
    let reload = || control(&manager.control(), "reload");
    // A process at its exit has no command line any more.
    let programs = || {
        let lines = manager.workers().into_iter().map(release_tests::Process::command_line);
        lines.filter(|line| !line.is_empty()).collect::<std::collections::HashSet<_>>()
    };
    write("ready = 100ms\ncommand = [\"cat\", \"2000\"]\n");
    assert_eq!(reload(), "ok", "{}", manager.stderr());
    assert_eq!(programs(), ["sleep 1000".to_owned()].into());
    assert!(manager.stderr().contains("another program; in force after a new start"));
    // As it is while an editor writes it.
    write("");
    let answer = reload();
    assert!(answer.starts_with("error: ") && answer.contains("no command"), "{answer}");
    assert_eq!(programs(), ["sleep 1000".to_owned()].into());
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn settings_are_checked_without_a_start() {
    let program = |text: &str| {
        let program = Program::release().args(["run", "--check", "--config", "run.conf"]);
        std::fs::write(program.path("run.conf"), text).expect("a file");
        program
    };
    let good = "listen = [\"tcp://127.0.0.1:1\"]\npid-file = pid\ncontrol = control\nout = out\n\
                command = [\"sleep\", \"1000\"]\n";
    let checked = program(good);
    let file = std::fs::File::create(checked.path("answer")).expect("a file");
    let mut checked = checked.with(|command| _ = command.stdout(file)).start();
    assert_eq!(checked.wait().code(), Some(0), "{}", checked.stderr());
    let line = std::fs::read_to_string(checked.path("answer")).expect("an answer");
    assert!(line.starts_with("ok: /") && line.ends_with("/sleep\n"), "{line:?}");
    let left = ["pid", "control", "out"].map(|name| checked.path(name).exists());
    assert_eq!(left, [false; 3], "nothing is bound or written");
    for (text, expected) in [
        ("workers = many\ncommand = [\"true\"]\n", "run.conf:1:"),
        ("workers = 2\n", "no command"),
        ("command = [\"no-such-program\"]\n", "`no-such-program`"),
        ("command = [\"/etc/passwd\"]\n", "/etc/passwd"),
        ("group = \"no-such-group\"\ncommand = [\"true\"]\n", "`no-such-group`"),
        ("watchdog = 5\ncommand = [\"true\"]\n", "`--ready notify`"),
        ("out = out\nrotate-keep = 3\ncommand = [\"true\"]\n", "say `--rotate`"),
        ("workers = 3\nmax-workers = 2\ncommand = [\"true\"]\n", "grow from 3 to 2"),
        ("listen = [\"fd://2\"]\ncommand = [\"true\"]\n", "from 3 on"),
        ("[program \"a\"]\nafter = [\"typo\"]\ncommand = [\"true\"]\n", "`typo`"),
        (
            "[program \"a\"]\nafter = [\"b\"]\ncommand = [\"true\"]\n\
             [program \"b\"]\nafter = [\"a\"]\ncommand = [\"true\"]\n",
            "never start: `a`, `b`",
        ),
    ] {
        let (code, log) = program(text).run();
        assert!(code == 1 && log.contains(expected), "{expected}: {log}");
    }
    let allowed =
        Program::release().args(["run", "--check", "--allow-read", "daemon", "--", "true"]);
    let (code, log) = allowed.run();
    assert!(code == 1 && log.contains("say `--control`"), "{log}");
}

#[test]
fn several_programs_start_in_order_and_are_told_apart() {
    let program = Program::release().args(["run", "--config", "site.conf"]);
    let shell = |line: &str| format!("command = [\"sh\", \"-c\", \"{line}\"]\n");
    let write = |sections: &str| {
        let text = format!("control = control\nenv = [\"SITE=a\"]\n{sections}");
        std::fs::write(program.path("site.conf"), text).expect("a file");
    };
    let database = "while [ ! -e go ]; do sleep 0.01; done; echo >&3; exec sleep 1000";
    let database = format!("[program \"database\"]\nready = \"fd:3\"\n{}", shell(database));
    let web = "[program \"web\"]\nafter = [\"database\"]\nready = 10ms\nworkers = 2\n";
    let web = format!("{web}{}", shell("echo hello $SITE; exec sleep 1000"));
    write(&format!("{web}{database}"));
    let answer = std::fs::File::create(program.path("answer")).expect("a file");
    let mut manager = program.with(|command| _ = command.stdout(answer)).start();
    let ask = |text: &str| control(&manager.control(), text);
    let workers = || {
        let status: serde_json::Value = serde_json::from_str(&ask("status")).expect("JSON");
        let all = status["workers"].as_array().expect("workers").iter();
        let text = |it: &serde_json::Value, key: &str| it[key].as_str().map(str::to_owned);
        all.filter_map(|it| Some((text(it, "group")?, text(it, "state")?))).collect::<Vec<_>>()
    };
    // The file is there before the socket listens.
    eventually("it answers", || try_control(&manager.control(), "status").is_ok());
    let is = |group: &str, state: &str| workers().contains(&(group.to_owned(), state.to_owned()));
    eventually("the first one starts", || is("database", "starting"));
    assert!(is("web", "waiting") && !is("web", "starting"), "{:?}", workers());
    std::fs::write(manager.path("go"), "").expect("a file");
    eventually("all are ready", || workers().iter().all(|(_, state)| state == "ready"));
    assert!(ask("scale 3").contains("say which program"), "{}", ask("scale 3"));
    assert!(ask("scale nobody 3").starts_with("error: "));
    assert_eq!(ask("scale web 3"), "ok");
    let of_web = |line: &str| line.contains("ready worker=3") && line.contains("group=\"web\"");
    eventually("the log says of which program", || manager.stderr().lines().any(of_web));
    assert_eq!(workers().iter().filter(|(group, _)| group == "web").count(), 3);
    let output = || std::fs::read_to_string(manager.path("answer")).expect("output");
    eventually("its lines are told apart", || {
        output().lines().any(|line| line.starts_with("[web ") && line.ends_with("] hello a"))
    });
    // What needs a new start is said.
    std::fs::write(
        manager.path("site.conf"),
        format!(
            "control = control\n{}[program \"mail\"]\n{}",
            web.replace("after = [\"database\"]\n", ""),
            shell("exec sleep 1000")
        ),
    )
    .expect("a file");
    assert_eq!(ask("reload"), "ok");
    let log = manager.stderr();
    assert!(log.contains("program=\"database\"") && log.contains("program=\"mail\""), "{log}");
    assert_eq!(workers().len(), 4, "{:?}", workers());
    // An upgrade starts one, and ends the other.
    assert_eq!(ask("upgrade"), "ok", "{}", manager.stderr());
    eventually("the programs of the file", || {
        let groups: Vec<_> = workers().into_iter().map(|(group, _)| group).collect();
        groups.len() == 4 && !groups.contains(&"database".to_owned())
    });
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn programs_that_contradict_each_other_do_not_start() {
    let run = |text: &str| {
        let program = Program::release().args(["run", "--config", "site.conf"]);
        std::fs::write(program.path("site.conf"), text).expect("a file");
        program.run()
    };
    let web = "[program \"web\"]\ncommand = [\"sleep\", \"1000\"]\n";
    for (text, expected) in [
        (format!("command = [\"true\"]\n{web}"), "`command`"),
        (format!("{web}after = [\"databse\"]\n"), "`databse`"),
        (format!("{web}after = [\"web\"]\n"), "never start: `web`"),
        (format!("{web}control = control\n"), "site.conf:3:"),
        (format!("{web}[program \"mail\"]\nworkers = 2\n"), "no command"),
    ] {
        let (code, log) = run(&text);
        assert!(code == 1 && log.contains(expected), "{expected}: {log}");
    }
}

#[test]
fn a_worker_that_is_too_old_or_too_large_is_replaced() {
    for limit in [["--max-age", "1"], ["--max-memory", "64K"]] {
        let options = [&limit[..], &["--ready", "0.1"]].concat();
        let mut manager = Program::manager_of_shell(&options, "exec sleep 1000").start();
        manager.await_ready(1);
        let first = manager.workers();
        eventually("another process", || {
            let now = manager.workers();
            !now.is_empty() && now.iter().all(|worker| !first.contains(worker))
        });
        assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    }
}

#[test]
fn the_background_says_whether_it_is_up() {
    let program = |line: &str| {
        let options = ["--background", "--pid-file", "pid", "--ready", "0.2", "--respawn", "never"];
        Program::manager_of_shell(&options, line)
    };
    let up = program("exec sleep 1000");
    let pid = up.path("pid");
    let mut running = up.start();
    assert_eq!(running.wait().code(), Some(0), "{}", running.stderr());
    let daemon = Daemon::named_in(&pid);
    assert_eq!(daemon.workers().len(), 1);
    daemon.stop();
    let (code, log) = program("exit 7").run();
    assert!(code == 1 && log.contains("exit status 7"), "{log}");
}

#[test]
fn one_at_a_time_with_a_pid_file() {
    let mut first =
        Program::manager_of_shell(&["--pid-file", "pid", "--ready", "0"], "exec sleep 1000")
            .start();
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
