//! `release probe`: the effect of a sandbox on this machine.

use std::io::{self, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process::{ExitCode, Termination};

use clap::Args;
use release_core::rt::local::Local;
use release_core::supervise::{Respawn, RestartPolicy};
use release_core::{
    Error, ErrorKind, Exit, Master, OutputFormat, Readiness, Victims, Workers, attempt_all, log,
};

use crate::run::sandbox::Restrictions;

/// Show what a sandbox keeps a worker from, on this machine
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  release probe --sandbox strict --read /srv/www
  sudo release probe --sandbox basic --user www-data

A worker in the sandbox tries what a hostile worker would, and each line shows an attempt with its outcome:
`allowed`, or the error. Compare with `--sandbox none`: some attempts fail without a sandbox, too. The
victim is the process that starts the worker. The attempts have no effect, even where they are allowed.

Exit status: 0 the table was printed; 1 the reason is on standard error.")]
pub(crate) struct Options {
    #[command(flatten)]
    restrictions: Restrictions,
    /// The account that the worker runs as
    #[arg(long, value_name = "LOGIN")]
    user: Option<String>,
    /// The file that it tries to read
    #[arg(long, value_name = "PATH", default_value = "/etc/fstab")]
    file: PathBuf,
    /// The directory in which it tries to create a file
    #[arg(long, value_name = "PATH", default_value = "/tmp")]
    directory: PathBuf,
    /// This process is the worker: the victim, its abstract socket and its port
    #[arg(long, value_name = "PID NAME PORT", num_args = 3, hide = true)]
    worker: Vec<String>,
}

pub(crate) fn run(options: Options) -> ExitCode {
    if let [process, socket, port] = options.worker.as_slice() {
        return attempt(&options, process, socket, port);
    }
    let ended = prepare(options).map_or_else(Exit::failure, |master| master.run(Local::new));
    ended.report()
}

fn attempt(options: &Options, process: &str, socket: &str, port: &str) -> ExitCode {
    let (Ok(process), Ok(port)) = (process.parse(), port.parse()) else {
        return ExitCode::from(2);
    };
    let (file, directory) = (&options.file, &options.directory);
    let mut text = String::new();
    for (name, outcome) in attempt_all(&Victims { process, socket, file, directory, port }) {
        text += &format!("{name:32} {outcome}\n");
    }
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn prepare(options: Options) -> Result<Master, Error> {
    log::stderr()?;
    log::set_levels("warn")?;
    let failed = |what: &'static str| {
        move |error: io::Error| Error::new(ErrorKind::System, what).caused_by(error)
    };
    let own = std::env::current_exe().map_err(failed("cannot find this program"))?;
    let (process, name) = (std::process::id(), format!("release-probe-{}", std::process::id()));
    let address = SocketAddr::from_abstract_name(&name);
    let socket = address.and_then(|address| UnixListener::bind_addr(&address));
    let socket = socket.map_err(failed("cannot listen at an abstract socket"))?;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed("cannot listen at a port"))?;
    let port = listener.local_addr().map_err(failed("cannot listen at a port"))?.port();
    let mut arguments = ["probe", "--file"].map(Into::into).to_vec();
    arguments.extend([options.file.into_os_string(), "--directory".into()]);
    arguments.extend([options.directory.into_os_string(), "--worker".into()]);
    arguments.extend([process.to_string(), name, port.to_string()].map(Into::into));
    let mut workers = Workers::command("probe", 1, own, arguments)
        .readiness(Readiness::After(std::time::Duration::ZERO))
        .restart(RestartPolicy::default().respawn(Respawn::Never))
        .output_format(OutputFormat::Raw);
    if let Some(sandbox) = options.restrictions.sandbox() {
        workers = workers.sandbox(sandbox);
    }
    if let Some(user) = options.user {
        workers = workers.user(user);
    }
    // The sockets are open until this process ends.
    Ok(Master::new().workers(workers).observe(move |_| {
        let _open = (&socket, &listener);
    }))
}
