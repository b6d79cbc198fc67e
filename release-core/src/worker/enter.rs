//! The first steps of every worker, in this order: the socket, privileges, the runtime.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::Signal;

use super::{ROLE, Worker, is_worker};
use crate::daemonize::detach::{refuse_threads, warn_of_threads};
use crate::exit::Exit;
use crate::exit::program_name;
use crate::rt::{Driver, Rt, run};
use crate::streams;
use crate::sys::signal::Caught;
use crate::sys::{fds, process, socket};
use crate::worker::panics;
use crate::{Error, ErrorKind};

impl<C> Worker<C> {
    /// Performs the first steps of both modes, in this order: the socket, privileges, the runtime.
    pub(crate) fn in_driver<D: Driver>(
        self,
        driver: impl FnOnce() -> io::Result<D>,
        main: impl AsyncFnOnce(Rt, OwnedFd, Caught) -> Result<(), Error>,
    ) -> Exit {
        #[cfg(feature = "log")]
        crate::unlogged::fall_back_to(crate::log::fallback);
        let ended = self.enter().and_then(|(socket, caught)| {
            let driver =
                driver().map_err(|error| Error::system("cannot start the async runtime", error))?;
            let _draining = streams::drain(&driver.handle());
            run(&driver, main(driver.handle(), socket, caught))
        });
        if let Err(error) = &ended {
            log_error!(reason = error.report(), "the worker failed");
        }
        streams::finish();
        ended.into()
    }

    fn enter(self) -> Result<(OwnedFd, Caught), Error> {
        // Privileges belong to threads.
        if self.privileges.have_to_be_given_up() {
            refuse_threads()?
        } else {
            warn_of_threads()
        }
        panics::log();
        if is_worker() {
            // Started under a name other than its own, see `Group::command`.
            let name = program_name();
            process::set_name(name.split(ROLE).next().unwrap_or(&name));
        }
        let parent = nix::unistd::getppid();
        let socket = take_socket()?;
        let master = socket::peer(&socket).map_err(no_io)?;
        self.privileges.give_up()?;
        let failed = |error: crate::sys::Failed| {
            Error::new(ErrorKind::Privileges, "cannot secure this process").caused_by(error)
        };
        if master.uid() == 0 && !nix::unistd::geteuid().is_root() {
            // Other processes of this user must not read the data that the master entrusted to this
            // process.
            process::forbid_tracing().map_err(failed)?;
        }
        process::forbid_new_privileges().map_err(failed)?;
        if let Some(sandbox) = self.sandbox {
            sandbox.apply()?;
        }
        // After the change of user, which clears it.
        process::die_with(parent).map_err(failed)?;
        // Before any other thread exists that a half-caught signal could interrupt.
        let caught = Caught::new(&[Signal::SIGTERM, Signal::SIGINT])
            .map_err(|error| Error::system("cannot catch signals", error))?;
        Ok((socket, caught))
    }
}

pub(crate) fn no_io(error: io::Error) -> Error {
    Error::system("cannot use the IPC socket", error)
}

/// Returns the IPC socket, moved away from standard input.
fn take_socket() -> Result<OwnedFd, Error> {
    if !fds::is_socket(&io::stdin()) {
        let message = "standard input is not a socket: this program is a worker, \
                       and its master starts it; start the master instead";
        return Err(Error::new(ErrorKind::Usage, message));
    }
    fds::take_stdin().map_err(no_io)
}
