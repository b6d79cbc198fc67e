//! Environment variables of workers.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::sys::creds::ProcessCredentials;
use crate::{Error, ErrorKind};

/// The variables of the master that a worker inherits, and the variables that are set for it; see
/// [`Workers::environment`](crate::Workers::environment).
///
/// The default inherits only the variables of Rust and its log filters: `RUST_BACKTRACE`,
/// `RUST_LIB_BACKTRACE`, `RUST_MIN_STACK`, `RUST_LOG`.
///
/// # Examples
///
/// ```
/// use release_core::Environment;
///
/// let environment = Environment::keep(["PATH", "LANG"]).set("MODE", "production");
/// # let _ = environment;
/// ```
#[derive(Clone, Debug)]
#[doc(alias = "slave_env")]
pub struct Environment {
    kept: KeptVariables,
    set: BTreeMap<OsString, OsString>,
}

#[derive(Clone, Debug)]
enum KeptVariables {
    All,
    Names(Vec<OsString>),
}

impl Default for Environment {
    fn default() -> Self {
        Self::keep(["RUST_BACKTRACE", "RUST_LIB_BACKTRACE", "RUST_MIN_STACK", "RUST_LOG"])
    }
}

impl Environment {
    /// Inherits all variables of the master.
    ///
    /// Workers with another account than the master's have `HOME`, `USER`, `LOGNAME` and `SHELL` of
    /// that account. They inherit no variables of the login session, such as `SSH_AUTH_SOCK`,
    /// `SUDO_USER` or `XDG_RUNTIME_DIR`, unless you use [`set`](Environment::set). They inherit all
    /// other variables: if some contain secrets, name the others with [`keep`](Environment::keep).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Environment, Workers};
    ///
    /// let workers = Workers::command("jobs", 2, "/opt/jobs/run", [""; 0])
    ///     .environment(Environment::inherit());
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn inherit() -> Self {
        Self { kept: KeptVariables::All, set: BTreeMap::new() }
    }

    /// Inherits only the variables with these names. If the workers have another account than the
    /// master, `HOME`, `USER`, `LOGNAME` and `SHELL` have the values of that account.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Environment, Workers};
    ///
    /// let workers = Workers::command("jobs", 2, "/opt/jobs/run", [""; 0])
    ///     .environment(Environment::keep(["PATH", "TZ"]));
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn keep<N: Into<OsString>>(names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        Self { kept: KeptVariables::Names(names), set: BTreeMap::new() }
    }

    /// Sets a variable, with or without a variable of this name in the master.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Environment;
    ///
    /// let environment = Environment::default().set("PORT", "8080").set("RUST_LOG", "info");
    /// # let _ = environment;
    /// ```
    #[must_use]
    pub fn set(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.set.insert(name.into(), value.into());
        self
    }

    /// Sets `PWD` to the working directory of a process that has its own.
    pub(crate) fn in_directory(self, directory: &Path) -> Self {
        match self.keeps("PWD".as_ref()) && !self.set.contains_key(OsStr::new("PWD")) {
            true => self.set("PWD", directory),
            false => self,
        }
    }

    fn keeps(&self, name: &OsStr) -> bool {
        match &self.kept {
            KeptVariables::All => true,
            KeptVariables::Names(names) => names.iter().any(|kept| kept == name),
        }
    }

    /// Returns the environment for execve(2), from the master's environment at this moment without
    /// private variables. With another account, contains the home, name and shell of that account,
    /// and no variables of the master's login session unless they are named.
    pub(crate) fn block(
        &self,
        is_private: impl Fn(&OsStr) -> bool,
        account: Option<&ProcessCredentials>,
    ) -> Result<Vec<CString>, Error> {
        let own = account.map(ProcessCredentials::variables).into_iter().flatten();
        let own = own.filter(|(name, _)| self.keeps(name.as_ref()));
        let own: Vec<_> =
            own.filter(|(name, _)| !self.set.contains_key(OsStr::new(name))).collect();
        let public = std::env::vars_os().filter(|(name, _)| !is_private(name));
        let kept = public.filter(|(name, _)| {
            self.keeps(name)
                && !self.set.contains_key(name)
                && !own.iter().any(|(own, _)| *name == **own)
        });
        let drops_session = account.is_some() && matches!(self.kept, KeptVariables::All);
        let (left, kept): (Vec<_>, Vec<_>) =
            kept.partition(|(name, _)| drops_session && is_of_a_session(name));
        if !left.is_empty() {
            let names: Vec<_> = left.iter().map(|(name, _)| name.to_string_lossy()).collect();
            let names = names.join(" ");
            tracing::info!(
                names,
                "not in the environment of another account, as nothing names them"
            );
        }
        // Names that no program could use are inherited unchecked.
        let kept = kept.into_iter().map(|(name, value)| joined(&name, value));
        let own = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let own = own.map(|(name, value)| entry(name.as_ref(), value));
        let set = self.set.iter().map(|(name, value)| entry(name, value.clone()));
        kept.chain(own).chain(set).collect()
    }
}

/// Returns whether a variable describes a login session: its terminal and screen, agents with keys,
/// and the original user.
fn is_of_a_session(name: &OsStr) -> bool {
    const NAMES: [&str; 11] = [
        "DISPLAY",
        "DOAS_USER",
        "GNUPGHOME",
        "HISTFILE",
        "ICEAUTHORITY",
        "KRB5CCNAME",
        "MAIL",
        "PKEXEC_UID",
        "WAYLAND_DISPLAY",
        "WINDOWID",
        "XAUTHORITY",
    ];
    const PREFIXES: [&str; 6] = ["DBUS_", "GPG_", "SSH_", "SUDO_", "TMUX", "XDG_"];
    let name = name.as_encoded_bytes();
    NAMES.iter().any(|own| own.as_bytes() == name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

/// Returns a variable in the form of execve(2).
pub(crate) fn entry(name: &OsStr, value: OsString) -> Result<CString, Error> {
    if name.is_empty() || name.as_encoded_bytes().contains(&b'=') {
        return Err(cannot_be(name));
    }
    joined(name, value)
}

fn joined(name: &OsStr, value: OsString) -> Result<CString, Error> {
    let mut bytes = name.to_owned().into_vec();
    bytes.push(b'=');
    bytes.extend(value.into_vec());
    CString::new(bytes).map_err(|_| cannot_be(name))
}

#[cold]
fn cannot_be(name: &OsStr) -> Error {
    let name = name.display();
    Error::new(ErrorKind::Usage, format!("`{name}` cannot be an environment variable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(environment: &Environment) -> Vec<String> {
        let block = environment.block(|_| false, None).unwrap();
        block.iter().map(|entry| entry.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn only_what_is_named_is_kept() {
        let path = std::env::var("PATH").unwrap();
        assert_eq!(names(&Environment::keep(["PATH", "NO_SUCH"])), [format!("PATH={path}")]);
        assert!(names(&Environment::inherit()).contains(&format!("PATH={path}")));
        assert!(!names(&Environment::default()).contains(&format!("PATH={path}")));
    }

    #[test]
    fn what_is_set_wins_and_stands_once() {
        let environment = Environment::inherit().set("PATH", "/only").set("EMPTY", "");
        let block = names(&environment);
        assert_eq!(block.iter().filter(|entry| entry.starts_with("PATH=")).count(), 1);
        assert!(block.contains(&"PATH=/only".to_owned()) && block.contains(&"EMPTY=".to_owned()));
    }

    #[test]
    fn a_name_that_cannot_be_is_an_error() {
        for name in ["", "A=B", "NUL\0"] {
            assert!(
                Environment::keep([""; 0]).set(name, "x").block(|_| false, None).is_err(),
                "{name:?}"
            );
        }
    }
}
