// A master whose workers answer datagrams and end as soon as they are told to: see `tests/datagrams.rs`.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use clap::Parser;
use futures_util::future::{Either, select};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use release::net::{Address, Datagrams, Inet, ListenOn, Steer, Unix};
use release::supervise::ReloadPolicy;
use release::{ControlSocket, Exit, Master, MasterHandle, Me, Workers, driver, is_worker, log, me};
use serde::{Deserialize, Serialize};

#[derive(Clone, Parser, Serialize, Deserialize)]
struct Options {
    #[arg(long)]
    listen: Inet,
    #[arg(long, default_value_t = 2)]
    workers: u32,
    /// All processes share one socket, which the program has opened.
    #[arg(long)]
    given: bool,
    /// Each process opens its own socket in place of those of the master.
    #[arg(long)]
    own: bool,
    #[arg(long, default_value_t = 0)]
    slots: u16,
    /// Also on Unix sockets in this directory, and with an inherited descriptor.
    #[arg(long)]
    unix: Option<String>,
    /// Does not end when it is told to while the file `busy` exists.
    #[arg(long)]
    busy: bool,
    /// Answers packets of QUIC; has its datagrams joined if the file `gro` exists.
    #[arg(long)]
    quic: bool,
    /// Counts the datagrams of each sender, as flows.
    #[arg(long)]
    flows: bool,
    /// Does not tell the kernel of them.
    #[arg(long)]
    untold: bool,
}

type Failure = Box<dyn StdError + Send + Sync>;

fn main() -> Exit {
    if is_worker() { me().run(driver, worker) } else { master(&Options::parse()) }
}

async fn worker(me: Me<Options>) -> Result<(), Failure> {
    let options = me.context();
    if options.unix.is_some() {
        return unix_worker(&me).await;
    }
    let dns: Datagrams = match options.own {
        true => Datagrams::inherited(me.rt(), own_socket(options.listen)?)?,
        false => me.datagrams("dns")?,
    };
    if options.quic {
        return answer_quic(&me, &dns).await;
    }
    if options.flows {
        return answer_flows(&me, &dns).await;
    }
    me.ready()?;
    answer(&me, &dns).await?;
    if options.own {
        // Any program has something to do before it ends.
        me.rt().sleep(Duration::from_millis(20)).await;
    }
    while options.busy && Path::new("busy").exists() {
        me.rt().sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Answers each datagram with the number of this process and its text, until the worker should stop.
async fn answer<A: Address>(me: &Me<Options>, socket: &Datagrams<A>) -> Result<(), Failure> {
    let (mut stopping, pid) = (me.stopping(), std::process::id().to_string());
    let mut buffer = [0; 2048];
    loop {
        let received = match select(&mut stopping, pin!(socket.recv_from(&mut buffer))).await {
            Either::Left(_) => return Ok(()),
            Either::Right((received, _)) => received,
        };
        let (count, from) = received?;
        let said = [pid.as_bytes(), b" ", &buffer[..count]].concat();
        socket.send_to(&said, &from).await?;
    }
}

/// Answers each packet with the number of this process, an id of its own, and whether it may reset the
/// connection; also after it was told to stop, while it is busy.
async fn answer_quic(me: &Me<Options>, socket: &Datagrams) -> Result<(), Failure> {
    let ids = me.quic_ids("dns")?;
    if Path::new("gro").exists() {
        setsockopt(socket, sockopt::UdpGroSegment, &true)?;
    }
    me.ready()?;
    let mut is_over = pin!(async {
        me.stopping().await;
        while me.context().busy && Path::new("busy").exists() {
            me.rt().sleep(Duration::from_millis(2)).await;
        }
    });
    let (mut buffer, pid) = ([0; 2048], std::process::id().to_string());
    loop {
        let received = match select(&mut is_over, pin!(socket.recv_from(&mut buffer))).await {
            Either::Left(_) => return Ok(()),
            Either::Right((received, _)) => received,
        };
        let (_, from) = received?;
        let is_first = buffer[0] & 0x80 != 0;
        let may_reset = !is_first && ids.may_reset(&buffer[1..8]);
        let flag = if may_reset { b"r" } else { b"-" };
        let said = [pid.as_bytes(), b" ", &ids.generate(), flag].concat();
        socket.send_to(&said, &from).await?;
    }
}

/// Answers each datagram with the number of this process and the number of the sender's datagrams. Ends
/// when all senders have said bye.
async fn answer_flows(me: &Me<Options>, socket: &Datagrams) -> Result<(), Failure> {
    let flows = match me.context().untold {
        true => None,
        false => Some(me.flows("dns")?),
    };
    me.ready()?;
    let mut is_over = pin!(async {
        me.stopping().await;
        match &flows {
            None => me.rt().sleep(Duration::from_secs(5)).await,
            Some(flows) => flows.ended().await,
        }
    });
    let mut senders = HashMap::new();
    let (mut buffer, pid) = ([0; 2048], std::process::id());
    loop {
        let received = match select(&mut is_over, pin!(socket.recv_from(&mut buffer))).await {
            Either::Left(_) => return Ok(()),
            Either::Right((received, _)) => received,
        };
        let (count, from) = received?;
        let begin = || (0_u64, flows.as_ref().map(|flows| flows.begin(from)));
        let (number, _) = senders.entry(from).or_insert_with(begin);
        *number += 1;
        socket.send_to(format!("{pid} {number}").as_bytes(), &from).await?;
        if &buffer[..count] == b"bye" {
            senders.remove(&from);
        }
    }
}

async fn unix_worker(me: &Me<Options>) -> Result<(), Failure> {
    let log: Datagrams<Unix> = me.datagrams("log")?;
    let records = UnixListener::from(me.descriptor("records")?);
    records.set_nonblocking(false)?;
    // All processes share the position in the file.
    let mut greeting = vec![0; 64];
    let count = std::fs::File::from(me.descriptor("greeting")?).read_at(&mut greeting, 0)?;
    greeting.truncate(count);
    std::thread::spawn(move || serve_records(&records, &greeting));
    me.ready()?;
    answer(me, &log).await
}

/// Greets each connection, and ends it.
fn serve_records(listener: &UnixListener, greeting: &[u8]) {
    for connection in listener.incoming() {
        let _ = connection.and_then(|mut connection| connection.write_all(greeting));
    }
}

fn own_socket(address: Inet) -> Result<UdpSocket, Failure> {
    let made = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&made, sockopt::ReusePort, &true)?;
    bind(made.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(made.into())
}

fn workers(options: &Options) -> Result<Workers, Failure> {
    let reload = ReloadPolicy::default().surge(2).canary(Duration::from_millis(10));
    // Earlier processes that are busy must not delay a reload.
    let reload = if options.busy || options.flows { reload.draining(24) } else { reload };
    let mut workers = Workers::same_executable("dns", options.workers)
        .user("nobody")
        .reload(reload);
    if let Some(directory) = &options.unix {
        let path = |name: &str| Unix::path(format!("{directory}/{name}"));
        workers = workers
            .listen("log", ListenOn::unix_datagrams(path("log")).mode(0o666))
            .listen("records", ListenOn::unix_records(path("records")).mode(0o666))
            .inherit("greeting", std::fs::File::open(format!("{directory}/greeting"))?);
    } else if options.given {
        workers = workers.listener("dns", UdpSocket::bind(options.listen)?);
    } else if options.quic {
        let address = ListenOn::udp(options.listen).slots(16).steer(Steer::quic());
        workers = workers.listen("dns", address);
    } else if options.flows && !options.untold {
        let address = ListenOn::udp(options.listen).slots(32).steer(Steer::flows());
        workers = workers.listen("dns", address);
    } else if options.slots > 0 {
        workers = workers.listen("dns", ListenOn::udp(options.listen).slots(options.slots));
    } else if !options.own {
        workers = workers.listen_udp("dns", options.listen);
    }
    Ok(workers)
}

fn master(options: &Options) -> Exit {
    if let Err(error) = log::stderr() {
        return error.into();
    }
    let context = options.clone();
    let workers = match workers(options) {
        Ok(workers) => workers.context(move |_| context.clone()),
        Err(error) => return Exit::failure(error),
    };
    Master::new()
        .workers(workers)
        .stop_deadline(Duration::from_secs(60))
        .control(ControlSocket::new("control"), |master, _, words: String| async move {
            Ok(control(master, words).await)
        })
        .run(driver)
}

async fn control(master: MasterHandle, words: String) -> String {
    let done = match words.split_once(' ') {
        Some(("scale", count)) => master.scale("dns", count.parse().unwrap_or(0)).await,
        _ if words == "reload" => master.reload().await,
        _ if words == "upgrade" => master.upgrade().await,
        _ => {
            let states = master.status().into_iter();
            return states.map(|worker| format!("{:?} ", worker.state.as_str())).collect();
        }
    };
    done.map_or_else(|error| error.report(), |()| "ok".to_owned())
}
