//! Drops the privileges of root in a worker.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::accounts;
use crate::sys::creds::{enter_root, leave_capabilities};
use crate::sys::image::take_variable;
use crate::{Error, ErrorKind};

/// The variable with the root directory for a worker, see
/// [`Workers::chroot`](crate::Workers::chroot).
pub(crate) const ROOT: &str = "RELEASE_ROOT";

/// Changes to the root directory chosen by the master, and drops the capability for it.
pub(crate) fn enter_chosen_root() -> Result<(), Error> {
    let Some(directory) = take_variable(ROOT)
        .map_err(|error| Error::system("cannot read the root directory to enter", error))?
    else {
        return Ok(());
    };
    let entered = enter_root(Path::new(&directory)).and_then(|()| leave_capabilities());
    entered.map_err(|error| {
        let message = format!("cannot use {} as root directory", directory.display());
        Error::new(ErrorKind::Privileges, message).caused_by(error)
    })
}

/// The target user, groups and root directory of a worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Privileges {
    pub(crate) user: Option<String>,
    pub(crate) groups: Option<Vec<String>>,
    pub(crate) root: Option<PathBuf>,
    pub(crate) root_is_home: bool,
}

impl Privileges {
    /// Returns whether this process has privileges to drop.
    pub(crate) fn have_to_be_given_up(&self) -> bool {
        geteuid().is_root() || std::env::var_os(ROOT).is_some()
    }

    /// Drops root. Looks up names first, which is impossible inside the new root directory.
    pub(crate) fn give_up(&self) -> Result<(), Error> {
        enter_chosen_root()?;
        let as_root = geteuid().is_root();
        let Some(login) = &self.user else {
            return if as_root { Err(no_user()) } else { self.nothing_to_give() };
        };
        let mut credentials = accounts::credentials(login).map_err(|error| {
            Error::new(ErrorKind::Privileges, "cannot drop privileges").caused_by(error)
        })?;
        if !as_root {
            return if geteuid() == credentials.uid {
                self.nothing_to_give()
            } else {
                let message = format!("cannot become `{login}`: this process does not run as root");
                Err(Error::new(ErrorKind::Privileges, message))
            };
        }
        if let Some(groups) = &self.groups {
            credentials.groups = groups.iter().map(|name| group(name)).collect::<Result<_, _>>()?;
        }
        if !credentials.groups.contains(&credentials.gid) {
            credentials.groups.insert(0, credentials.gid);
        }
        let failed = |error| {
            let message = format!("cannot become user `{}`", credentials.name);
            Error::new(ErrorKind::Privileges, message).caused_by(error)
        };
        let home = self.root_is_home.then_some(&credentials.home);
        if let Some(directory) = self.root.as_ref().or(home) {
            check_root(directory)?;
            enter_root(directory).map_err(failed)?;
        }
        credentials.assume(0).map_err(failed)
    }

    /// Checks the settings of a process that is not root: it already has the right user, but cannot
    /// change its root directory.
    fn nothing_to_give(&self) -> Result<(), Error> {
        if self.root.is_some() || self.root_is_home {
            let message = "only root can change the root directory, and this worker is another user by \
                           now: leave out `user` at the master, or have it do both, by \
                           `Workers::user` and `Workers::chroot`";
            return Err(Error::new(ErrorKind::Privileges, message));
        }
        Ok(())
    }
}

#[cold]
fn no_user() -> Error {
    let message = "this worker would run as root; name an account with `user`, \
                   in the worker or in its group at the master";
    Error::new(ErrorKind::Privileges, message)
}

/// Looks up a group by name.
pub(crate) fn group(name: &str) -> Result<nix::unistd::Gid, Error> {
    match accounts::group_named(name) {
        Ok(Some(gid)) => Ok(gid),
        Ok(None) => {
            let message = format!(
                "there is no group `{}`; name one of this system (`getent group` lists them)",
                name.escape_debug()
            );
            Err(Error::new(ErrorKind::Privileges, message))
        }
        Err(errno) => Err(Error::system(format!("cannot look up group `{name}`"), errno)),
    }
}

/// Checks that the directory and every directory above it belong to root and are writable only by
/// root: a worker could escape from a root directory that its user can change.
pub(crate) fn check_root(directory: &Path) -> Result<(), Error> {
    let refuse = |path: &Path, why: &str| {
        let message = format!("cannot use {} as root directory: {why}", path.display());
        Err(Error::new(ErrorKind::Privileges, message))
    };
    if !directory.is_absolute() {
        return refuse(directory, "it is not an absolute path");
    }
    for path in directory.ancestors() {
        let metadata = match std::fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) => return refuse(path, &error.to_string()),
        };
        if !metadata.is_dir() {
            return refuse(path, "it is not a directory, or is reached by a symbolic link");
        }
        if metadata.uid() != 0 {
            return refuse(path, "it does not belong to root");
        }
        if metadata.mode() & 0o022 != 0 {
            return refuse(path, "others than root may write to it");
        }
    }
    Ok(())
}
