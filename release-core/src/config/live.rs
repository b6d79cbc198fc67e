//! The configuration of a running daemon: read again while it is in use.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::{Config, Errors, Spec};
use crate::Exit;

/// The configuration in force, which [`reload`](Live::reload) replaces as a whole.
///
/// Share it in an `Arc`. Who needs several values that belong together takes them from one
/// [`current`](Live::current).
///
/// # Examples
///
/// ```
/// use release_core::config::{Live, Spec, key};
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("web.conf");
/// std::fs::write(&path, "port = 80")?;
/// let live = Live::load(&path, Spec::new().key(key("port")))?;
///
/// std::fs::write(&path, "port = = 81")?;
/// let errors = live.reload().unwrap_err();
/// eprintln!("the old configuration stays in force:\n{errors}");
/// assert_eq!(live.current().get::<u16>("port")?, 80);
///
/// std::fs::write(&path, "port = 81")?;
/// let changes = live.reload()?;
/// assert_eq!(changes[0].to_string(), "port");
/// assert_eq!(live.current().get::<u16>("port")?, 81);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Live {
    path: PathBuf,
    spec: Spec,
    current: RwLock<Arc<Config>>,
    /// Held by a reload from reading to replacing: what was read later must not be replaced by what
    /// was read before.
    reloading: Mutex<()>,
}

/// A key whose value a reload has changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Change {
    /// The section; `None` for a global key.
    pub section: Option<String>,
    /// The key.
    pub key: String,
}

/// `key`, or `[section] key`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.section {
            Some(section) => write!(f, "[{section}] {}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

impl Live {
    /// Loads the configuration for the first time. A relative path is remembered as an absolute
    /// one: a daemon changes its working directory.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn load(path: impl AsRef<Path>, spec: Spec) -> Result<Self, Errors> {
        let path = path.as_ref();
        let config = Config::load(path, &spec)?;
        // Fails only when the working directory is gone, and then the path is as good as it gets.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let current = RwLock::new(Arc::new(config));
        Ok(Self { path, spec, current, reloading: Mutex::new(()) })
    }

    /// The configuration in force now. It stays as it is for as long as it is held.
    #[must_use]
    pub fn current(&self) -> Arc<Config> {
        // Nothing panics while it holds the lock.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again and puts it in force. It reads a file: not for a task that others wait
    /// for.
    ///
    /// Gives the keys whose values have changed, in the order of the specification.
    ///
    /// # Errors
    ///
    /// As [`Config::load`]; the old configuration then stays in force.
    pub fn reload(&self) -> Result<Vec<Change>, Errors> {
        let _alone = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Arc::new(Config::load(&self.path, &self.spec)?);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let changes = changes(&current, &new);
        *current = new;
        Ok(changes)
    }
}

/// Both are of the same specification: their keys are the same, in the same order.
fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    for (old, new) in old.sections.iter().zip(&new.sections) {
        let changed =
            old.entries.iter().zip(&new.entries).filter(|(old, new)| old.value != new.value);
        let section = &new.name;
        changes.extend(
            changed.map(|(_, entry)| Change { section: section.clone(), key: entry.key.clone() }),
        );
    }
    changes
}

/// What a program does for `--check-config`: status 0, or 1 with all errors, which are printed to
/// standard error when `main` returns it.
///
/// # Examples
///
/// ```no_run
/// use release_core::Exit;
/// use release_core::config::{Spec, key};
///
/// fn main() -> Exit {
///     release_core::config::check("/etc/web.conf", &Spec::new().key(key("port")))
/// }
/// ```
pub fn check(path: impl AsRef<Path>, spec: &Spec) -> Exit {
    Config::load(path, spec).map(drop).map_err(crate::Error::from).into()
}
