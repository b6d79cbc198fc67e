//! `service` with a configuration file: what it says about a wrong one, and when it reads it.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use release_tests::{
    Backend, Daemon, Program, control, eventually, free_port, http_get, is_alive, on_every_backend,
    try_http_get,
};

/// `service` and the file that it is told to read.
fn configured(backend: Backend, text: &str) -> (Program, PathBuf) {
    let program = Program::new(backend, "service");
    let file = program.path("service.conf");
    fs::write(&file, text).expect("a file");
    (program.args(["--config".as_ref(), file.as_os_str()]), file)
}

const WRONG: &str = "workers = 0 user = \"no-such-user\"\nlisten 80\n[web]\n";

on_every_backend! {
    fn all_errors_are_told_with_their_places(backend: Backend) {
        for option in ["--check-config", "--background"] {
            let (program, file) = configured(backend, WRONG);
            let (code, log) = program.args([option]).run();
            assert_eq!(code, 1, "{log}");
            let name = file.display();
            for place in ["1:11: `workers`: ", "1:20: `user`: ", "2:8: ", "3:2: "] {
                assert!(log.contains(&format!("{name}:{place}")), "{place} is missing in: {log}");
            }
            assert!(log.contains("    listen 80\n           ^^\n"), "{log}");
        }
    }

    fn a_right_file_is_said_to_be_right(backend: Backend) {
        let (program, _) = configured(backend, "workers = 2 log = syslog stop-deadline = 1.5s");
        assert_eq!(program.args(["--check-config"]).run(), (0, String::new()));
    }

    fn the_command_line_goes_first(backend: Backend) {
        let address = free_port();
        let text = format!("listen = {address}\nworkers = 3\ncontrol = \"control\"\n");
        let (program, _) = configured(backend, &text);
        let mut service = program.args(["--workers", "1"]).start();
        service.await_http(address);
        http_get(address);
        assert!(service.control().exists());
        assert_eq!(service.workers().len(), 1);
        assert_eq!(service.stop(), 0);
    }

    fn a_reload_reads_it_again(backend: Backend) {
        let address = free_port();
        let text = |workers| format!("listen = {address} control = \"control\" workers = {workers}");
        let (program, file) = configured(backend, &text("1"));
        let mut service = program.start();
        service.await_ready(1);
        fs::write(&file, text("3")).expect("the file");
        service.signal(Signal::SIGHUP);
        service.await_ready(3);
        let is_over = || service.stderr().contains("reloaded") && service.workers().len() == 3;
        eventually("the reload is over, and the old one has gone", is_over);

        let before = service.workers();
        fs::write(&file, text("many")).expect("the file");
        let answer = control(&service.control(), "reload");
        assert!(answer.starts_with("error: "), "{answer}");
        assert!(answer.contains("expected an integer from 1 to 512, found the keyword many"), "{answer}");
        assert_eq!(service.workers(), before);

        fs::write(&file, text("2")).expect("the file");
        assert_eq!(control(&service.control(), "reload"), "ok");
        eventually("there are two", || service.workers().len() == 2);
        http_get(address);
        assert_eq!(service.stop(), 0);
    }

    fn warnings_about_it_are_in_the_log(backend: Backend) {
        let address = free_port();
        let text = format!("listen = {address} control = \"control\" lock-file = \"lock-${{HOME}}\"");
        let (program, _) = configured(backend, &text);
        let mut service = program.start();
        service.await_ready(2);
        let warnings = || service.stderr().matches("warning: ").count();
        assert_eq!(warnings(), 1, "{}", service.stderr());
        assert_eq!(control(&service.control(), "reload"), "ok");
        assert_eq!(warnings(), 2, "{}", service.stderr());
        assert_eq!(service.stop(), 0);
    }

    fn a_reload_that_fails_leaves_as_many_workers_as_there_were(backend: Backend) {
        let address = free_port();
        let text = |workers| format!("listen = {address} control = \"control\" workers = {workers}");
        let (program, file) = configured(backend, &text(1));
        let mut service = program.start();
        service.await_ready(1);
        let ask = |request: &str| control(&service.control(), request);
        assert_eq!(ask("scale 3"), "ok");
        let before = service.workers();
        fs::write(&file, text(2)).expect("the file");
        thread::scope(|scope| {
            let reload = scope.spawn(|| ask("reload"));
            let mut killed = before.clone();
            // Each new one once: on a busy machine the canary time of the first may be over.
            while !reload.is_finished() {
                let new = service.workers().into_iter().filter(|worker| !killed.contains(worker));
                let new: Vec<_> = new.collect();
                new.iter().for_each(|new| new.signal(Signal::SIGKILL));
                killed.extend(new);
                thread::sleep(Duration::from_millis(2));
            }
            let answer = reload.join().expect("an answer");
            assert!(answer.contains("SIGKILL"), "{answer}");
        });
        fs::write(&file, text(1)).expect("the file");
        assert_eq!(ask("reload"), "ok");
        service.await_ready(3);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn it_is_read_before_the_daemon_leaves_its_directory(backend: Backend) {
        let address = free_port();
        let text = format!("listen = {address} background = true lock-file = \"lock\"");
        let (program, _) = configured(backend, &text);
        let mut launcher = program.start();
        assert_eq!(launcher.wait().code(), Some(0), "{}", launcher.stderr());
        assert!(!is_alive(launcher.pid()));
        assert!(try_http_get(address).is_ok());
        Daemon::named_in(&launcher.path("lock")).stop();
    }
}

#[test]
fn what_cannot_be_a_configuration_is_refused_at_once() {
    let check = |file: &str| {
        Program::new(Backend::Tokio, "service").args(["--check-config", "--config", file]).run()
    };
    let place = tempfile::tempdir().expect("a directory");
    let fifo = place.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let large = place.path().join("large");
    let file = fs::File::create(&large).expect("a file");
    file.set_len(1 << 30).expect("a sparse file");
    for file in ["/", "/dev/zero", "/dev/null", "/missing/file"] {
        let (code, log) = check(file);
        assert_eq!(code, 1, "{file}: {log}");
        assert!(log.contains(file), "{log}");
    }
    for file in [&fifo, &large] {
        let (code, log) = check(&file.to_string_lossy());
        assert_eq!(code, 1, "{log}");
        assert!(log.contains(&*file.to_string_lossy()), "{log}");
    }
}

#[test]
fn numbers_that_other_languages_read_differently_are_refused() {
    let (program, file) = configured(Backend::Tokio, "workers = 010");
    let (code, log) = program.args(["--check-config"]).run();
    assert_eq!(code, 1, "{log}");
    assert!(log.contains(&format!("{}:1:11: `010` is no value", file.display())), "{log}");
    assert!(log.contains("an integer has no leading zero, as in 10"), "{log}");
}
