//! A socket that all workers of a group have: opened once, and again when somebody has spoilt it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::open::{self, BACKLOG, SHUT_DOWN, SocketFile, listen_again, settle};
use crate::net::{FileIdentity, Inet, ListenOn, local};
use crate::sys::socket::is_listening;
use crate::{Error, ErrorKind};

/// One that the program has opened, or that it was started with.
#[derive(Debug)]
pub(super) struct GivenSocket {
    pub(super) socket: OwnedFd,
    /// Its address, if it is one of TCP.
    inet: Option<Inet>,
}

impl GivenSocket {
    pub(super) fn new(socket: OwnedFd) -> Self {
        let inet = local(&socket).ok();
        Self { socket, inet }
    }

    /// Has it listen again if somebody has shut it down.
    ///
    /// # Errors
    ///
    /// When it cannot: a Unix socket stays as it is, and its name is not for this process to take.
    pub(super) fn look(&self, (group, listener): (&str, &str)) -> Result<(), Error> {
        if is_listening(&self.socket) {
            return Ok(());
        }
        let Some(address) = self.inet else {
            let message = format!(
                "somebody has shut the listening socket `{listener}` of group `{group}` down, and only \
                 its maker can open it again: start that one anew (systemd's socket unit, or the \
                 service)"
            );
            return Err(Error::new(ErrorKind::Worker, message));
        };
        listen_again(&self.socket, Some(address), BACKLOG)?;
        tracing::warn!(group, listener, %address, "{SHUT_DOWN}");
        Ok(())
    }
}

/// One that the master opens.
#[derive(Debug)]
pub(super) struct SharedSocket {
    pub(super) address: ListenOn,
    pub(super) opened: Option<OpenSocket>,
    /// How often one that was shut down had to be replaced.
    pub(super) replaced: u64,
}

#[derive(Debug)]
pub(super) struct OpenSocket {
    pub(super) socket: OwnedFd,
    pub(super) file: Option<SocketFile>,
    /// Its address, if it is one of TCP: with the port that the system has chosen.
    inet: Option<Inet>,
}

impl SharedSocket {
    pub(super) fn new(address: ListenOn) -> Self {
        Self { address, opened: None, replaced: 0 }
    }

    /// Takes one over.
    pub(super) fn adopt(&mut self, socket: OwnedFd, file: Option<FileIdentity>) {
        let file = file.and_then(|file| SocketFile::of(&self.address.address, file));
        let inet = local(&socket).ok();
        self.opened = Some(OpenSocket { socket, file, inet });
    }

    /// The socket for the next process.
    pub(super) fn socket(
        &mut self,
        names: (&str, &str),
        is_blocking: bool,
    ) -> Result<&OwnedFd, Error> {
        self.look(names, is_blocking)?;
        self.look_at_file(names, is_blocking);
        if self.opened.is_none() {
            self.opened = Some(self.open(names, is_blocking)?);
        }
        // Nothing else is there without it.
        let absent = || Error::new(ErrorKind::Worker, "a listening socket was not opened");
        self.opened.as_ref().map(|opened| &opened.socket).ok_or_else(absent)
    }

    fn open(&self, (group, name): (&str, &str), is_blocking: bool) -> Result<OpenSocket, Error> {
        let (socket, file) = open::open(group, name, &self.address)?;
        let socket = settle(socket, is_blocking)?;
        let inet = local(&socket).ok();
        Ok(OpenSocket { socket, file, inet })
    }

    /// Has it listen again, if somebody has shut it down; a Unix socket cannot, and another one takes
    /// its place.
    pub(super) fn look(
        &mut self,
        names @ (group, listener): (&str, &str),
        is_blocking: bool,
    ) -> Result<(), Error> {
        let Some(mut opened) = self.opened.take_if(|opened| !is_listening(&opened.socket)) else {
            return Ok(());
        };
        let address = &self.address;
        if opened.inet.is_some() {
            let outcome = listen_again(&opened.socket, opened.inet, BACKLOG);
            self.opened = Some(opened);
            tracing::warn!(group, listener, %address, "{SHUT_DOWN}");
            return outcome;
        }
        // An abstract name is free when nobody has the socket any more; a path is from here on.
        opened.file.iter_mut().for_each(|file| file.stays = false);
        drop(opened);
        self.replaced += 1;
        let message = "somebody has shut the listening socket down (a worker as it stops?): another \
                       one is opened, and the workers that have the former are replaced";
        tracing::warn!(group, listener, %address, "{message}");
        let again = self.open(names, is_blocking).map_err(|error| {
            let message = "a socket that somebody has shut down cannot be opened again; an abstract \
                           name is free when no process of the group is left: `scale 0` and back";
            Error::new(error.kind(), message).caused_by(error)
        });
        self.opened = Some(again?);
        Ok(())
    }

    /// Opens another one where the file of a Unix socket was removed. One that is somebody else's stays;
    /// then this one does, too, for the connections that it has.
    fn look_at_file(&mut self, names @ (group, listener): (&str, &str), is_blocking: bool) {
        let file = self.opened.as_ref().and_then(|opened| opened.file.as_ref());
        let Some((path, file)) = file.map(|it| (it.path.clone(), it.file)) else { return };
        let there = at(&path, file);
        let path = path.display();
        let failed = match there {
            At::Same => return,
            At::Other => "something else is there".to_owned(),
            At::Nothing => match self.open(names, is_blocking) {
                Ok(opened) => {
                    self.opened = Some(opened);
                    let message = "the socket file was removed: workers that start get a new one, a \
                                   reload gives it to all";
                    tracing::warn!(group, listener, %path, "{message}");
                    return;
                }
                Err(error) => error.report(),
            },
        };
        let message = "the socket file was removed, and cannot be made again: nobody can connect";
        tracing::error!(group, listener, %path, reason = failed, "{message}");
    }
}

enum At {
    Same,
    Other,
    Nothing,
}

fn at(path: &Path, file: FileIdentity) -> At {
    match (FileIdentity::of(path), std::fs::symlink_metadata(path)) {
        (Ok(there), _) if there == file => At::Same,
        (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => At::Nothing,
        _ => At::Other,
    }
}
