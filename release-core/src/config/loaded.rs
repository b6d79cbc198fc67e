//! A valid configuration: its values, the origin of each, and its written form.

use std::fmt::{self, Write};
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::check::{Checked, check};
use super::entry::{Entry, Values};
use super::error::{Errors, Problem, Problems};
use super::printable::shortened;
use super::source::SourceText;
use super::{Spec, Value, de, include, read, secret};
use crate::start_files::accepted;

/// A configuration that fulfils its [`Spec`]: a value for every key, from the file or by default.
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
    pub(super) source: Arc<SourceText>,
    /// The sections in the order of the specification; the first section holds the global keys.
    pub(super) sections: Vec<Values>,
    warnings: Vec<Problem>,
}

impl Config {
    /// Reads a file and checks it against the specification.
    ///
    /// Reads only regular files, without waiting, up to [`Spec::size_limit`].
    ///
    /// # Errors
    ///
    /// Returns every error in the file, or the reason why it cannot be read.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("web.conf");
    /// std::fs::write(&path, "port = 80")?;
    /// let config = Config::load(&path, &Spec::new().key(key("port")))?;
    /// assert_eq!(config.get::<u16>("port")?, 80);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load(path: impl AsRef<Path>, spec: &Spec) -> Result<Self, Errors> {
        let path = path.as_ref();
        let source = read::read(path, spec.size_limit, spec.has_secrets())?;
        let config = Self::checked(source, spec)?;
        let main = config.source.bytes(0);
        accepted(path, config.source.text[main].as_bytes());
        Ok(config)
    }

    /// Parses a configuration from text. Messages use `name` as its file name.
    ///
    /// # Errors
    ///
    /// Returns every error in the text.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let config = Config::parse("web.conf", "port = 80", &Spec::new().key(key("port")))?;
    /// assert_eq!(config.get::<u16>("port")?, 80);
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    pub fn parse(name: &str, text: impl AsRef<[u8]>, spec: &Spec) -> Result<Self, Errors> {
        Self::checked(read::text(name, text.as_ref().to_vec(), spec.has_secrets())?, spec)
    }

    fn checked(mut source: SourceText, spec: &Spec) -> Result<Self, Errors> {
        let failures = match &spec.include {
            Some(key) => include::expand(&mut source, key, spec.size_limit, spec.has_secrets()),
            None => Vec::new(),
        };
        source.hide(secret::hidden(&source.text, &spec.secrets()));
        let Checked { sections, secrets, warnings } = check(&source, spec, &failures)?;
        for (path, bytes) in secrets {
            accepted(&path, &bytes);
        }
        for file in 1..source.count() {
            accepted(source.path(file), source.text[source.bytes(file)].as_bytes());
        }
        Ok(Self { source: Arc::new(source), sections, warnings })
    }

    /// Returns the warnings about the file, at most 100, in its order. Print or log them: nothing else
    /// does, except [`check`](super::check()).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().key(key("port").formerly("listen-port"));
    /// let config = Config::parse("web.conf", "listen-port = 80", &spec)?;
    /// assert_eq!(config.get::<u16>("port")?, 80);
    /// assert_eq!(
    ///     config.warnings()[0].to_string(),
    ///     "web.conf:1:1: warning: the key `listen-port` is now called `port`\n    \
    ///      listen-port = 80\n    ^^^^^^^^^^^"
    /// );
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Returns a global value as your type: a number of any size, `String`, `&str`, `PathBuf`,
    /// `Duration`, [`Regexp`](super::Regexp), [`Endpoint`](super::Endpoint), an enum for a keyword, a
    /// `Vec` of those, an `Option` for an optional key.
    ///
    /// # Errors
    ///
    /// Returns an error if the value does not fit the type, with its position in the file, or if
    /// the specification has no such key.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().key(key("ports")).key(key("timeout"));
    /// let config = Config::parse("web.conf", "ports = [80, 443] timeout = 1.5s", &spec)?;
    /// let (ports, timeout): (Vec<u16>, Duration) = (config.get("ports")?, config.get("timeout")?);
    /// assert_eq!((ports, timeout), (vec![80, 443], Duration::from_millis(1500)));
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    pub fn get<'a, T: Deserialize<'a>>(&'a self, key: &str) -> Result<T, Errors> {
        self.globals().get(key)
    }

    /// Returns a global value as written in the file. Returns `None` for an optional key that is
    /// not set, and for a key that is not in the specification.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, Value, key};
    ///
    /// let spec = Spec::new().key(key("port")).key(key("proxy").optional());
    /// let config = Config::parse("web.conf", "port = 80", &spec)?;
    /// assert_eq!(config.value("port"), Some(&Value::Int(80)));
    /// assert_eq!(config.value("proxy"), None);
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.globals().value(key)
    }

    /// Returns the values of a section. A section that is not in the specification is empty.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().section("web", [key("port")]);
    /// let config = Config::parse("web.conf", "[web] port = 80", &spec)?;
    /// assert_eq!(config.section("web").get::<u16>("port")?, 80);
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    #[must_use]
    pub fn section<'a>(&'a self, name: &'a str) -> Section<'a> {
        let found = self.sections.iter().find(|section| section.name.as_deref() == Some(name));
        let entries = found.map_or(&[][..], |section| &section.entries);
        Section { source: &self.source, name: Some(name), entries }
    }

    /// Returns the sections with this name and their labels, see [`Spec::labelled_section`], in the
    /// order of the file.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().labelled_section("site", [key("port")]);
    /// let text = r#"[site "a"] port = 80 [site "b"] port = 81"#;
    /// let config = Config::parse("web.conf", text, &spec)?;
    /// let mut ports = Vec::new();
    /// for (label, site) in config.labelled("site") {
    ///     ports.push((label, site.get::<u16>("port")?));
    /// }
    /// assert_eq!(ports, [("a", 80), ("b", 81)]);
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    pub fn labelled<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, Section<'a>)> {
        let named = self.sections.iter().filter(move |found| found.name.as_deref() == Some(name));
        named.filter_map(move |section| {
            let (source, entries) = (&*self.source, section.entries.as_slice());
            Some((section.label.as_deref()?, Section { source, name: Some(name), entries }))
        })
    }

    fn globals(&self) -> Section<'_> {
        let entries = self.sections.first().map_or(&[][..], |section| &section.entries);
        Section { source: &self.source, name: None, entries }
    }

    /// Returns the whole configuration as your struct, with a field for each global key and each
    /// section. A section's field is in turn a struct or map.
    ///
    /// # Errors
    ///
    /// Returns an error if a value does not fit, with its position in the file.
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
        de::whole(&self.sections, &self.source)
    }

    /// Returns every key with its value. A comment names the line that sets it, or marks it as the
    /// default.
    ///
    /// Reading the result with the same specification gives the same values, except for those of
    /// [secret](super::Key::secret) keys, which are not shown.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new()
    ///     .key(key("port").default(80))
    ///     .key(key("proxy").optional())
    ///     .section("web", [key("root")]);
    /// let config = Config::parse("web.conf", "[web]\nroot = \"/srv\"\n", &spec).unwrap();
    /// let expected = [
    ///     "port = 80  # default",
    ///     "# proxy is not set",
    ///     "",
    ///     "[web]",
    ///     "root = \"/srv\"  # web.conf:2",
    ///     "",
    /// ];
    /// assert_eq!(config.dump(), expected.join("\n"));
    /// ```
    #[must_use]
    pub fn dump(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> fmt::Result {
        for section in &self.sections {
            if section.is_labelled && section.label.is_none() {
                continue;
            }
            if let Some(name) = section.header() {
                let separator = if text.is_empty() { "" } else { "\n" };
                writeln!(text, "{separator}[{name}]")?;
            }
            for Entry { key, value, place, is_secret } in &section.entries {
                match (value, place) {
                    (None, _) => writeln!(text, "# {key} is not set")?,
                    (Some(_), None) if *is_secret => {
                        writeln!(text, "# {key} is set, and secret  # default")?;
                    }
                    (Some(_), Some(place)) if *is_secret => {
                        let (name, line) = (self.source.name(&place.span), place.span.line);
                        writeln!(text, "# {key} is set, and secret  # {name}:{line}")?;
                    }
                    (Some(value), None) => writeln!(text, "{key} = {value}  # default")?,
                    (Some(value), Some(place)) => {
                        let (name, line) = (self.source.name(&place.span), place.span.line);
                        writeln!(text, "{key} = {value}  # {name}:{line}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The values of a section of a [`Config`].
///
/// # Examples
///
/// ```
/// use release_core::config::{Config, Section, Spec, key};
///
/// /// Each service has a section of its own.
/// fn port(section: Section<'_>) -> u16 {
///     section.get("port").unwrap_or(80)
/// }
///
/// let spec = Spec::new().section("web", [key("port")]);
/// let config = Config::parse("web.conf", "[web] port = 8080", &spec)?;
/// assert_eq!(port(config.section("web")), 8080);
/// # Ok::<(), release_core::config::Errors>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    source: &'a SourceText,
    name: Option<&'a str>,
    entries: &'a [Entry],
}

impl<'a> Section<'a> {
    /// Returns a value as your type, see [`Config::get`].
    ///
    /// # Errors
    ///
    /// Returns an error if the value does not fit the type, with its position in the file, or if
    /// the specification has no such section or key.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().section("web", [key("root")]);
    /// let config = Config::parse("web.conf", "[web] root = \"/srv/www\"", &spec)?;
    /// assert_eq!(config.section("web").get::<&str>("root")?, "/srv/www");
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    pub fn get<T: Deserialize<'a>>(&self, key: &str) -> Result<T, Errors> {
        match self.entries.iter().find(|entry| entry.key == key) {
            Some(entry) => de::Node::of(entry)
                .seeded(PhantomData::<T>)
                .map_err(|error| error.placed(self.source)),
            None => Err(self.unspecified(key)),
        }
    }

    /// Returns a value as written in the file. Returns `None` for an optional key that is not set,
    /// and for a key that is not in the specification.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, Value, key};
    ///
    /// let spec = Spec::new().section("web", [key("port")]);
    /// let config = Config::parse("web.conf", "[web] port = 80", &spec)?;
    /// assert_eq!(config.section("web").value("port"), Some(&Value::Int(80)));
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.entries.iter().find(|entry| entry.key == key)?.value.as_ref()
    }

    /// Returns the section as your struct or map, see [`Config::deserialize`].
    ///
    /// # Errors
    ///
    /// Returns an error if a value does not fit, with its position in the file.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Web {
    ///     port: u16,
    /// }
    ///
    /// let spec = Spec::new().section("web", [key("port")]);
    /// let config = Config::parse("web.conf", "[web] port = 80", &spec)?;
    /// let web: Web = config.section("web").deserialize()?;
    /// assert_eq!(web.port, 80);
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
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
