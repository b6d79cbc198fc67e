//! Sockets shared by all workers of a group: opened once, and again after damage.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::open::{self, BACKLOG, SHUT_DOWN, SocketFile, listen_again, settle};
use super::slots::is_for_datagrams;
use crate::net::{FileIdentity, Inet, ListenOn, Traffic, local};
use crate::sys::socket::{is_hung_up, is_listening};
use crate::{Error, ErrorKind};

/// A socket opened by the program, or passed to it at its start; or another descriptor.
#[derive(Debug)]
pub(super) struct GivenSocket {
    pub(super) socket: OwnedFd,
    /// The address, if it is a TCP socket.
    inet: Option<Inet>,
    /// Whether connections arrive at it.
    pub(super) listens: bool,
    /// Whether it is passed on as it is.
    pub(super) is_untouched: bool,
}

impl GivenSocket {
    pub(super) fn new(socket: OwnedFd) -> Self {
        let (inet, listens) = (local(&socket).ok(), !is_for_datagrams(&socket));
        Self { socket, inet, listens, is_untouched: false }
    }

    /// Passes any descriptor on.
    pub(super) fn untouched(descriptor: OwnedFd) -> Self {
        Self { socket: descriptor, inet: None, listens: false, is_untouched: true }
    }

    /// Makes the socket listen again if it was shut down.
    ///
    /// # Errors
    ///
    /// Returns an error if that fails, and for a Unix socket: it cannot listen again, and its name
    /// does not belong to this process.
    pub(super) fn look(&self, (group, listener): (&str, &str)) -> Result<(), Error> {
        if !self.listens || is_listening(&self.socket) {
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
        log_warning!(group, listener, %address, "{SHUT_DOWN}");
        Ok(())
    }
}

/// A socket opened by the master.
#[derive(Debug)]
pub(super) struct SharedSocket {
    pub(super) address: ListenOn,
    pub(super) opened: Option<OpenSocket>,
    /// Number of replacements of a socket that was shut down.
    pub(super) replaced: u64,
}

#[derive(Debug)]
pub(super) struct OpenSocket {
    pub(super) socket: OwnedFd,
    pub(super) file: Option<SocketFile>,
    /// The address, if it is a TCP socket, with the port chosen by the system.
    inet: Option<Inet>,
}

impl SharedSocket {
    pub(super) fn new(address: ListenOn) -> Self {
        Self { address, opened: None, replaced: 0 }
    }

    /// Takes over an open socket.
    pub(super) fn adopt(&mut self, socket: OwnedFd, file: Option<FileIdentity>) {
        let file = file.and_then(|file| SocketFile::of(&self.address.address, file));
        let inet = local(&socket).ok();
        self.opened = Some(OpenSocket { socket, file, inet });
    }

    /// Returns the socket for the next process.
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
        // Cannot happen: it was opened above.
        let absent = || Error::new(ErrorKind::Worker, "a listening socket was not opened");
        self.opened.as_ref().map(|opened| &opened.socket).ok_or_else(absent)
    }

    fn open(&self, (group, name): (&str, &str), is_blocking: bool) -> Result<OpenSocket, Error> {
        let (socket, file) = open::open(group, name, &self.address)?;
        let socket = settle(socket, is_blocking)?;
        let inet = local(&socket).ok();
        Ok(OpenSocket { socket, file, inet })
    }

    /// Makes the socket listen again if it was shut down. Replaces a Unix socket, which cannot
    /// listen again.
    pub(super) fn look(
        &mut self,
        names @ (group, listener): (&str, &str),
        is_blocking: bool,
    ) -> Result<(), Error> {
        let is_shut = |opened: &mut OpenSocket| match self.address.traffic {
            Traffic::Streams | Traffic::Records => !is_listening(&opened.socket),
            Traffic::Datagrams => is_hung_up(&opened.socket),
        };
        let Some(mut opened) = self.opened.take_if(is_shut) else {
            return Ok(());
        };
        let address = &self.address;
        if opened.inet.is_some() {
            let outcome = listen_again(&opened.socket, opened.inet, BACKLOG);
            self.opened = Some(opened);
            log_warning!(group, listener, %address, "{SHUT_DOWN}");
            return outcome;
        }
        // An abstract name is free only when no process has the socket; a path is free from now on.
        opened.file.iter_mut().for_each(|file| file.stays = false);
        drop(opened);
        self.replaced += 1;
        let message = "somebody has shut the listening socket down (a worker as it stops?): another \
                       one is opened, and the workers that have the former are replaced";
        log_warning!(group, listener, %address, "{message}");
        let again = self.open(names, is_blocking).map_err(|error| {
            let message = "a socket that somebody has shut down cannot be opened again; an abstract \
                           name is free when no process of the group is left: `scale 0` and back";
            Error::new(error.kind(), message).caused_by(error)
        });
        self.opened = Some(again?);
        Ok(())
    }

    /// Opens a new socket if the file of a Unix socket was removed. If another file has its place,
    /// that file and this socket with its connections stay.
    fn look_at_file(&mut self, names @ (group, listener): (&str, &str), is_blocking: bool) {
        let file = self.opened.as_ref().and_then(|opened| opened.file.as_ref());
        let Some((path, file)) = file.map(|it| (it.path.clone(), it.file)) else { return };
        let there = found(&path, file);
        let path = path.display();
        let failed = match there {
            FoundFile::Same => return,
            FoundFile::Other => "something else is there".to_owned(),
            FoundFile::Nothing => match self.open(names, is_blocking) {
                Ok(opened) => {
                    self.opened = Some(opened);
                    let message = "the socket file was removed: workers that start get a new one, a \
                                   reload gives it to all";
                    log_warning!(group, listener, %path, "{message}");
                    return;
                }
                Err(error) => error.report(),
            },
        };
        let message = "the socket file was removed, and cannot be made again: nobody can connect";
        log_error!(group, listener, %path, reason = failed, "{message}");
    }
}

enum FoundFile {
    Same,
    Other,
    Nothing,
}

fn found(path: &Path, file: FileIdentity) -> FoundFile {
    match (FileIdentity::of(path), std::fs::symlink_metadata(path)) {
        (Ok(there), _) if there == file => FoundFile::Same,
        (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => FoundFile::Nothing,
        _ => FoundFile::Other,
    }
}
