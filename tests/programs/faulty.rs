// A master that makes a mistake on its way to `Master::run`, where and when it is told.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, raise};
use release::config::{Config, Spec, key};
use release::ipc::Request;
use release::net::{Active, Inet, Socket};
use release::supervise::{ReloadPolicy, RestartPolicy};
use release::{
    ControlSocket, Environment, Error, ErrorKind, Exit, Master, MasterHandle, Me, Settings,
    WorkerOptions, Workers, driver, is_worker, log, me,
};
use serde::{Deserialize, Serialize};

/// Asks whether a worker may become ready.
#[derive(Serialize, Deserialize)]
struct MayBeReady;

impl Request for MayBeReady {
    type Response = bool;
}

/// Who the file `fault` speaks of: `MOMENT WHO WHAT`.
fn who() -> &'static str {
    let master = std::fs::read_to_string("lock").unwrap_or_default();
    if master.trim() == std::process::id().to_string() { "master" } else { "trial" }
}

/// Makes the mistake of this moment, once.
fn fault(moment: &str) -> Result<(), Error> {
    let text = std::fs::read_to_string("fault").unwrap_or_default();
    let Some(what) = text.strip_prefix(&format!("{moment} {} ", who())) else { return Ok(()) };
    let _ = std::fs::remove_file("fault");
    let (what, more) = what.split_once(' ').unwrap_or((what, ""));
    match what {
        "error" => return Err(Error::new(ErrorKind::Program, "on purpose")),
        #[allow(clippy::exit)]
        "exit" => std::process::exit(more.parse().unwrap_or(0)),
        #[allow(clippy::exit)]
        "thread-exit" => {
            let _ = std::thread::spawn(|| std::process::exit(4)).join();
        }
        "panic" => panic!("a panic on purpose"),
        "abort" => std::process::abort(),
        "overflow" => println!("{}", overflow(1)),
        "hang" => loop {
            std::thread::sleep(Duration::from_secs(60));
        },
        "few" => few(),
        "poor" => poor(),
        "child" => {
            let _ = std::process::Command::new("sh").args(["-c", "echo /proc/self/fd/* > fds"]).status();
        }
        "write" => {
            let (path, text) = more.split_once(' ').unwrap_or((more, ""));
            let _ = std::fs::write(path, text);
        }
        // Says that it is here, and goes on when it may.
        "await" => {
            let _ = std::fs::write(format!("{more}.asked"), "");
            while !std::path::Path::new(more).exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        "remove" => {
            let _ = std::fs::remove_file(more);
        }
        "blind" => {
            blind();
            return Err(Error::new(ErrorKind::Program, "on purpose"));
        }
        // A log file is moved, and cannot be opened again.
        "block" => {
            let _ = std::fs::rename(more, "away").and_then(|()| std::fs::create_dir(more));
        }
        "take" => std::mem::drop(Box::leak(Box::new(TcpListener::bind(more)))),
        signal => {
            let _ = signal.parse::<Signal>().map(raise);
        }
    }
    Ok(())
}

/// Makes it in a function that cannot return an error.
fn fault_or_panic(moment: &str) {
    fault(moment).unwrap_or_else(|error| panic!("{error}"));
}

/// Nothing can be looked up any more.
fn blind() {
    for file in ["/etc/passwd", "/etc/group"] {
        let _ = std::process::Command::new("mount").args(["--bind", "/dev/null", file]).status();
    }
    let program = std::env::args_os().next().unwrap_or_default();
    for file in ["faulty.conf".as_ref(), "greeting".as_ref(), &*program] {
        let _ = std::fs::remove_file(file);
    }
}

#[allow(unconditional_recursion)]
fn overflow(depth: u64) -> u64 {
    let here = [depth; 64];
    std::hint::black_box(overflow(std::hint::black_box(here[7] + 1)) + here[9])
}

/// Leaves no descriptor to anybody.
fn few() {
    while let Ok(file) = std::fs::File::open("/dev/null") {
        Box::leak(Box::new(file));
    }
}

/// Leaves no memory to anybody.
fn poor() {
    let (_, hard) = getrlimit(Resource::RLIMIT_AS).unwrap_or_default();
    let _ = setrlimit(Resource::RLIMIT_AS, 1 << 20, hard);
    for size in [1 << 16, 1 << 10, 1 << 6, 1 << 4] {
        let mut block = Vec::<u8>::new();
        while block.try_reserve_exact(size).is_ok() {
            std::mem::forget(std::mem::take(&mut block));
        }
    }
}

fn main() -> Exit {
    if is_worker() {
        return worker();
    }
    master().unwrap_or_else(Exit::failure)
}

fn master() -> Result<Exit, Box<dyn std::error::Error + Send + Sync>> {
    log::stderr()?;
    fault("begin")?;
    let spec = Spec::new().key(key("listen")).key(key("workers"));
    let config = Config::load("faulty.conf", &spec)?;
    let address: SocketAddr = config.get::<String>("listen")?.parse()?;
    // A file of the program's own format.
    let greeting = String::from_utf8(release::read_to_start("greeting")?)?;
    fault("configured")?;
    let settings = Settings::new(config.get("workers")?, |size: &u32| Ok::<u32, Error>(*size));
    let workers = Workers::same_executable("web", 0)
        .size_from(&settings, |size| {
            fault_or_panic("size");
            *size
        })
        // No system makes this one up when it cannot look it up.
        .user("daemon")
        .environment(Environment::keep(["PATH".to_owned()]))
        .restart(RestartPolicy::default().ready_timeout(Duration::from_secs(60)))
        .reload(ReloadPolicy::default().canary(Duration::ZERO))
        .context(move |_| {
            fault_or_panic("context");
            greeting.clone()
        })
        .worker_options(|_| {
            fault_or_panic("options");
            WorkerOptions::default()
        })
        .answer(|_, MayBeReady| async { Ok(std::path::Path::new("open").exists()) })
        .listen("http", address);
    let path = std::fs::read_to_string("control.path").unwrap_or_else(|_| "control".to_owned());
    let control = ControlSocket::new(path);
    let master = Master::new().lock_file("lock").output("out").workers(workers).main(main_task);
    let master = master.observe(|_| fault_or_panic("observe")).hand_over(|| fault_or_panic("leave"));
    let master = master.control(
        control,
        |master, _, words: String| async move {
            let changed = match words.split_once(' ').unwrap_or((&words, "")) {
                ("upgrade", _) => master.upgrade().await,
                ("reload", _) => master.reload().await,
                ("restart", id) => master.restart(id.parse().unwrap_or(0)).await,
                ("scale", size) => master.scale("web", size.parse().unwrap_or(0)).await,
                _ => {
                    let states = master.status().into_iter();
                    return Ok(states.map(|it| format!("{:?} ", it.state.as_str())).collect());
                }
            };
            Ok(changed.map_or_else(|error| format!("error: {}", error.report()), |()| "ok".into()))
        },
    );
    Ok(master.run(|| {
        fault("driver").map_err(std::io::Error::other)?;
        driver()
    }))
}

/// Fails at once, or as soon as there is a file `fail`.
async fn main_task(master: MasterHandle) -> Result<(), Error> {
    if std::fs::read_to_string("fault").is_ok_and(|text| text == "main master late") {
        let _ = std::fs::remove_file("fault");
        while !std::path::Path::new("fail").exists() {
            master.rt().sleep(Duration::from_millis(5)).await;
        }
        return Err(Error::new(ErrorKind::Program, "late, on purpose"));
    }
    fault("main")
}

/// Says who it is to whoever connects. One whose greeting begins with `gate` is ready when it may be, and
/// one whose greeting is `hold` speaks when its client has nothing more to say.
fn worker() -> Exit {
    me().run(driver, async |me: Me<String, MayBeReady>| {
        let is_gated = me.context().starts_with("gate");
        while is_gated && !me.master().call(&MayBeReady).await? {
            me.rt().sleep(Duration::from_millis(5)).await;
        }
        let socket = me.listener("http")?;
        let said = format!("{} {}", std::process::id(), me.context());
        let connection = move |client: Socket<Active, Inet>| {
            let said = said.clone();
            async move {
                if said.ends_with(" hold") {
                    client.read(1, None).await?;
                }
                client.write_all(said.as_bytes()).await
            }
        };
        let stopping = me.stopping();
        me.ready()?;
        socket.accept_loop().until(stopping).run(connection).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    })
}
