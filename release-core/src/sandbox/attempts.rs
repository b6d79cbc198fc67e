//! Attempts of a hostile worker, to show what its sandbox forbids.

use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::sys::attempts::{CALLS, read_memory, trace};

/// The victims of the [attempts](attempt_all).
#[derive(Clone, Debug)]
pub struct Victims<'a> {
    /// Another process of the same user.
    pub process: i32,
    /// Name of an abstract socket that listens.
    pub socket: &'a str,
    /// A readable file.
    pub file: &'a Path,
    /// A directory that this user can write to.
    pub directory: &'a Path,
    /// A TCP port that listens.
    pub port: u16,
}

/// Tries what a sandbox may forbid, and returns each attempt with its outcome: `allowed`, or the name of
/// the error. An attempt that is allowed has no effect, but for a new user namespace of this process at
/// the end.
#[must_use]
pub fn attempt_all(victims: &Victims<'_>) -> Vec<(&'static str, String)> {
    let pid = victims.process;
    let open = |path: &Path| File::open(path).map(drop);
    let of_process = |name: &str| open(format!("/proc/{pid}/{name}").as_ref());
    let errno = |errno: Errno| io::Error::from(errno);
    let failed = |failed: crate::sys::Failed| io::Error::from_raw_os_error(failed.errno);
    let mut outcomes = vec![
        ("ptrace", trace(pid).map_err(failed)),
        ("process_vm_readv", read_memory(pid).map_err(failed)),
        ("read its environment", of_process("environ")),
        ("read its memory", of_process("mem")),
        ("signal it", kill(Pid::from_raw(pid), None).map_err(errno)),
        ("open a terminal", open("/dev/tty".as_ref())),
        ("connect to its abstract socket", connect(victims.socket)),
        ("read a file", open(victims.file)),
        ("create a file", create(victims.directory)),
        ("run a program", run()),
        ("connect to a port", TcpStream::connect(("127.0.0.1", victims.port)).map(drop)),
        ("listen at a port", TcpListener::bind("127.0.0.1:0").map(drop)),
        ("write a core file", core_file()),
    ];
    outcomes.extend(CALLS.iter().map(|call| (call.name, call.attempt().map_err(failed))));
    outcomes.into_iter().map(|(name, outcome)| (name, in_words(outcome))).collect()
}

fn in_words(outcome: io::Result<()>) -> String {
    match outcome {
        Ok(()) => "allowed".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(number) => format!("{:?}", Errno::from_raw(number)),
            None => error.to_string(),
        },
    }
}

fn connect(name: &str) -> io::Result<()> {
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?).map(drop)
}

fn create(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!("release-probe-{}", std::process::id()));
    File::create_new(&path)?;
    std::fs::remove_file(path)
}

fn run() -> io::Result<()> {
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::null()).stdout(Stdio::null()).status().map(drop)
}

/// The kernel writes no core file of a process whose limit is 0 or 1.
fn core_file() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit};
    match getrlimit(Resource::RLIMIT_CORE)? {
        (_, 0 | 1) => Err(Errno::EFBIG.into()),
        _ => Ok(()),
    }
}
