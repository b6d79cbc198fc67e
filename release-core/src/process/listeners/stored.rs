//! Listening sockets stored by systemd for the next process of the service (`FDSTORE=1`):
//! connections queue in them while no process runs.
//!
//! A process that is told to stop does not know whether it will be restarted. It therefore leaves
//! the sockets to systemd, which closes them at a stop unless the unit says otherwise.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::open::settle;
use super::shared::{OpenSocket, SharedSocket};
use super::{KeptListener, Listener, Sockets};
use crate::Error;
use crate::net::{FileIdentity, STORED, stored_sockets};
use crate::systemd::{Notifier, store_size};

/// Maximum length of a name in systemd.
const LONGEST: usize = 255;

/// Time limit for systemd to close a socket so that its address becomes free.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// Takes back the sockets stored by an earlier process of the service. Makes systemd close those
/// that no listener requests any more, or that have changed, so that their addresses become free.
pub(crate) fn restore<'a>(
    listeners: impl Iterator<Item = (&'a str, &'a mut Listener)>,
    systemd: &Notifier,
) -> Result<(), Error> {
    let mut stored = stored_sockets()?;
    let mut names: Vec<_> = stored.iter().map(|(name, _)| name.clone()).collect();
    for (group, listener) in listeners {
        let taken = listener.restore(group, &mut stored)?;
        names.retain(|name| taken.as_ref() != Some(name));
    }
    drop(stored);
    if names.is_empty() {
        return Ok(());
    }
    let closed = names.iter().try_for_each(|name| {
        tracing::info!(name, "a stored socket is not wanted any more");
        systemd.remove_stored(name)
    });
    if let Err(error) = closed.and_then(|()| systemd.barrier(CLOSE_TIME)) {
        log_warning!(%error, "systemd may still have stored sockets");
    }
    Ok(())
}

/// Stores the open sockets at systemd, as far as it has room for them. Removes unwanted sockets
/// that a previous version has stored.
pub(crate) fn store<'a>(
    listeners: impl Iterator<Item = (&'a str, &'a mut Listener)>,
    unwanted: &[KeptListener],
    systemd: Option<&Notifier>,
) {
    let Some((systemd, room)) = systemd.zip(store_size()) else { return };
    let mut names = Vec::new();
    for (group, listener) in listeners {
        let Some(name) = listener.stored_name(group) else { continue };
        if names.len() == room {
            let message = "there is no room to store it: raise FileDescriptorStoreMax=";
            log_warning!(listener = listener.name, "{message}");
            continue;
        }
        match listener.store(&name, systemd) {
            Ok(()) => names.push(name),
            // Each further socket would wait equally long.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return log_warning!(%error, "systemd does not listen; no more sockets are stored");
            }
            Err(error) => log_warning!(listener = listener.name, %error, "it is not stored"),
        }
    }
    for name in unwanted.iter().filter_map(KeptListener::stored_name) {
        if !names.contains(&name)
            && let Err(error) = systemd.remove_stored(&name)
        {
            log_warning!(name, %error, "systemd may still have a stored socket");
        }
    }
}

/// Returns the name under which a socket is stored. Names in systemd consist of printable ASCII
/// without colons.
fn name_of(key: [&str; 3], file: Option<FileIdentity>) -> Option<String> {
    let file = file.map(|file| format!("/{file}")).unwrap_or_default();
    let name = format!("{STORED}{}{file}", key.map(escape).join("/"));
    (name.len() <= LONGEST).then_some(name)
}

fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_[]@".contains(&byte);
    let escaped = text.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    escaped.collect()
}

impl KeptListener {
    fn stored_name(&self) -> Option<String> {
        let [group, name, requested] = &self.key;
        let is_shared = self.worker.is_none();
        is_shared.then(|| name_of([group, name, requested], self.file.map(Into::into))).flatten()
    }
}

impl Listener {
    /// Returns the name for a shared socket. Sockets of single workers are not stored.
    fn stored_name(&self, group: &str) -> Option<String> {
        match &self.sockets {
            Sockets::Shared(SharedSocket { opened: Some(OpenSocket { file, .. }), .. }) => {
                let file = file.as_ref().map(|file| file.file);
                name_of([group, &self.name, &self.requested], file)
            }
            _ => None,
        }
    }

    fn store(&mut self, name: &str, systemd: &Notifier) -> io::Result<()> {
        if let Sockets::Shared(SharedSocket { opened: Some(opened), .. }) = &mut self.sockets {
            let OpenSocket { socket, file, .. } = opened;
            systemd.store(name, &[socket.as_fd()])?;
            // Clients continue to connect through the file after this process has ended.
            file.iter_mut().for_each(|file| file.stays = true);
        }
        Ok(())
    }

    /// Takes the socket stored for this listener, if there is one and it still fits. Returns its
    /// name.
    fn restore(
        &mut self,
        group: &str,
        stored: &mut Vec<(String, OwnedFd)>,
    ) -> Result<Option<String>, Error> {
        let Sockets::Shared(shared) = &mut self.sockets else { return Ok(None) };
        let address = &shared.address;
        let Some(own) = name_of([group, &self.name, &self.requested], None) else {
            return Ok(None);
        };
        let is_own = |(name, socket): &(String, OwnedFd)| {
            let file =
                name.strip_prefix(&own).filter(|file| file.is_empty() || file.starts_with('/'));
            file.is_some_and(|file| {
                let file = file.strip_prefix('/').and_then(FileIdentity::parse);
                address.is_met_by(socket, file)
            })
        };
        let Some(place) = stored.iter().position(is_own) else { return Ok(None) };
        let (name, socket) = stored.swap_remove(place);
        let file = name.rsplit('/').next().and_then(FileIdentity::parse);
        tracing::info!(group, listener = self.name, %address, "listening on, as it was stored");
        shared.adopt(settle(socket, self.is_blocking)?, file);
        let file = shared.opened.iter_mut().flat_map(|opened| &mut opened.file);
        file.for_each(|file| file.stays = true);
        Ok(Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are_for_in_letters_that_systemd_takes() {
        let name = name_of(["web", "http", "[::]:80"], None);
        assert_eq!(name.as_deref(), Some("release-stored/web/http/[%3A%3A]%3A80"));
        let file = FileIdentity::parse("21-37");
        assert_eq!(file.map(|file| file.to_string()).as_deref(), Some("21-37"));
        let name = name_of(["web", "ä/b", "/run/web"], file);
        assert_eq!(name.as_deref(), Some("release-stored/web/%C3%A4%2Fb/%2Frun%2Fweb/21-37"));
        assert_eq!(name_of(["web", "http", &"/x".repeat(90)], None), None, "too long");
        for strange in ["", "1", "-1", "1-", "1-x", "1-2-3"] {
            assert_eq!(FileIdentity::parse(strange), None, "{strange}");
        }
    }
}
