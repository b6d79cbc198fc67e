//! The end of each process after each step of a connection that is handed on.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use release_tests::{Backend, Program, Running, control, eventually, free_port, on_every_backend};

/// More than there are.
const STEPS: u32 = 12;

/// A client whose bytes are numbered.
struct Client(TcpStream, u64);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
        let mut client = Self(stream, 0);
        client.ask().expect("an answer");
        client
    }

    fn ask(&mut self) -> io::Result<()> {
        self.1 += 1;
        self.0.write_all(b"x")?;
        let expected = format!("{}\n", self.1);
        let mut answer = vec![0; expected.len()];
        self.0.read_exact(&mut answer)?;
        assert_eq!(String::from_utf8_lossy(&answer), expected, "answered by one worker at a time");
        Ok(())
    }

    /// Returns whether it is served; otherwise it is closed.
    fn is_served(&mut self) -> bool {
        match self.ask() {
            Ok(()) => self.ask().is_ok(),
            // One that is with nobody would wait for ever.
            Err(error) => {
                assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "with nobody");
                false
            }
        }
    }
}

fn start(backend: Backend) -> (Running, SocketAddr) {
    let (program, address) = (Program::new(backend, "steps"), free_port());
    // Its workers have another user.
    let plans = program.path("plans");
    fs::create_dir(&plans).expect("a directory");
    fs::set_permissions(plans, Permissions::from_mode(0o777)).expect("a mode");
    fs::set_permissions(program.path("."), Permissions::from_mode(0o755)).expect("a mode");
    let running = program.args([address.to_string()]).start();
    running.await_ready(1);
    (running, address)
}

fn plan(file: &Path, words: &str) {
    let new = file.with_extension("new");
    fs::write(&new, words).and_then(|()| fs::rename(new, file)).expect("a plan");
}

on_every_backend! {
    fn a_worker_that_dies_after_any_step_leaves_its_connection_to_one(backend: Backend) {
        for who in ["giver", "taker"] {
            let (mut running, address) = start(backend);
            let file = running.path("plans/plan");
            let (mut served, mut step) = (0, 1);
            loop {
                let mut client = Client::connect(address);
                let old = running.workers();
                plan(&file, &format!("{who} {step} own"));
                let _ = control(&running.control(), "reload");
                let is_over = || running.workers().iter().all(|worker| !old.contains(worker));
                eventually("it is over", || !file.exists() || is_over());
                let had_such_a_step = !file.exists();
                let _ = fs::remove_file(&file);
                running.await_ready(1);
                let is_served = client.is_served();
                served += u32::from(is_served);
                if !had_such_a_step {
                    assert!(is_served, "{who} {step}: {}", running.stderr());
                    break;
                }
                step += 1;
                assert!(step < STEPS, "{}", running.stderr());
            }
            assert!(step > 2 && served > 1, "{who}: {step} steps, {served} served");
            assert_eq!(running.stop(), 0, "{}", running.stderr());
        }
    }

    fn a_master_that_dies_after_any_step_leaves_nothing_to_two(backend: Backend) {
        for who in ["giver", "taker"] {
            for step in 1..STEPS {
                let (mut running, address) = start(backend);
                let file = running.path("plans/plan");
                let mut client = Client::connect(address);
                let old = running.workers();
                plan(&file, &format!("{who} {step} master"));
                running.signal(Signal::SIGHUP);
                let is_over = || {
                    let now = running.workers();
                    now.len() == 1 && !old.contains(&now[0])
                };
                eventually("it is over", || !file.exists() || is_over());
                let had_such_a_step = !file.exists();
                running.signal(Signal::SIGKILL);
                let _ = running.wait();
                eventually("no worker is left", || running.processes().is_empty());
                assert!(!client.is_served());
                if !had_such_a_step {
                    assert!(step > 2, "{who}: {step}");
                    break;
                }
            }
        }
    }
}
