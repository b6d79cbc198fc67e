//! Plain mode is for everybody: Python on either side of it, and the bytes of the OCaml programs.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;
use release_core::ControlSocket;
use release_core::rt::run;
use release_tests::{
    ControlClient, Program, Running, eventually, frames, in_process, on_every_backend, source,
};

/// A file of the examples, where every user can read it.
fn script(name: &str, directory: &Path) -> PathBuf {
    let source = source("examples/python").join(name);
    let copy = directory.join(name);
    std::fs::copy(source, &copy).expect("a copy");
    for path in [directory, &copy] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("a mode");
    }
    copy
}

fn python(script: &Path) -> Command {
    let mut command = Command::new("python3");
    command.arg(script);
    command
}

on_every_backend! {
    fn a_control_client_in_python(backend: Backend) {
        let (service, _) = Running::service(backend, 1, &[]);
        let client = script("control_client.py", &service.path("."));
        let output = python(&client)
            .arg(service.control())
            .args(["ping", "broadcast caf\u{e9}", "status", "nonsense"])
            .output()
            .expect("Python");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["pong", "sent 1"], "{text}");
        assert!(lines[2].starts_with("{\"master\":") && lines[3].starts_with("error: "), "{text}");
        assert!(output.status.success());
    }

    fn a_worker_in_python(backend: Backend) {
        let program = Program::new(backend, "plain");
        let worker = script("worker.py", &program.path("."));
        let mut master = program.args([&worker]).start();
        for id in 0..2 {
            let answer = format!("the master answered: you are worker {id}, and said: hello from");
            eventually("each worker is answered", || master.stderr().contains(&answer));
        }
        let workers = master.workers();
        assert_eq!(workers.len(), 2);
        for worker in &workers {
            let said = format!("hello from process {}\n", worker.0);
            assert!(master.stderr().contains(&said), "{}", master.stderr());
        }
        assert_eq!(master.stop(), 0, "{}", master.stderr());
    }

    fn a_master_in_python(backend: Backend) {
        let program = Program::new(backend, "plain");
        let master = script("master.py", &program.path("."));
        let mut command = python(&master);
        command.arg(backend.program("plain")).arg("--worker");
        if geteuid().is_root() {
            command.arg("nobody");
        }
        let output = command.output().expect("Python");
        let asked = String::from_utf8_lossy(&output.stdout);
        let answered = String::from_utf8_lossy(&output.stderr);
        assert_eq!(asked, "asked: one\nasked: two\nasked: bye\n", "{answered}");
        let expected = "the master answered: ONE\nthe master answered: TWO\n\
                        the master answered: good bye\n";
        assert_eq!(answered, expected);
        assert!(output.status.success(), "{:?}", output.status);
    }

    fn the_bytes_are_those_of_the_ocaml_programs(backend: Backend) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control");
        let socket = ControlSocket::new(&path).frame_limit(8 << 20).bind().expect("bound");
        let (ended, end) = futures_channel::oneshot::channel::<()>();
        let served = std::thread::spawn(move || in_process(backend, |driver| {
            let rt = driver.handle();
            let serving = socket.serve(&rt, |_, request: String| async move { Ok(shout(&request)) });
            run(driver, async { futures_util::future::select(Box::pin(serving), end).await });
        }));
        let mut peer = UnixStream::connect(&path).expect("a connection");
        for (sent, expected) in vectors() {
            exchange(&mut peer, &sent, &expected);
        }
        let mut slow = ControlClient::connect(&path).expect("a connection");
        for byte in frames(["slow"]) {
            slow.throw(&[byte]);
        }
        assert_eq!(slow.receive().expect("an answer"), b"SLOW");
        drop(ended);
        served.join().expect("the server ends");
    }
}

/// What the source's test/master.ml answers.
fn shout(request: &str) -> String {
    if request.starts_with("broadcast:") {
        return "bcastok".to_owned();
    }
    request.to_ascii_uppercase()
}

/// What a client sends, and what it gets (OCAML.md).
fn vectors() -> Vec<(Vec<u8>, Vec<u8>)> {
    let control: Vec<u8> = [0, 0, 0, 0x20].into_iter().chain(0..0x20).collect();
    let of = |header: u32, byte: u8| {
        let body = vec![byte; usize::try_from(header).expect("a length")];
        [&header.to_be_bytes()[..], &body].concat()
    };
    vec![
        (hex("000000076578616d706c65"), hex("000000074558414d504c45")),
        (hex("0000001562726f6164636173743a6d7962726f616463617374"), hex("0000000762636173746f6b")),
        (hex("0000000568656c6c6f"), hex("0000000548454c4c4f")),
        (hex("0000000161"), hex("0000000141")),
        (hex("00000002c3a9"), hex("00000002c3a9")),
        (control.clone(), control),
        (hex("000000036f6e650000000374776f000000057468726565"), frames(["ONE", "TWO", "THREE"])),
        (hex("00000000"), hex("00000000")),
        (of(0x0001_0000, b'x'), of(0x0001_0000, b'X')),
        (of(0x0040_0000, b'x'), of(0x0040_0000, b'X')),
    ]
}

fn hex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect()
}

#[track_caller]
fn exchange(peer: &mut UnixStream, sent: &[u8], expected: &[u8]) {
    peer.write_all(sent).expect("sent");
    let mut received = vec![0; expected.len()];
    peer.read_exact(&mut received).expect("an answer");
    assert!(received == expected, "{:?}", &sent[..sent.len().min(40)]);
}
