//! The pod of `examples/deploy/kubernetes.yaml`, run by `runc`: the image of `Dockerfile.static` under the
//! manifest's security context, with its probes, and replaced behind a balancer.

use std::fs;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::chown;
use release_core::testing::Load;
use release_tests::{
    Backend, CLIENTS, Program, Running, eventually, free_port, has, is_root, on_every_backend,
    try_http_get,
};
use serde_json::{Value, json};

/// Number of answers between two steps of a replacement.
const ANSWERS: usize = 20;

fn deploy(name: &str) -> String {
    let path = release_tests::source("examples/deploy").join(name);
    fs::read_to_string(path).expect("a file")
}

/// The pod of the manifest; says so when a test is skipped because nothing here reads it.
fn pod() -> Option<Value> {
    let convert = "import sys, yaml, json; print(json.dumps(next(yaml.safe_load_all(sys.stdin))))";
    let path = release_tests::source("examples/deploy/kubernetes.yaml");
    let output = Command::new("python3")
        .args(["-c", convert])
        .stdin(fs::File::open(path).expect("a manifest"))
        .output()
        .expect("python3");
    if !output.status.success() {
        eprintln!("skipped: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let deployment: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    Some(deployment["spec"]["template"]["spec"].clone())
}

/// A root directory with a program, `release` and the libraries of both, for all containers.
struct Image {
    directory: tempfile::TempDir,
    pod: Value,
}

impl Image {
    fn new(backend: Backend, pod: Value) -> Self {
        let image = Self { directory: tempfile::tempdir().expect("a directory"), pod };
        // As Dockerfile.static names them.
        image.add(&backend.program("service"), "/usr/local/bin/web");
        image.add(&Program::release_path(), "/usr/local/bin/release");
        for directory in ["proc", "dev", "etc", "run/web", "tmp"] {
            fs::create_dir_all(image.root().join(directory)).expect("a directory");
        }
        let accounts = "nobody:x:65534:65534:nobody:/:/bin/false\n";
        fs::write(image.root().join("etc/passwd"), accounts).expect("a file");
        fs::write(image.root().join("etc/group"), "nobody:x:65534:\n").expect("a file");
        image
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn add(&self, program: &Path, path: &str) {
        self.copy(program, path);
        let libraries = Command::new("ldd").arg(program).output().expect("ldd");
        let libraries = String::from_utf8(libraries.stdout).expect("text");
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            self.copy(Path::new(library), library);
        }
    }

    fn copy(&self, from: &Path, path: &str) {
        let to = self.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
        let copied = Command::new("cp").arg("-L").args([from, &to]).status().expect("cp");
        assert!(copied.success(), "{}", from.display());
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    /// The container of the manifest, at an address of its own in the network of the machine.
    fn config(&self, bundle: &Path, address: SocketAddr) -> Value {
        let (context, container) = (&self.pod["securityContext"], &self.pod["containers"][0]);
        let own = &container["securityContext"];
        assert_eq!(own["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(context["runAsNonRoot"], json!(true));
        let recipe = deploy("Dockerfile.static");
        let entry = recipe.lines().find_map(|line| line.strip_prefix("ENTRYPOINT "));
        let entry: Vec<String> = serde_json::from_str(entry.expect("a line")).expect("a list");
        let place = |word: String| word.replace("0.0.0.0:8080", &address.to_string());
        let environment = recipe.lines().find_map(|line| line.strip_prefix("ENV "));
        let environment: Vec<_> = environment.expect("a line").split(' ').collect();
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=64k"]}),
        ];
        for volume in container["volumeMounts"].as_array().expect("mounts") {
            let source = bundle.join(volume["name"].as_str().expect("a name"));
            // As the kubelet makes it.
            fs::create_dir(&source).expect("a directory");
            let group = context["fsGroup"].as_u64().and_then(|group| u32::try_from(group).ok());
            chown(&source, None, Some(group.expect("a group").into())).expect("a group");
            fs::set_permissions(&source, fs::Permissions::from_mode(0o2777)).expect("a mode");
            mounts.push(json!({"destination": volume["mountPath"], "type": "bind",
                "source": source, "options": ["bind", "nosuid", "nodev"]}));
        }
        let none: [&str; 0] = [];
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": context["runAsUser"], "gid": context["runAsGroup"]},
                "args": entry.into_iter().map(place).collect::<Vec<_>>(),
                "env": environment,
                "cwd": "/",
                "capabilities": {"bounding": none, "effective": none, "permitted": none,
                    "inheritable": none, "ambient": none},
                "noNewPrivileges": own["allowPrivilegeEscalation"] == json!(false),
            },
            "root": {"path": self.root(), "readonly": own["readOnlyRootFilesystem"]},
            "mounts": mounts,
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
                "maskedPaths": ["/proc/kcore", "/proc/keys"],
                "readonlyPaths": ["/proc/sys"],
            },
        })
    }

    fn state(&self) -> String {
        self.directory.path().join("state").to_string_lossy().into_owned()
    }

    /// The directory of a container at this address, or of one that runs another command.
    fn bundle(&self, name: &str, address: SocketAddr, other: Option<Value>) -> String {
        let bundle = self.directory.path().join(name);
        fs::create_dir(&bundle).expect("a directory");
        let mut config = self.config(&bundle, address);
        if let Some(command) = other {
            config["process"]["args"] = command;
        }
        fs::write(bundle.join("config.json"), config.to_string()).expect("a file");
        bundle.to_string_lossy().into_owned()
    }

    fn start(&self, name: &str) -> Container<'_> {
        let (address, state, id) = (free_port(), self.state(), id(name));
        let bundle = self.bundle(name, address, None);
        let words = ["runc", "--root", &state, "run", "--bundle", &bundle];
        let running = Program::command(&words, Path::new(&id)).start();
        Container { id, state, address, running, image: self }
    }
}

struct Container<'a> {
    id: String,
    state: String,
    address: SocketAddr,
    running: Running,
    image: &'a Image,
}

impl Container<'_> {
    fn runc(&self, words: &[&str]) -> (bool, String) {
        let output = Command::new("runc").args(["--root", &self.state]).args(words).output();
        let output = output.expect("runc");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Whether a probe of the manifest passes.
    fn probe(&self, name: &str) -> bool {
        let command = &self.image.pod["containers"][0][name]["exec"]["command"];
        let command = command.as_array().expect("a command").iter();
        let words = ["exec", &self.id].into_iter().chain(command.filter_map(Value::as_str));
        self.runc(&words.collect::<Vec<_>>()).0
    }

    fn await_ready(&self) {
        eventually(&format!("{} is ready; log: {}", self.id, self.running.stderr()), || {
            self.probe("readinessProbe")
        });
        assert!(self.probe("livenessProbe"), "{}", self.running.stderr());
    }

    /// Ends it as Kubernetes does, within the time of the manifest.
    fn terminate(mut self) {
        let grace = self.image.pod["terminationGracePeriodSeconds"].as_u64().expect("seconds");
        let begin = Instant::now();
        let (done, said) = self.runc(&["kill", &self.id, "TERM"]);
        assert!(done, "{said}");
        let status = self.running.wait();
        assert!(status.success(), "{status}: {}", self.running.stderr());
        assert!(begin.elapsed() < Duration::from_secs(grace), "{:?}", begin.elapsed());
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.runc(&["delete", "--force", &self.id]);
    }
}

/// Passes each new connection to the next of some servers.
struct Balancer {
    address: SocketAddr,
    servers: Servers,
    is_over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

type Servers = Arc<Mutex<Vec<Arc<Server>>>>;

struct Server {
    address: SocketAddr,
    /// Connections that will be made.
    planned: AtomicUsize,
}

impl Server {
    fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self { address, planned: AtomicUsize::new(0) })
    }

    fn pass(&self, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(self.address);
        self.planned.fetch_sub(1, Ordering::Relaxed);
        let server = server?;
        let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
        let there = thread::spawn(move || {
            let passed = io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Write);
            passed
        });
        let (mut from_server, mut to_client) = (server, client);
        io::copy(&mut from_server, &mut to_client)?;
        to_client.shutdown(Shutdown::Both)?;
        there.join().map_or(Ok(()), |passed| passed.map(drop))
    }
}

impl Balancer {
    fn new(servers: Vec<Arc<Server>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (servers, is_over) = (Arc::new(Mutex::new(servers)), Arc::new(AtomicBool::new(false)));
        let (its_servers, its_end) = (Arc::clone(&servers), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                if its_end.load(Ordering::Relaxed) {
                    break;
                }
                let server = {
                    let servers = its_servers.lock().expect("a list");
                    let next = Arc::clone(&servers[number % servers.len()]);
                    next.planned.fetch_add(1, Ordering::Relaxed);
                    next
                };
                thread::spawn(move || client.and_then(|client| server.pass(client)));
            }
        });
        Self { address, servers, is_over, thread: Some(thread) }
    }

    /// Replaces a server. The earlier one gets no new connections from then on.
    fn replace(&self, number: usize, address: SocketAddr) {
        let new = Server::new(address);
        let old = std::mem::replace(&mut self.servers.lock().expect("a list")[number], new);
        eventually("nothing more is on its way to it", || old.planned.load(Ordering::Relaxed) == 0);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// Whether this machine can run containers; says so when it cannot.
fn can_run(image: &Image) -> bool {
    let bundle = image.bundle("first", free_port(), Some(json!(["release", "--version"])));
    let output = Command::new("runc")
        .args(["--root", &image.state(), "run", "--bundle", &bundle, &id("first")])
        .output()
        .expect("runc");
    let [said, log] =
        [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    assert!(!output.status.success() || said.starts_with("release "), "{said}{log}");
    if !output.status.success() {
        eprintln!("skipped: runc cannot run containers here: {log}");
    }
    output.status.success()
}

/// The name of a container.
fn id(name: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("release-test-{}-{number}-{name}", std::process::id())
}

on_every_backend! {
    fn containers_are_replaced_behind_a_balancer_without_loss(backend: Backend) {
        if !is_root("containers") || !has("runc", "--version") {
            return;
        }
        let Some(pod) = pod() else { return };
        let image = Image::new(backend, pod);
        if !can_run(&image) {
            return;
        }
        let old = ["old-1", "old-2"].map(|name| image.start(name));
        old.iter().for_each(Container::await_ready);
        let servers = old.iter().map(|container| Server::new(container.address));
        let balancer = Balancer::new(servers.collect());
        let address = balancer.address;
        let load = Load::start(CLIENTS, move |_| move || try_http_get(address));
        let more = || {
            let before = load.made();
            eventually("clients are answered", || load.made() >= before + ANSWERS);
        };
        more();
        let mut new = Vec::new();
        for (number, container) in old.into_iter().enumerate() {
            let next = image.start(&format!("new-{number}"));
            next.await_ready();
            // The endpoint of the new pod appears, that of the old one goes, then it is told to stop.
            balancer.replace(number, next.address);
            container.terminate();
            more();
            new.push(next);
        }
        let ended = load.stop();
        assert!(ended.failures.is_empty(), "{:?}", ended.failures);
        assert!(ended.answers.len() >= 3 * ANSWERS, "{}", ended.answers.len());
        drop(balancer);
        new.into_iter().for_each(Container::terminate);
    }
}
