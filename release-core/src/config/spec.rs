//! The specification of a configuration: its sections and keys, and their allowed values.

use std::collections::HashSet;
use std::fmt;

use serde::de::DeserializeOwned;

use super::de;
use super::entry::{Entry, Values};
use super::error::Errors;
use super::printable::shortened;
use super::source::{Place, SourceText};
use super::validation::{Invalid, Validation, unusual};
use super::value::is_plain;
use super::{Value, parse};

/// Default of the maximum file size, see [`Spec::size_limit`].
const SIZE_LIMIT: u64 = 1024 * 1024;

/// The sections and keys that a configuration file may and must contain.
///
/// The specification is part of your program. Every function that uses it reports mistakes in it,
/// such as a duplicate key, or a name or default that cannot be written in a file.
///
/// # Examples
///
/// ```
/// use release_core::config::validation::{
///     bool, existing_user, int_in_range, keywords, list_of, regexp, unprivileged_user,
/// };
/// use release_core::config::{Spec, default, key};
///
/// let spec = Spec::new()
///     .key(key("user").check(unprivileged_user())) // required: it has no default
///     .key(key("privileged").default(true).check(bool()))
///     .key(key("read-timeout").default(5).check(int_in_range(0..=10)))
///     .key(key("log-level").default(default::keyword("info")).check(keywords(["debug", "info"])))
///     .section("names", [
///         key("match").default(default::regexp("^[a-z]+$")).check(regexp()),
///     ])
///     .section("admins", [
///         key("users").default(vec!["root"]).check(list_of(existing_user())),
///     ]);
/// # assert!(release_core::config::Config::parse("x", "user = \"nobody\"", &spec).is_ok());
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Spec {
    pub(super) sections: Vec<SectionSpec>,
    pub(super) size_limit: u64,
    pub(super) fits: Vec<Fits>,
    pub(super) include: Option<String>,
}

/// A check whether the content of a file fits a type.
type Fits = fn(&[Values], &SourceText) -> Result<(), Errors>;

#[derive(Clone, Debug)]
pub(super) struct SectionSpec {
    /// `None` for the global keys.
    pub(super) name: Option<String>,
    pub(super) keys: Vec<Key>,
    /// Whether the section has a label and may be repeated with other labels.
    pub(super) is_labelled: bool,
    /// The condition on the values of further keys, with any name.
    pub(super) others: Option<Validation>,
}

impl SectionSpec {
    fn new(name: Option<String>, keys: Vec<Key>) -> Self {
        Self { name, keys, is_labelled: false, others: None }
    }
}

/// A key of a [`Spec`], created by [`key`].
///
/// # Examples
///
/// ```
/// use release_core::config::{Config, Key, Spec, key};
/// use release_core::config::validation::int_in_range;
///
/// /// The key of a port, which several sections have.
/// fn port() -> Key {
///     key("port").check(int_in_range(1..=65535))
/// }
///
/// let spec = Spec::new().section("web", [port()]).section("admin", [port()]);
/// assert!(Config::parse("x", "[web] port = 80 [admin] port = 8080", &spec).is_ok());
/// ```
#[derive(Clone)]
#[must_use]
pub struct Key {
    pub(super) name: String,
    pub(super) default: Option<Value>,
    pub(super) optional: bool,
    pub(super) checks: Vec<Validation>,
    pub(super) is_secret: bool,
    pub(super) former_names: Vec<String>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Key");
        text.field("name", &self.name);
        match self.is_secret {
            true => text.field("default", &self.default.as_ref().map(|_| format_args!("***"))),
            false => text.field("default", &self.default),
        };
        text.field("optional", &self.optional).field("checks", &self.checks).finish()
    }
}

/// Creates a key. Without further settings, the file must set it, to any value.
///
/// # Examples
///
/// ```
/// use release_core::config::{Config, Spec, key};
///
/// let spec = Spec::new().key(key("user"));
/// assert!(Config::parse("x", "user = \"www-data\"", &spec).is_ok());
/// assert!(Config::parse("x", "", &spec).is_err());
/// ```
pub fn key(name: impl Into<String>) -> Key {
    Key {
        name: name.into(),
        default: None,
        optional: false,
        checks: Vec::new(),
        is_secret: false,
        former_names: Vec::new(),
    }
}

impl Key {
    /// Sets the value for files that do not set the key. It must pass the validations too: they may
    /// concern the machine, for example whether a directory exists.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().key(key("port").default(80));
    /// assert_eq!(Config::parse("x", "", &spec)?.get::<u16>("port")?, 80);
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    pub fn default(mut self, value: impl Into<Value>) -> Self {
        self.default = Some(value.into());
        self
    }

    /// Makes the key optional, without a default.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().key(key("proxy").optional());
    /// assert_eq!(Config::parse("x", "", &spec)?.get::<Option<String>>("proxy")?, None);
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Hides the value: errors, [`Config::dump`](super::Config::dump), changes and `Debug` do not
    /// show it.
    ///
    /// Instead of the value, the file may name another file that holds it: `file:/path`, or
    /// `credential:name` for a file in the directory `$CREDENTIALS_DIRECTORY`, which systemd sets
    /// for `LoadCredential=`. The value is then a string, the content without the line break at its
    /// end.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key, validation::int};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("db");
    /// let spec = Spec::new().key(key("password").secret());
    /// std::fs::write(&path, "x7\n")?;
    /// let config = Config::parse("x", format!("password = file:{}", path.display()), &spec)?;
    /// assert_eq!(config.get::<&str>("password")?, "x7");
    /// assert_eq!(config.dump(), "# password is set, and secret  # x:1\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }

    /// Accepts another name of the key, from an earlier version of your program, with a
    /// [warning](super::Config::warnings). A file must not use both names.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().key(key("port").formerly("listen-port"));
    /// let config = Config::parse("web.conf", "listen-port = 80", &spec)?;
    /// assert_eq!(config.get::<u16>("port")?, 80);
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    pub fn formerly(mut self, name: impl Into<String>) -> Self {
        self.former_names.push(name.into());
        self
    }

    /// Returns all names of the key, the present one first.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name).chain(&self.former_names).map(String::as_str)
    }

    /// Adds a validation of the value. If several validations fail, the first one is reported.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key, validation::int_in_range};
    ///
    /// let spec = Spec::new().key(key("port").check(int_in_range(1..=65535)));
    /// assert!(Config::parse("x", "port = 0", &spec).is_err());
    /// ```
    pub fn check(mut self, validation: Validation) -> Self {
        self.checks.push(validation);
        self
    }

    /// Creates the entry of this key in a configuration.
    pub(super) fn entry(&self, value: Option<Value>, place: Option<Place>) -> Entry {
        Entry { key: self.name.clone(), value, place, is_secret: self.is_secret }
    }

    /// Returns the reasons of the first validation that the value does not pass.
    pub(super) fn failed(&self, value: &Value) -> Vec<Invalid> {
        if self.checks.is_empty() {
            return self.unusual(value).into_iter().collect();
        }
        let failed = self.checks.iter().find_map(|check| check.test(value).err());
        let failed = failed.unwrap_or_default();
        // Says which element is wrong if the validation does not.
        match unusual(value).filter(|invalid| !invalid.path.is_empty()) {
            Some(element) if failed.iter().any(|invalid| invalid.path.is_empty()) => vec![element],
            _ => failed,
        }
    }

    /// Returns the reason why a key without validations does not take the value. A default that is a
    /// file mode declares that the key holds one.
    fn unusual(&self, value: &Value) -> Option<Invalid> {
        match (&self.default, value) {
            (Some(Value::Mode(_)), Value::Mode(_)) => None,
            _ => unusual(value).filter(|_| self.checks.is_empty()),
        }
    }
}

impl Default for Spec {
    fn default() -> Self {
        Self::new()
    }
}

impl Spec {
    /// Creates a configuration with no keys.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec};
    ///
    /// assert!(Config::parse("x", "# nothing but a comment", &Spec::new()).is_ok());
    /// assert!(Config::parse("x", "port = 80", &Spec::new()).is_err());
    /// ```
    pub fn new() -> Self {
        let globals = SectionSpec::new(None, Vec::new());
        Self { sections: vec![globals], size_limit: SIZE_LIMIT, fits: Vec::new(), include: None }
    }

    /// Adds a global key, which precedes the first section.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().key(key("host")).key(key("port"));
    /// let config = Config::parse("x", "host = \"localhost\" port = 80", &spec)?;
    /// assert_eq!(config.get::<u16>("port")?, 80);
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    pub fn key(mut self, key: Key) -> Self {
        self.sections[0].keys.push(key);
        self
    }

    /// Adds a section with its keys. The section may be absent if none of its keys is required.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// let spec = Spec::new().section("web", [key("root"), key("port").default(80)]);
    /// let config = Config::parse("x", "[web] root = \"/srv/www\"", &spec)?;
    /// assert_eq!(config.section("web").get::<u16>("port")?, 80);
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    pub fn section(mut self, name: impl Into<String>, keys: impl IntoIterator<Item = Key>) -> Self {
        let keys = keys.into_iter().collect();
        self.sections.push(SectionSpec::new(Some(name.into()), keys));
        self
    }

    /// Adds sections that a file may repeat with different labels: `[site "a"]`, `[site "b"]`. There
    /// may be none. Read them with [`Config::labelled`](super::Config::labelled), or deserialize them
    /// as a map.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use release_core::config::{Config, Spec, key};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Site {
    ///     root: String,
    /// }
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Settings {
    ///     site: BTreeMap<String, Site>,
    /// }
    ///
    /// let spec = Spec::new().labelled_section("site", [key("root")]);
    /// let text = r#"
    ///     [site "a.example"]
    ///     root = "/srv/a"
    ///     [site "b.example"]
    ///     root = "/srv/b"
    /// "#;
    /// let settings: Settings = Config::parse("x", text, &spec)?.deserialize()?;
    /// assert_eq!(settings.site["b.example"].root, "/srv/b");
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    pub fn labelled_section(
        mut self,
        name: impl Into<String>,
        keys: impl IntoIterator<Item = Key>,
    ) -> Self {
        self = self.section(name, keys);
        if let Some(section) = self.sections.last_mut() {
            section.is_labelled = true;
        }
        self
    }

    /// Adds a section with keys of any name, all of whose values fulfil the validation. Deserialize
    /// it as a map.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use release_core::config::{Config, Spec, validation::string};
    ///
    /// let spec = Spec::new().open_section("environment", string());
    /// let text = "[environment] LANG = \"C\" TZ = \"UTC\"";
    /// let config = Config::parse("x", text, &spec)?;
    /// let environment: HashMap<&str, &str> = config.section("environment").deserialize()?;
    /// assert_eq!(environment["TZ"], "UTC");
    /// # Ok::<(), release_core::config::Errors>(())
    /// ```
    pub fn open_section(mut self, name: impl Into<String>, values: Validation) -> Self {
        self = self.section(name, []);
        if let Some(section) = self.sections.last_mut() {
            section.others = Some(values);
        }
        self
    }

    /// Requires that the configuration fits your type, see [`Config::deserialize`](super::Config::deserialize). A reload then
    /// accepts only files that fit.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Settings {
    ///     port: u16,
    /// }
    ///
    /// let spec = Spec::new().key(key("port")).fits::<Settings>();
    /// assert!(Config::parse("web.conf", "port = 65536", &spec).is_err());
    /// # let config = Config::parse("web.conf", "port = 80", &spec).unwrap();
    /// # assert_eq!(config.deserialize::<Settings>().unwrap().port, 80);
    /// ```
    pub fn fits<T: DeserializeOwned>(mut self) -> Self {
        self.fits.push(|sections, source| de::whole::<T>(sections, source).map(drop));
        self
    }

    /// Lets files include others: the global key with this name has the path of a file, or a list of
    /// paths. It may be set more than once.
    ///
    /// A relative path starts from the directory of the including file. The last part of a path may
    /// contain `*` and `?`. Then the matching files are included in the order of their names, without
    /// hidden ones; there may be none.
    ///
    /// An included file has global keys and sections like the main file. A section may be spread over
    /// files, but a key may be set once in all of them. Files include others up to 8 deep, and 256 in
    /// total; [`size_limit`](Self::size_limit) is for all of them together.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::{Config, Spec, key};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path();
    /// std::fs::create_dir(path.join("conf.d"))?;
    /// std::fs::write(path.join("conf.d/web.conf"), "[web] port = 80")?;
    /// std::fs::write(path.join("main.conf"), "include = \"conf.d/*.conf\"")?;
    /// let spec = Spec::new().include("include").section("web", [key("port")]);
    /// let config = Config::load(path.join("main.conf"), &spec)?;
    /// assert_eq!(config.section("web").get::<u16>("port")?, 80);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn include(mut self, key: impl Into<String>) -> Self {
        self.include = Some(key.into());
        self
    }

    /// Sets the maximum file size in bytes (default 1 MiB).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::config::Spec;
    ///
    /// let spec = Spec::new().size_limit(16 * 1024 * 1024);
    /// ```
    pub fn size_limit(mut self, bytes: u64) -> Self {
        self.size_limit = bytes;
        self
    }

    pub(super) fn has_secrets(&self) -> bool {
        !self.secrets().is_empty()
    }

    /// Returns the names of the keys whose values are never shown.
    pub(super) fn secrets(&self) -> Vec<&str> {
        let keys = self.sections.iter().flat_map(|section| &section.keys);
        keys.filter(|key| key.is_secret).flat_map(Key::names).collect()
    }

    /// Returns the mistakes in the specification.
    pub(super) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut sections = HashSet::new();
        for section in &self.sections {
            if let Some(name) = &section.name {
                mistakes.extend(wrong_name("section", name, &mut sections));
            }
            let mut keys = HashSet::new();
            if let Some(include) = self.include.as_ref().filter(|_| section.name.is_none()) {
                mistakes.extend(wrong_name("key", include, &mut keys));
            }
            for key in &section.keys {
                for name in key.names() {
                    mistakes.extend(wrong_name("key", name, &mut keys));
                }
                let default = key.default.as_ref();
                // Rejects a default that could not be read back from a dump.
                if default.is_some_and(|value| {
                    let read = parse::value(&value.to_string());
                    read.as_ref() != Some(value) || key.unusual(value).is_some()
                }) {
                    let shown = default.filter(|_| !key.is_secret).map(Value::described);
                    let shown = shown.unwrap_or_default();
                    let name = shortened(&key.name, 60);
                    mistakes.push(format!("the default of `{name}` cannot be written: {shown}"));
                }
            }
        }
        mistakes
    }
}

fn wrong_name<'a>(what: &str, name: &'a str, known: &mut HashSet<&'a str>) -> Option<String> {
    let shown = shortened(name, 60);
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) || !name.chars().all(is_plain) {
        Some(format!("`{shown}` cannot be the name of a {what}"))
    } else if known.insert(name) {
        None
    } else {
        Some(format!("the {what} `{shown}` is specified twice"))
    }
}
