//! The configuration of a running daemon, which can be reloaded while in use.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::entry::Entry;
use super::{Config, Errors, Spec, Value};
use crate::Exit;

/// The configuration in force, replaced as a whole by [`reload`](Live::reload).
///
/// Share it in an `Arc`. If you need several values that belong together, read them from the same
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
    /// Held by a reload from reading to replacing, so that an older read never replaces a newer
    /// one.
    reloading: Mutex<()>,
}

/// A key whose value was changed by a reload.
///
/// # Examples
///
/// ```
/// use release_core::config::{Live, Spec, Value, key};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("web.conf");
/// std::fs::write(&path, "port = 80")?;
/// let live = Live::load(&path, Spec::new().key(key("port")))?;
///
/// std::fs::write(&path, "port = 81")?;
/// for change in live.reload()? {
///     assert_eq!(format!("{change}"), "port");
///     assert_eq!(format!("{change:#}"), "port = 81, before: 80");
///     assert_eq!((change.section, change.key), (None, "port".to_owned()));
///     assert_eq!((change.old, change.new), (Some(Value::Int(80)), Some(Value::Int(81))));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Change {
    /// The section, as `web`, or `site "a"` with a label; `None` for a global key.
    pub section: Option<String>,
    /// The name of the key.
    pub key: String,
    /// The value before; `None` if it was not set, and for a secret.
    pub old: Option<Value>,
    /// The new value; `None` if it is not set, and for a secret.
    pub new: Option<Value>,
    /// Whether the value is [secret](super::Key::secret).
    pub is_secret: bool,
}

/// Formats `key`, or `[section] key`. The alternate format `{:#}` adds both values, unless they are
/// secret.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.section {
            Some(section) => write!(f, "[{section}] {}", self.key)?,
            None => f.write_str(&self.key)?,
        }
        if !f.alternate() || self.is_secret {
            return Ok(());
        }
        match &self.new {
            Some(new) => write!(f, " = {new}, ")?,
            None => f.write_str(" is not set, ")?,
        }
        match &self.old {
            Some(old) => write!(f, "before: {old}"),
            None => f.write_str("before: not set"),
        }
    }
}

impl Live {
    /// Loads the configuration for the first time. A relative path is converted to an absolute
    /// path, because a daemon changes its working directory.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`Config::load`].
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Live, Spec, key};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("web.conf");
    /// std::fs::write(&path, "port = 80")?;
    /// let live = Live::load(&path, Spec::new().key(key("port")))?;
    /// assert_eq!(live.current().get::<u16>("port")?, 80);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(path: impl AsRef<Path>, spec: Spec) -> Result<Self, Errors> {
        let path = path.as_ref();
        let config = Config::load(path, &spec)?;
        // Fails only if the working directory is gone; the path is then the best available.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let current = RwLock::new(Arc::new(config));
        Ok(Self { path, spec, current, reloading: Mutex::new(()) })
    }

    /// Returns the configuration in force. It does not change while you hold it.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Live, Spec, key};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("web.conf");
    /// std::fs::write(&path, "port = 80")?;
    /// let live = Live::load(&path, Spec::new().key(key("port")))?;
    ///
    /// let config = live.current();
    /// std::fs::write(&path, "port = 81")?;
    /// live.reload()?;
    /// assert_eq!(config.get::<u16>("port")?, 80);
    /// assert_eq!(live.current().get::<u16>("port")?, 81);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn current(&self) -> Arc<Config> {
        // No code panics while it holds the lock.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again and puts it in force. This blocks on a file, so do not call it in a
    /// task that delays others.
    ///
    /// Returns the keys whose values have changed, in the order of the specification. The file may
    /// also have [warnings](Config::warnings).
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`Config::load`]. The old configuration then stays in force.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Live, Spec, key};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("web.conf");
    /// std::fs::write(&path, "port = 80")?;
    /// let live = Live::load(&path, Spec::new().key(key("port")))?;
    ///
    /// std::fs::write(&path, "port = 81")?;
    /// assert_eq!(live.reload()?.len(), 1);
    /// assert!(live.reload()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reload(&self) -> Result<Vec<Change>, Errors> {
        let _alone = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Arc::new(Config::load(&self.path, &self.spec)?);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let changes = new.changes_since(&current);
        *current = new;
        Ok(changes)
    }
}

impl Config {
    /// Returns the keys whose values differ from a former configuration, in the order of this one. Keys
    /// that only the former one has come last: those of open sections, and of sections with labels.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().key(key("port"));
    /// let former = Config::parse("web.conf", "port = 80", &spec)?;
    /// let config = Config::parse("web.conf", "port = 81", &spec)?;
    /// assert_eq!(format!("{:#}", config.changes_since(&former)[0]), "port = 81, before: 80");
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    #[must_use]
    pub fn changes_since(&self, former: &Self) -> Vec<Change> {
        let mut before: HashMap<_, &Entry> = all(former).collect();
        let mut changes = Vec::new();
        for (place, entry) in all(self) {
            let old = before.remove(&place);
            if old.and_then(|old| old.value.as_ref()) != entry.value.as_ref() {
                changes.push(change(place.0, old, Some(entry)));
            }
        }
        let gone = all(former)
            .filter(|(place, entry)| before.contains_key(place) && entry.value.is_some());
        changes.extend(gone.map(|(place, entry)| change(place.0, Some(entry), None)));
        changes
    }
}

/// Returns all entries, each with the header of its section and its key.
fn all(config: &Config) -> impl Iterator<Item = ((Option<String>, &str), &Entry)> {
    config.sections.iter().flat_map(|section| {
        let header = section.header();
        section.entries.iter().map(move |entry| ((header.clone(), entry.key.as_str()), entry))
    })
}

fn change(section: Option<String>, old: Option<&Entry>, new: Option<&Entry>) -> Change {
    let either = new.or(old);
    Change {
        section,
        key: either.map(|entry| entry.key.clone()).unwrap_or_default(),
        old: old.and_then(Entry::shown).cloned(),
        new: new.and_then(Entry::shown).cloned(),
        is_secret: either.is_some_and(|entry| entry.is_secret),
    }
}

/// Checks a configuration file, for `--check-config`. Returns status 0, or 1 with every error. The
/// errors are printed to standard error when your `main` returns the result. Prints the warnings
/// there at once.
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
    let checked = Config::load(path, spec).map(|config| {
        for warning in config.warnings() {
            // Without a standard error, nobody reads them.
            let _ = writeln!(io::stderr(), "{warning}");
        }
    });
    checked.map_err(crate::Error::from).into()
}
