//! The example `service`, from outside.

use nix::sys::signal::Signal;
use release_tests::{Running, control, http_get, on_every_backend};

on_every_backend! {
    fn answers_and_stops_in_order(backend: Backend) {
        let (mut service, address) = Running::service(backend, 2, &["--lock-file", "lock"]);
        let (first, second) = (http_get(address), http_get(address));
        assert_ne!(first.seq, second.seq);
        assert_eq!(control(&service.control(), "ping"), "pong");
        service.signal(Signal::SIGTERM);
        assert_eq!(service.wait().code(), Some(0), "{}", service.stderr());
        assert!(!service.path("lock").exists() && !service.control().exists());
    }
}
