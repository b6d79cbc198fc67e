//! Two versions of a program whose messages are not the same.

use std::fs;

use nix::sys::signal::Signal;
use release_tests::{
    Backend, Installed, Running, control, eventually, on_every_backend, try_control,
};

/// The probe as this version of itself.
fn install(installed: &Installed, backend: Backend, version: char) {
    let mut program = fs::read(backend.program("probe")).expect("a program");
    program.push(u8::try_from(version).expect("a digit"));
    let place = tempfile::NamedTempFile::new().expect("a file");
    fs::write(place.path(), program).expect("a program");
    installed.install(place.path());
}

fn start(backend: Backend, version: char) -> (Installed, Running) {
    let installed = Installed::new(backend, "probe");
    install(&installed, backend, version);
    let running = installed.program().args(["versions", "--control", "control"]).start();
    (installed, running)
}

fn ask(running: &Running) -> String {
    control(&running.control(), "ask")
}

on_every_backend! {
    fn another_request_is_never_carried_out(backend: Backend) {
        let (installed, mut running) = start(backend, '1');
        running.await_ready(1);
        let workers = running.workers();
        assert_eq!(ask(&running), r#"Ok(Answer { said: "Read { id: 7 }" })"#);
        for (version, reason) in [
            ('2', "requests to the master: variant 1 of `Ask` is `Read` in running workers, `Delete` \
                   in the new version (added)"),
            ('4', "requests to the master: field `id` of `Ask::Read` is u32 in running workers, u64 in \
                   the new version"),
            ('5', "answers of the master: field 1 of `Answer` is not there in running workers, `size` \
                   in the new version (added)"),
            ('6', "the version before has left another type: field 1 of `Left` is not there, here \
                   `sum`"),
            ('7', "requests to the master: "),
        ] {
            install(&installed, backend, version);
            let said = control(&running.control(), "upgrade");
            assert!(said.contains(reason), "{version}: {said}");
            assert_eq!(running.workers(), workers);
            assert_eq!(ask(&running), r#"Ok(Answer { said: "Read { id: 7 }" })"#);
        }
        install(&installed, backend, '1');
        assert_eq!(control(&running.control(), "upgrade"), "ok");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_request_that_is_new_at_the_end_changes_no_other(backend: Backend) {
        let (installed, mut running) = start(backend, '1');
        running.await_ready(1);
        let old = running.workers();
        // The new version's workers fail, so that the old one goes on with the new master.
        install(&installed, backend, '9');
        let said = control(&running.control(), "upgrade");
        assert!(said.contains("ended before it was ready"), "{said}");
        assert!(installed.is_run_by(running.process()));
        assert_eq!(running.workers(), old);
        assert_eq!(ask(&running), r#"Ok(Answer { said: "Read { id: 7 }" })"#);
        // Another process of the old version is greeted by the new one.
        old[0].signal(Signal::SIGKILL);
        eventually("it is there again", || running.workers().first().is_some_and(|now| *now != old[0]));
        eventually("it answers", || {
            let said = try_control(&running.control(), "ask");
            said.is_ok_and(|said| said == r#"Ok(Answer { said: "Read { id: 7 }" })"#)
        });
        assert!(!installed.is_run_by(running.workers()[0]));
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_type_that_cannot_be_carried_keeps_a_master_from_starting(backend: Backend) {
        for (version, field) in [('7', "field `to` is left out"), ('8', "`flatten`")] {
            let (_installed, mut running) = start(backend, version);
            assert_eq!(running.wait().code(), Some(1), "{}", running.stderr());
            let log = running.stderr();
            assert!(log.contains(field), "{log}");
        }
    }
}
