//! A process with too few descriptors says so and ends, or works; it neither hangs nor panics.

use release_tests::{
    Backend, Program, eventually, free_port, is_alive, on_every_backend, try_http_get,
};

on_every_backend! {
    fn are_an_error_or_enough(backend: Backend) {
        std::thread::scope(|scope| {
            // With fewer the system cannot even load a program.
            for limit in 4..=20 {
                scope.spawn(move || ends_or_serves(backend, limit));
            }
        });
    }
}

fn ends_or_serves(backend: Backend, limit: u32) {
    let address = free_port();
    let launcher = ["prlimit", &format!("--nofile={limit}")];
    let mut running = Program::under(&launcher, backend, "service")
        .args(["--lock-file", "lock"])
        .listen(address, 1)
        .start();
    eventually("it ends or serves", || !is_alive(running.pid()) || try_http_get(address).is_ok());
    if is_alive(running.pid()) {
        assert_eq!(running.stop(), 0);
    }
    let code = running.wait().code();
    let log = running.stderr();
    assert!(!log.contains("panicked"), "{limit}: {log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(
        code == Some(0) || code == Some(1) && last.contains("open files"),
        "{limit}: {code:?} {log}"
    );
}
