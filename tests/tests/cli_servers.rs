//! `release run` with servers that know nothing of it, reloaded under load.

use release_tests::{Program, Running, control, free_port, has};

#[test]
fn an_einhorn_program_is_reloaded_under_load() {
    let (mut manager, address) = Running::manager(&["--ready", "ack"], "ack", "USR2", 2);
    manager.reload_under_load(address, 10);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_hundred_reloads_lose_nothing() {
    // One worker: there is never another one that could cover for it.
    let (mut manager, address) = Running::manager(&["--ready", "ack"], "ack", "USR2", 1);
    manager.reload_under_load(address, 100);
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
    let program = Program::manager(&[&options[..], &["--ready", "1"]].concat());
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
    manager.reload_under_load(address, 5);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_node_server_is_reloaded_under_load() {
    if !has("node", "--version") {
        return;
    }
    let address = free_port();
    let program = Program::manager(&[
        "--listen",
        &format!("tcp://{address}"),
        "--workers",
        "2",
        "--ready",
        "fd",
    ]);
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
    manager.reload_under_load(address, 5);
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
    let program = Program::manager(&["--listen", &listen, "--workers", "2", "--ready", "notify"]);
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
    manager.reload_under_load(address, 3);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn uvicorn_is_reloaded() {
    let Some(uvicorn) = python_tool("uvicorn") else { return };
    let address = free_port();
    let listen = format!("tcp://{address}");
    let program = Program::manager(&["--listen", &listen, "--workers", "2", "--ready", "fd"]);
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
