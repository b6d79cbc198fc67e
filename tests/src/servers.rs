//! Servers that know nothing of this project, behind `release run`.

use std::net::SocketAddr;
use std::path::Path;

use crate::{Program, Running, free_port, has};

/// A server once it answers, or nothing where it is not installed.
pub type Served = Option<(Running, SocketAddr)>;

/// nginx, one master process with workers of its own.
#[must_use]
pub fn nginx() -> Served {
    has("nginx", "-v").then(|| {
        let address = free_port();
        // It knows its inherited socket by the address in its configuration.
        let options =
            ["--env", "NGINX=3;", "--stop-signal", "QUIT", "--ready", "1", "--nonblocking"];
        let program = listening(address, &options);
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {name};"))
            .concat();
        let configuration = format!(
            "pid nginx.pid; events {{}} http {{ access_log off; {paths} server {{ listen {address};
            location / {{ return 200 \"worker=0 pid=$pid seq=0\\n\"; }} }} }}"
        );
        std::fs::write(program.path("nginx.conf"), configuration).expect("a file");
        let prefix = program.path("");
        let command = ["nginx", "-e", "stderr", "-g", "daemon off;", "-c", "nginx.conf", "-p"];
        served(program.args(command).args([&prefix]), address, 1)
    })
}

/// Node.
#[must_use]
pub fn node() -> Served {
    has("node", "--version").then(|| {
        let address = free_port();
        let script = include_str!("../programs/servers/server.js");
        let program = listening(address, &["--workers", "2", "--ready", "fd"]);
        served(program.args(["node", "-e", script]), address, 2)
    })
}

/// gunicorn, each with two processes of this kind.
#[must_use]
pub fn gunicorn(class: &str) -> Served {
    let gunicorn = python_tool("gunicorn")?;
    let address = free_port();
    // uvicorn's workers lose what they have just accepted when they are told to stop.
    let each = if class.contains("Uvicorn") { "?each" } else { "" };
    let program =
        listening_on(&format!("{address}{each}"), &["--workers", "2", "--ready", "notify"]);
    let app = if class == "asgi" || class.contains("Uvicorn") { "asgi:app" } else { "wsgi:app" };
    let class = format!("--worker-class={class}");
    // A TERM while it starts its processes misses one of them, for which it waits so long.
    let patience = "--graceful-timeout=5";
    let command = [gunicorn.as_str(), "--workers=2", "--no-control-socket", patience, &class, app];
    Some(served(with_applications(program).args(command), address, 2))
}

/// uvicorn, each process with a socket of its own that is left alone before the process is told to stop.
#[must_use]
pub fn uvicorn() -> Served {
    uvicorn_with("?each", &[])
}

/// uvicorn with one socket for all, as the others have it.
#[must_use]
pub fn uvicorn_with_one_socket() -> Served {
    uvicorn_with("", &[])
}

/// uvicorn that waits for requests on their way.
#[must_use]
pub fn patient_uvicorn() -> Served {
    uvicorn_with("", &["--http=patient:Patient"])
}

fn uvicorn_with(each: &str, options: &[&str]) -> Served {
    let uvicorn = python_tool("uvicorn")?;
    let address = free_port();
    let program = listening_on(&format!("{address}{each}"), &["--workers", "2", "--ready", "fd"]);
    let program = with_applications(program);
    let program = program.args([uvicorn.as_str(), "--fd=3", "--no-access-log"]);
    Some(served(program.args(options).args(["asgi:app"]), address, 2))
}

fn listening(address: SocketAddr, options: &[&str]) -> Program {
    listening_on(&address.to_string(), options)
}

fn listening_on(address: &str, options: &[&str]) -> Program {
    Program::manager(&[&["--listen", &format!("tcp://{address}")], options].concat())
}

fn served(program: Program, address: SocketAddr, workers: usize) -> (Running, SocketAddr) {
    let running = program.start();
    running.await_ready(workers);
    // nginx and gunicorn have workers of their own to start.
    running.await_http(address);
    (running, address)
}

fn with_applications(program: Program) -> Program {
    for (name, text) in [
        ("asgi.py", include_str!("../programs/servers/asgi.py")),
        ("wsgi.py", include_str!("../programs/servers/wsgi.py")),
        ("patient.py", include_str!("../../examples/deploy/patient.py")),
    ] {
        std::fs::write(program.path(name), text).expect("a file");
    }
    program
}

/// Where CI installs it, beside the directory of the tests; says so when a test is skipped for it.
fn python_tool(name: &str) -> Option<String> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python-tools/bin");
    let path = tools.join(name).to_string_lossy().into_owned();
    has(&path, "--version").then_some(path)
}
