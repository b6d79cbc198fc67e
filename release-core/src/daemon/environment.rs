//! What a worker finds in its environment (row R3).

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

use crate::{Error, ErrorKind};

/// Which variables of the master a worker gets, and which are set for it.
///
/// By default only those that the language's runtime and its log filters read: `RUST_BACKTRACE`,
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
    kept: Kept,
    set: BTreeMap<OsString, OsString>,
}

#[derive(Clone, Debug)]
enum Kept {
    All,
    Names(Vec<OsString>),
}

impl Default for Environment {
    fn default() -> Self {
        Self::keep(["RUST_BACKTRACE", "RUST_LIB_BACKTRACE", "RUST_MIN_STACK", "RUST_LOG"])
    }
}

impl Environment {
    /// Everything that the master has.
    #[must_use]
    pub fn inherit() -> Self {
        Self { kept: Kept::All, set: BTreeMap::new() }
    }

    /// The variables of these names, where the master has them, and nothing else.
    #[must_use]
    pub fn keep<N: Into<OsString>>(names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        Self { kept: Kept::Names(names), set: BTreeMap::new() }
    }

    /// Sets a variable, whatever the master has.
    #[must_use]
    pub fn set(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.set.insert(name.into(), value.into());
        self
    }

    /// The block for execve, from the master's environment as it is now, less what is not for
    /// workers.
    pub(crate) fn block(&self, is_private: impl Fn(&OsStr) -> bool) -> Result<Vec<CString>, Error> {
        let public = std::env::vars_os().filter(|(name, _)| !is_private(name));
        let kept = public.filter(|(name, _)| match &self.kept {
            Kept::All => !self.set.contains_key(name),
            Kept::Names(names) => names.contains(name) && !self.set.contains_key(name),
        });
        // What somebody has named in a way that no program can is none of ours to judge.
        let kept = kept.map(|(name, value)| joined(&name, value));
        kept.chain(self.set.iter().map(|(name, value)| entry(name, value.clone()))).collect()
    }
}

/// One variable as execve takes it.
pub(super) fn entry(name: &OsStr, value: OsString) -> Result<CString, Error> {
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
        let block = environment.block(|_| false).unwrap();
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
                Environment::keep([""; 0]).set(name, "x").block(|_| false).is_err(),
                "{name:?}"
            );
        }
    }
}
