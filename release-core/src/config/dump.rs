//! The configuration in force, written as a file that reproduces it.

use std::fmt::{self, Write};

use super::loaded::{Config, Entry};

impl Config {
    /// Returns every key with its value. A comment names the line that sets it, or marks it as the
    /// default.
    ///
    /// Reading the result with the same specification gives the same values.
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
            if let Some(name) = &section.name {
                let separator = if text.is_empty() { "" } else { "\n" };
                writeln!(text, "{separator}[{name}]")?;
            }
            for Entry { key, value, place } in &section.entries {
                match (value, place) {
                    (None, _) => writeln!(text, "# {key} is not set")?,
                    (Some(value), None) => writeln!(text, "{key} = {value}  # default")?,
                    (Some(value), Some(place)) => {
                        let (name, line) = (self.source.name(), place.span.line);
                        writeln!(text, "{key} = {value}  # {name}:{line}")?;
                    }
                }
            }
        }
        Ok(())
    }
}
