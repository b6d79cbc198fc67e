//! Tests of the configuration, by subject.

mod compatible;
mod files;
mod format;
mod hostile;
mod including;
mod live;
mod messages;
mod properties;
mod reading;
mod repeated;
mod secrets;
mod serde;
mod specification;
mod warnings;

use super::{Config, Errors, Spec, Value, key};

/// Returns the value of the text as a key's value.
fn value(text: &str) -> Result<Value, String> {
    let spec = Spec::new().key(key("key"));
    let config = Config::parse("x", format!("key = {text}"), &spec).map_err(|e| messages(&e))?;
    Ok(config.value("key").expect("the key is required").clone())
}

/// Returns the messages without positions, one per line.
fn messages(errors: &Errors) -> String {
    let messages: Vec<&str> = errors.problems().iter().map(|problem| problem.message()).collect();
    messages.join("\n")
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can do this");
    }
    root
}
