//! A master that may write only small files: that is an error where it matters, and never its end.

use std::process::Command;

use release_tests::{Installed, Program, Running, control, free_port, http_get, on_every_backend};

/// Changes the limit of a process that runs.
fn limit(running: &Running, bytes: &str) {
    let (pid, limit) = (format!("--pid={}", running.pid()), format!("--fsize={bytes}:"));
    assert!(Command::new("prlimit").args([pid, limit]).status().expect("prlimit").success());
}

on_every_backend! {
    fn a_lock_file_that_cannot_be_written_is_an_error(backend: Backend) {
        let (code, _) = Program::under(&["prlimit", "--fsize=0"], backend, "service")
            .args(["--lock-file", "lock"])
            .listen(free_port(), 1)
            .run();
        assert_eq!(code, 1, "no signal has ended it");
    }

    fn an_upgrade_that_cannot_be_written_down_changes_nothing(backend: Backend) {
        let installed = Installed::new(backend, "service");
        let (mut service, address) = installed.program().serve(1);
        let worker = service.workers();
        limit(&service, "16");
        let said = control(&service.control(), "upgrade");
        assert!(said.contains("cannot write the state down: File too large"), "{said}");
        http_get(address);
        assert_eq!(service.workers(), worker);
        limit(&service, "unlimited");
        assert_eq!(control(&service.control(), "upgrade"), "ok");
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }
}
