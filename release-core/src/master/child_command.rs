//! `ChildCommand`: describes a child of the master beside its workers.

use std::ffi::OsString;
use std::iter;
use std::path::{Path, PathBuf};

use super::group::find;
use super::upgrade::working_directory;
use super::workers::replace_group;
use crate::path::{absolute, c_string};
use crate::process::environment::Environment;
use crate::process::readiness::of_the_master;
use crate::sys::resources::Resources;
use crate::sys::spawn::{Command, Identity};
use crate::{Error, ErrorKind, accounts};

/// A program for [`MasterHandle::spawn`](crate::MasterHandle::spawn), with its arguments and
/// environment.
///
/// # Examples
///
/// ```
/// use release_core::{ChildCommand, Environment};
///
/// let backup = ChildCommand::new("/usr/bin/backup", ["--all"])
///     .user("backup")
///     .directory("/var/backups")
///     .environment(Environment::keep(["PATH", "TZ"]));
/// # let _ = backup;
/// ```
#[derive(Clone, Debug)]
pub struct ChildCommand {
    program: PathBuf,
    arguments: Vec<OsString>,
    user: Option<String>,
    group: Option<String>,
    directory: Option<PathBuf>,
    environment: Environment,
}

impl ChildCommand {
    /// Creates the description of a program, given by its path or its name in `PATH`, and its
    /// arguments.
    ///
    /// A relative path begins at the directory of the child.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ChildCommand;
    ///
    /// let agent = ChildCommand::new("agent", ["--port=9100"]);
    /// # let _ = agent;
    /// ```
    pub fn new<A: Into<OsString>>(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            user: None,
            group: None,
            directory: None,
            environment: Environment::inherit(),
        }
    }

    /// Sets the login name that the program runs as, if the master is root, or numbers, as for
    /// [`Workers::user`](crate::Workers::user). The program has exactly that user's groups and no
    /// privileges.
    ///
    /// Without it, the program of a root master runs as root, with all capabilities.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ChildCommand;
    ///
    /// let agent = ChildCommand::new("agent", [""; 0]).user("nobody");
    /// # let _ = agent;
    /// ```
    #[must_use]
    pub fn user(mut self, login: impl Into<String>) -> Self {
        self.user = Some(login.into());
        self
    }

    /// Replaces the primary group of the program's [`user`](Self::user), as
    /// [`Workers::group`](crate::Workers::group) does.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ChildCommand;
    ///
    /// let agent = ChildCommand::new("agent", [""; 0]).user("www-data").group("ssl-cert");
    /// # let _ = agent;
    /// ```
    #[must_use]
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.group = Some(name.into());
        self
    }

    /// Sets the working directory; by default, the directory of the master. A master in the background
    /// is in `/`, unless [`Daemon::directory`](crate::Daemon::directory) sets another one.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ChildCommand;
    ///
    /// let agent = ChildCommand::new("./agent", [""; 0]).directory("/opt/agent");
    /// # let _ = agent;
    /// ```
    #[must_use]
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// Sets the environment; by default [`Environment::inherit`]. In any case it contains no variables
    /// about the master itself, such as `NOTIFY_SOCKET`.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{ChildCommand, Environment};
    ///
    /// let agent = ChildCommand::new("agent", [""; 0])
    ///     .environment(Environment::keep(["PATH"]).set("MODE", "production"));
    /// # let _ = agent;
    /// ```
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Looks up everything that the new process needs. This may block, on a name server for example.
    pub(super) fn prepare(self) -> Result<Command, Error> {
        let as_root = nix::unistd::geteuid().is_root();
        let credentials = self.user.as_deref().map(accounts::credentials).transpose();
        let credentials = credentials.map_err(|error| {
            let message = "the child cannot run as its user";
            Error::new(ErrorKind::Privileges, message).caused_by(error)
        })?;
        // A name that does not exist is a mistake for any user.
        let mut credentials = credentials.filter(|_| as_root);
        if let Some(group) = &self.group {
            credentials = replace_group(credentials, group, as_root).map_err(|error| {
                Error::new(error.kind(), "the child cannot run as its group").caused_by(error)
            })?;
        }
        let directory = self.directory.as_deref().map(absolute).transpose()?;
        let environment = match &directory {
            Some(directory) => self.environment.in_directory(directory),
            None => self.environment,
        };
        let environment = environment.block(of_the_master, credentials.as_ref())?;
        let start = directory.clone().map_or_else(working_directory, Ok)?;
        let is_name = !self.program.as_os_str().as_encoded_bytes().contains(&b'/');
        let program = match is_name {
            true => find(self.program.as_os_str(), Path::new("/"))?,
            false => absolute(&start.join(&self.program))?,
        };
        let arguments = iter::once(self.program.into_os_string()).chain(self.arguments);
        Ok(Command {
            program: c_string(program.into_os_string())?,
            image: None,
            arguments: arguments.map(c_string).collect::<Result<_, _>>()?,
            environment,
            own_pid: Vec::new(),
            resources: Resources::default(),
            root: None,
            directory: directory.map(|path| c_string(path.into_os_string())).transpose()?,
            identity: Identity::of(credentials),
            confinement: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(command: ChildCommand) -> String {
        command.prepare().unwrap_err().report()
    }

    #[test]
    fn what_cannot_be_run_is_refused_in_words() {
        let none = [""; 0];
        let unknown = refusal(ChildCommand::new("true", none).user("no-such-user"));
        assert!(unknown.contains("cannot run as its user: there is no user"), "{unknown}");
        let other = refusal(ChildCommand::new("true", none).group("no-such-group"));
        assert!(other.contains("cannot run as its group: "), "{other}");
        let missing = refusal(ChildCommand::new("no-such-program", none));
        assert!(missing.contains("there is no program `no-such-program` in PATH"), "{missing}");
        let nul = refusal(ChildCommand::new("true", ["a\0b"]));
        assert!(nul.contains("NUL"), "{nul}");
    }

    #[test]
    fn paths_begin_at_the_directory_of_the_child() {
        let command = ChildCommand::new("./agent", ["-v"]).directory("/opt/agent");
        let command = command.environment(Environment::inherit()).prepare().unwrap();
        assert_eq!(command.program.to_str(), Ok("/opt/agent/agent"));
        assert_eq!(command.directory.as_deref(), Some(c"/opt/agent"));
        assert_eq!(command.arguments.len(), 2);
    }
}
