//! Configuration files: `key = value` in sections, checked against a specification.
//!
//! ```text
//! # Who the workers are
//! user      = "www-data"
//! log-level = info
//!
//! [web]
//! listen  = [0.0.0.0:80, [::]:80]
//! timeout = 1.5s
//! names   = /^(www\.)?example\.(com|org)$/
//! ```
//!
//! * [`Spec`] defines the sections and keys, with their defaults and [`validation`]s.
//! * [`Config`] is a file that fulfils the specification. Read its values with
//!   [`get`](Config::get), or all of them into your own type with
//!   [`deserialize`](Config::deserialize). [`dump`](Config::dump) shows the values in force and
//!   their origin.
//! * [`Errors`] lists every error in a file, each with its position and the expected value.
//! * [`Live`] is the configuration of a running daemon. It can be reloaded, and never accepts a
//!   wrong file.
//! * [`check`] implements `--check-config`.
//!
//! Nothing is accepted silently: a misspelt name, a key set twice, an unclosed string or a value
//! out of range is an error. `docs/CONFIGURATION.md` describes the format.
//!
//! # Examples
//!
//! ```
//! use release_core::config::validation::{int_in_range, keywords, string};
//! use release_core::config::{Config, Spec, default, key};
//!
//! let spec = Spec::new()
//!     .key(key("user").check(string()))
//!     .key(key("workers").default(4).check(int_in_range(1..=64)))
//!     .key(key("log-level").default(default::keyword("info")).check(keywords(["debug", "info"])));
//!
//! let config = Config::parse("app.conf", "user = \"www-data\"\nworkers = 8\n", &spec).unwrap();
//! assert_eq!(config.get::<u8>("workers").unwrap(), 8);
//! assert_eq!(config.get::<&str>("log-level").unwrap(), "info");
//!
//! let errors = Config::parse("app.conf", "usr = \"www-data\"\nworkers = 80\n", &spec).unwrap_err();
//! assert_eq!(
//!     errors.to_string(),
//!     r#"app.conf:1:1: unknown key `usr`; is it `user`?
//!     usr = "www-data"
//!     ^^^
//! app.conf:2:11: `workers`: expected an integer from 1 to 64, found 80
//!     workers = 80
//!               ^^"#
//! );
//! ```

#![forbid(unsafe_code)]

mod address;
mod check;
mod de;
pub mod default;
mod entry;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod hint;
mod include;
mod lex;
mod live;
mod loaded;
mod number;
mod parse;
mod printable;
mod quoted;
mod read;
mod regexp;
mod secret;
mod source;
mod spec;
mod suggest;
#[cfg(test)]
mod tests;
mod units;
pub mod validation;
mod value;

pub use address::{AddressError, Endpoint};
pub use error::{Errors, Level, Problem};
pub use live::{Change, Live, check};
pub use loaded::{Config, Section};
pub use regexp::{Regexp, RegexpError};
pub use spec::{Key, Spec, key};
pub use value::{Kind, Value};
