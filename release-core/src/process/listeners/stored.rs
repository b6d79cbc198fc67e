//! Listening sockets stored by systemd for the next process of the service (`FDSTORE=1`):
//! connections queue in them while no process runs.
//!
//! A process that is told to stop does not know whether it will be restarted. It therefore leaves
//! the sockets to systemd, which closes them at a stop unless the unit says otherwise.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::open::settle;
use super::shared::{OpenSocket, SharedSocket};
use super::steered::Steered;
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
        names.retain(|name| !taken.contains(name));
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
        let its = listener.stored_names(group);
        if names.len() + its.len() > room {
            let message = "there is no room to store it: raise FileDescriptorStoreMax=";
            log_warning!(listener = listener.name, "{message}");
            continue;
        }
        match listener.store(&its, systemd) {
            Ok(()) => names.extend(its),
            // Each further socket would wait equally long.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return log_warning!(%error, "systemd does not listen; no more sockets are stored");
            }
            Err(error) => log_warning!(listener = listener.name, %error, "it is not stored"),
        }
    }
    for name in unwanted_names(unwanted) {
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

/// Returns the name of a slot under the name of its listener.
fn name_of_slot(listener: &str, slot: usize) -> Option<String> {
    let name = format!("{listener}/slot{slot}");
    (name.len() <= LONGEST).then_some(name)
}

/// Returns the names under which a previous version has stored these sockets, if it has.
fn unwanted_names(unwanted: &[KeptListener]) -> impl Iterator<Item = String> {
    let mut slots = HashMap::<String, usize>::new();
    unwanted.iter().filter_map(move |kept| {
        let [group, name, requested] = &kept.key;
        let name = name_of([group, name, requested], kept.file.map(Into::into))?;
        if kept.worker.is_none() {
            return Some(name);
        }
        // In the order of their slots.
        let next = slots.entry(name.clone()).or_default();
        *next += 1;
        name_of_slot(&name, *next - 1)
    })
}

impl Listener {
    /// Returns the names for a shared socket, or for slots. Other sockets of single workers are not stored.
    fn stored_names(&self, group: &str) -> Vec<String> {
        let key = [group, &*self.name, &*self.requested];
        match &self.sockets {
            Sockets::Shared(SharedSocket { opened: Some(OpenSocket { file, .. }), .. }) => {
                let file = file.as_ref().map(|file| file.file);
                name_of(key, file).into_iter().collect()
            }
            Sockets::Steered(Steered { slots: Some(_), sockets, .. }) => {
                let name = name_of(key, None);
                let slot = |slot| name_of_slot(name.as_ref()?, slot);
                (0..sockets.len()).map(slot).collect::<Option<_>>().unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    fn store(&mut self, names: &[String], systemd: &Notifier) -> io::Result<()> {
        match &mut self.sockets {
            Sockets::Shared(SharedSocket { opened: Some(opened), .. }) => {
                let OpenSocket { socket, file, .. } = opened;
                names.iter().try_for_each(|name| systemd.store(name, &[socket.as_fd()]))?;
                // Clients continue to connect through the file after this process has ended.
                file.iter_mut().for_each(|file| file.stays = true);
                Ok(())
            }
            Sockets::Steered(Steered { sockets, .. }) => {
                let mut named = names.iter().zip(sockets);
                named.try_for_each(|(name, slot)| systemd.store(name, &[slot.socket.as_fd()]))
            }
            _ => Ok(()),
        }
    }

    /// Takes the sockets stored for this listener, if there are some and they still fit. Returns their
    /// names.
    fn restore(
        &mut self,
        group: &str,
        stored: &mut Vec<(String, OwnedFd)>,
    ) -> Result<Vec<String>, Error> {
        let Some(own) = name_of([group, &self.name, &self.requested], None) else {
            return Ok(Vec::new());
        };
        let shared = match &mut self.sockets {
            Sockets::Shared(shared) => shared,
            Sockets::Steered(steered) => {
                let taken = restore_slots(steered, &own, self.is_blocking, stored)?;
                if !taken.is_empty() {
                    let (listener, address) = (&self.name, steered.common.address);
                    tracing::info!(group, listener, %address, "listening on, as it was stored");
                }
                return Ok(taken);
            }
            _ => return Ok(Vec::new()),
        };
        let address = &shared.address;
        let is_own = |(name, socket): &(String, OwnedFd)| {
            let file =
                name.strip_prefix(&own).filter(|file| file.is_empty() || file.starts_with('/'));
            file.is_some_and(|file| {
                let file = file.strip_prefix('/').and_then(FileIdentity::parse);
                address.is_met_by(socket, file)
            })
        };
        let Some(place) = stored.iter().position(is_own) else { return Ok(Vec::new()) };
        let (name, socket) = stored.swap_remove(place);
        let file = name.rsplit('/').next().and_then(FileIdentity::parse);
        tracing::info!(group, listener = self.name, %address, "listening on, as it was stored");
        shared.adopt(settle(socket, self.is_blocking)?, file);
        let file = shared.opened.iter_mut().flat_map(|opened| &mut opened.file);
        file.for_each(|file| file.stays = true);
        Ok(vec![name])
    }
}

/// Takes slots that are all there, in the order of their numbers in the kernel: that of a group that has
/// lost one is another. Returns their names.
fn restore_slots(
    steered: &mut Steered,
    listener: &str,
    is_blocking: bool,
    stored: &mut Vec<(String, OwnedFd)>,
) -> Result<Vec<String>, Error> {
    let Some(slots) = &steered.slots else { return Ok(Vec::new()) };
    let names: Option<Vec<_>> =
        (0..slots.sockets()).map(|slot| name_of_slot(listener, slot)).collect();
    let names = names.unwrap_or_default();
    let fits = |name: &String| {
        stored.iter().any(|(its, socket)| its == name && slots.fits(socket, &steered.common))
    };
    let is_of_it =
        |name: &str| name.strip_prefix(listener).is_some_and(|it| it.starts_with("/slot"));
    let count = stored.iter().filter(|(name, _)| is_of_it(name)).count();
    if count != names.len() || !names.iter().all(fits) {
        return Ok(Vec::new());
    }
    for name in &names {
        let place = stored.iter().position(|(its, _)| its == name);
        let Some((_, socket)) = place.map(|place| stored.swap_remove(place)) else { continue };
        steered.adopt_slot(settle(socket, is_blocking)?);
    }
    Ok(names)
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
