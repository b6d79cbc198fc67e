//! A configuration that has passed: its values, and where each comes from.

use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::check::check;
use super::error::{Errors, Problems};
use super::printable::shortened;
use super::source::{Place, Source};
use super::{Spec, Value, de, read};
use crate::start_files::accepted;

/// A configuration that fulfils its [`Spec`]: a value for every key, from the file or by
/// default.
///
/// # Examples
///
/// ```
/// use release_core::config::validation::{duration, int_in_range, string};
/// use release_core::config::{Config, Errors, Spec, key};
/// use serde::Deserialize;
/// use std::time::Duration;
///
/// #[derive(Deserialize)]
/// struct Web {
///     root: String,
///     timeout: Duration,
/// }
///
/// fn main() -> Result<(), Errors> {
///     let spec = Spec::new()
///         .key(key("port").check(int_in_range(1..=65535)))
///         .section("web", [
///             key("root").default("/srv/www").check(string()),
///             key("timeout").default(Duration::from_secs(5)).check(duration()),
///         ]);
///     let text = "port = 80  [web] timeout = 1.5s";
///     let config = Config::parse("web.conf", text, &spec)?;
///
///     let port: u16 = config.get("port")?;
///     let root: &str = config.section("web").get("root")?;
///     assert_eq!((port, root), (80, "/srv/www"));
///
///     let web: Web = config.section("web").deserialize()?;
///     assert_eq!((web.root.as_str(), web.timeout.as_millis()), ("/srv/www", 1500));
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) source: Arc<Source>,
    /// In the order of the specification; the first one holds the global keys.
    pub(super) sections: Vec<Values>,
}

/// The values of a section.
#[derive(Clone, Debug)]
pub(super) struct Values {
    /// `None` for the global keys.
    pub(super) name: Option<String>,
    pub(super) entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// `None` for an optional key that is not set.
    pub(super) value: Option<Value>,
    /// `None` for a default.
    pub(super) place: Option<Place>,
}

impl Config {
    /// Reads a file and holds it against the specification.
    ///
    /// Only regular files are read, without waiting, and up to [`Spec::size_limit`].
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file, or why it cannot be read.
    pub fn load(path: impl AsRef<Path>, spec: &Spec) -> Result<Self, Errors> {
        let path = path.as_ref();
        let config = check(read::read(path, spec.size_limit)?, spec)?;
        accepted(path, config.source.text.as_bytes());
        Ok(config)
    }

    /// The configuration that a text is; messages name it as told.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn parse(name: &str, text: impl AsRef<[u8]>, spec: &Spec) -> Result<Self, Errors> {
        check(read::text(name, text.as_ref().to_vec())?, spec)
    }

    /// A global value as a type of yours: a number of any size, `String`, `&str`, `PathBuf`,
    /// `Duration`, [`Regexp`](super::Regexp), [`Address`](super::Address), an enum for a keyword,
    /// a `Vec` of those, an `Option` for an optional key.
    ///
    /// # Errors
    ///
    /// When the value does not fit the type, at its place in the file; and when the specification
    /// has no such key.
    pub fn get<'a, T: Deserialize<'a>>(&'a self, key: &str) -> Result<T, Errors> {
        self.globals().get(key)
    }

    /// A global value as the file has it; `None` for an optional key that is not set, and for a key
    /// that the specification does not have.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.globals().value(key)
    }

    /// The values of a section. One that the specification does not have is empty.
    #[must_use]
    pub fn section<'a>(&'a self, name: &'a str) -> Section<'a> {
        let found = self.sections.iter().find(|section| section.name.as_deref() == Some(name));
        let entries = found.map_or(&[][..], |section| &section.entries);
        Section { source: &self.source, name: Some(name), entries }
    }

    fn globals(&self) -> Section<'_> {
        let entries = self.sections.first().map_or(&[][..], |section| &section.entries);
        Section { source: &self.source, name: None, entries }
    }

    /// The whole configuration as a struct of yours: a field for each global key, and one for each
    /// section, which is a struct or map in turn.
    ///
    /// # Errors
    ///
    /// When a value does not fit, at its place in the file.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// #[derive(serde::Deserialize)]
    /// #[serde(rename_all = "kebab-case")]
    /// struct Settings {
    ///     log_level: Level,
    ///     web: Web,
    /// }
    ///
    /// #[derive(serde::Deserialize, PartialEq, Debug)]
    /// #[serde(rename_all = "lowercase")]
    /// enum Level {
    ///     Debug,
    ///     Info,
    /// }
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Web {
    ///     ports: Vec<u16>,
    /// }
    ///
    /// let spec = Spec::new().key(key("log-level")).section("web", [key("ports")]);
    /// let config = Config::parse("x", "log-level = info [web] ports = [80, 443]", &spec).unwrap();
    /// let settings: Settings = config.deserialize().unwrap();
    /// assert_eq!(settings.log_level, Level::Info);
    /// assert_eq!(settings.web.ports, [80, 443]);
    ///
    /// let config = Config::parse("x", "log-level = loud [web] ports = [80]", &spec).unwrap();
    /// assert_eq!(config.deserialize::<Settings>().err().unwrap().problems()[0].column(), Some(13));
    /// ```
    pub fn deserialize<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Errors> {
        T::deserialize(de::Whole(self)).map_err(|error| error.placed(&self.source))
    }
}

/// The values of a section of a [`Config`].
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    source: &'a Source,
    name: Option<&'a str>,
    entries: &'a [Entry],
}

impl<'a> Section<'a> {
    /// A value as a type of yours, see [`Config::get`].
    ///
    /// # Errors
    ///
    /// When the value does not fit the type, at its place in the file; and when the specification
    /// has no such section or key.
    pub fn get<T: Deserialize<'a>>(&self, key: &str) -> Result<T, Errors> {
        match self.entries.iter().find(|entry| entry.key == key) {
            Some(entry) => de::Node::of(entry)
                .seeded(PhantomData::<T>)
                .map_err(|error| error.placed(self.source)),
            None => Err(self.unspecified(key)),
        }
    }

    /// A value as the file has it; `None` for an optional key that is not set, and for a key that
    /// the specification does not have.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.entries.iter().find(|entry| entry.key == key)?.value.as_ref()
    }

    /// The section as a struct or map of yours, see [`Config::deserialize`].
    ///
    /// # Errors
    ///
    /// When a value does not fit, at its place in the file.
    pub fn deserialize<T: Deserialize<'a>>(&self) -> Result<T, Errors> {
        T::deserialize(de::Keys(self.entries)).map_err(|error| error.placed(self.source))
    }

    #[cold]
    fn unspecified(&self, key: &str) -> Errors {
        let mut problems = Problems::new(self.source);
        let section = self.name.map(|name| format!(" in section `{}`", shortened(name, 60)));
        problems.general(format!(
            "the program asks for the key `{}`{}, which its specification does not have",
            shortened(key, 60),
            section.unwrap_or_default()
        ));
        problems.errors()
    }
}
