// A broker of privileged ports: processes without privileges get listening sockets from it, each user
// the ports that it may have.
//
// ```sh
// sudo target/debug/examples/port_broker serve /run/ports --allow $(id -u):80
// target/debug/examples/port_broker greet /run/ports 80 &      # as yourself
// curl --http0.9 http://127.0.0.1:80/                          # hello from process 4711
// target/debug/examples/port_broker greet /run/ports 81        # user 1000 may not have port 81
// ```
//
// The broker knows who asks from the kernel (SO_PEERCRED), binds only what its policy allows, and the
// socket's descriptor travels in the answer. It keeps nothing: a port is free again when the last
// process that has its socket ends.

use std::io;
use std::net::{IpAddr, Shutdown};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use release::ipc::{ConnectOptions, Descriptor, Never, Postcard, Refused, Request};
use release::net::{Active, Inet, Passive, Socket, Unix};
use release::rt::{Driver, Rt, run};
use release::{Error, ErrorKind, Exit, Master, MasterHandle, driver, log};
use serde::{Deserialize, Serialize};

/// How long a client may stay connected, and wait to be.
const CLIENT_TIME: Duration = Duration::from_secs(10);

/// How many clients there may be at a time, of all users and of each one: nobody keeps others waiting.
const CLIENTS: usize = 64;
const CLIENTS_OF_A_USER: usize = 8;

/// Listening sockets on privileged ports, for processes without privileges.
#[derive(Debug, Parser)]
#[command(version)]
enum Options {
    /// Give out ports: as root, for ports below 1024
    Serve {
        /// The Unix socket where ports are asked for
        socket: PathBuf,
        /// Who may have which port
        #[arg(long, value_name = "UID:PORT", required = true)]
        allow: Vec<Allowed>,
        /// The address that all ports are bound to
        #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
        address: IpAddr,
    },
    /// Ask for a port, and greet the first one who connects there
    Greet {
        /// The Unix socket of the broker
        socket: PathBuf,
        /// The port to ask for
        port: u16,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Allowed {
    uid: u32,
    port: u16,
}

impl FromStr for Allowed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = |(uid, port): (&str, &str)| {
            Some(Self { uid: uid.parse().ok()?, port: port.parse().ok().filter(|port| *port > 0)? })
        };
        text.split_once(':').and_then(parse).ok_or("say UID:PORT, two numbers, such as 1000:80")
    }
}

/// What the broker is asked: a socket that listens on this port.
#[derive(Serialize, Deserialize)]
struct Port(u16);

impl Request for Port {
    type Response = Descriptor;
}

/// A connection carries one descriptor at a time.
const DESCRIPTORS: u8 = 1;

fn main() -> Exit {
    match Options::parse() {
        Options::Serve { socket, allow, address } => {
            serve(socket, Policy { allow, address, clients: Mutex::default() })
        }
        Options::Greet { socket, port } => greet(socket, port),
    }
}

struct Policy {
    allow: Vec<Allowed>,
    address: IpAddr,
    /// The user of each client.
    clients: Mutex<Vec<u32>>,
}

/// A client that has been let in; it goes when this is dropped.
struct Admitted {
    policy: Arc<Policy>,
    uid: u32,
}

impl Admitted {
    fn new(policy: Arc<Policy>, uid: u32) -> Option<Self> {
        let mut clients = policy.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.iter().filter(|client| **client == uid).count() >= CLIENTS_OF_A_USER {
            return None;
        }
        clients.push(uid);
        drop(clients);
        Some(Self { policy, uid })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut clients = self.policy.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = clients.iter().position(|client| *client == self.uid) {
            clients.swap_remove(place);
        }
    }
}

impl Policy {
    fn open(&self, uid: u32, port: u16) -> Result<Descriptor, Refused> {
        if !self.allow.contains(&Allowed { uid, port }) {
            return Err(Refused::new(format!("user {uid} may not have port {port}")));
        }
        let address = Inet::from((self.address, port));
        let socket = Socket::unconnected(&address)
            .and_then(|socket| socket.bind(&address)?.into_listening(128))
            .map_err(|error| Refused::new(error.report()))?;
        tracing::info!(uid, port, "a port was given out");
        Ok(Descriptor::new(socket))
    }
}

fn serve(path: PathBuf, policy: Policy) -> Exit {
    let answer = |master| broker(master, path, Arc::new(policy));
    log::stderr().map_or_else(Exit::failure, |()| Master::new().main(answer).run(driver))
}

async fn broker(master: MasterHandle, path: PathBuf, policy: Arc<Policy>) -> Result<(), Error> {
    let (rt, address) = (master.rt().clone(), Unix::path(&path));
    // Everybody may ask; the policy decides.
    let socket = Socket::unconnected(&address)?.mode(0o666)?.bind(&address)?.listen(&rt, 16)?;
    tracing::info!(socket = %address, "ports are given out");
    let stopping = async move {
        master.stopping().await;
        // While it listens: the next broker replaces no socket that is in use.
        let _ = std::fs::remove_file(path);
    };
    let serving = socket
        .accept_loop()
        .connections(CLIENTS)
        .timeout(CLIENT_TIME)
        .until(stopping)
        .stop_deadline(Duration::from_secs(1))
        .run(move |client| answer(rt.clone(), client, Arc::clone(&policy)));
    let ended = serving.await;
    ended.map(drop).map_err(|error| failed("no more clients can be accepted", error))
}

async fn answer(rt: Rt, client: Socket<Active, Unix>, policy: Arc<Policy>) -> io::Result<()> {
    let uid = client.credentials()?.uid;
    let Some(admitted) = Admitted::new(policy, uid) else {
        return Err(io::Error::other(format!(
            "user {uid} has {CLIENTS_OF_A_USER} clients already"
        )));
    };
    let policy = Arc::clone(&admitted.policy);
    let open = move |Port(port)| std::future::ready(policy.open(uid, port));
    let options = ConnectOptions::new().descriptors(DESCRIPTORS);
    let (_, serving) =
        options.connect::<Never, Port, _, _, _>(&rt, client.into_descriptor()?, Postcard, open)?;
    // However the client ends it.
    serving.await;
    Ok(())
}

fn greet(path: PathBuf, port: u16) -> Exit {
    let driver = match driver() {
        Ok(driver) => driver,
        Err(error) => return failed("no runtime", error).into(),
    };
    let rt = driver.handle();
    run(&driver, async {
        let socket = ask(&rt, path, port).await?;
        greet_one(socket).await.map_err(|error| failed("nobody was greeted", error))
    })
    .into()
}

async fn ask(rt: &Rt, path: PathBuf, port: u16) -> Result<Socket<Passive, Inet>, Error> {
    let path = Unix::path(path);
    let broker = Socket::unconnected(&path)?;
    let cannot_ask = |error| failed(&format!("cannot ask the broker at {path}"), error);
    let broker = broker.connect(rt, &path, CLIENT_TIME).await.map_err(cannot_ask)?;
    let refuse = |never: Never| async move { match never {} };
    let socket = broker.into_descriptor().map_err(cannot_ask)?;
    let (broker, _serving) = ConnectOptions::new()
        .descriptors(DESCRIPTORS)
        .connect::<Port, Never, _, _, _>(rt, socket, Postcard, refuse)
        .map_err(cannot_ask)?;
    let answer = broker.call_within(CLIENT_TIME, &Port(port)).await;
    let no_port = |error| Error::new(ErrorKind::Program, "got no port").caused_by(error);
    // What came is checked: a socket for TCP that listens.
    Socket::inherited(rt, answer.map_err(no_port)?)
}

async fn greet_one(mut socket: Socket<Passive, Inet>) -> io::Result<()> {
    eprintln!("listening on {}", socket.local()?);
    let client = socket.accept().await?;
    client.write_all(format!("hello from process {}\n", std::process::id()).as_bytes()).await?;
    client.shutdown(Shutdown::Write)?;
    // To close before the client is done would take back what it has not read.
    client.read(64 * 1024, Some(CLIENT_TIME)).await.map(drop)
}

fn failed(what: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::System, what).caused_by(error)
}
