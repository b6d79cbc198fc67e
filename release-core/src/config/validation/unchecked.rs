//! The values that a key does not accept unless a validation does: file modes, which a program may
//! mistake for integers, and lists of mixed kinds.

use super::{Invalid, is_a};
use crate::config::{Kind, Value};

/// Returns the first part of the value that needs a validation to accept it.
pub(in crate::config) fn unusual(value: &Value) -> Option<Invalid> {
    match value {
        Value::Mode(bits) => Some(Invalid {
            path: Vec::new(),
            message: format!("an integer has no leading zero, found {value}"),
            discreet: "an integer has no leading zero".to_owned(),
            hint: format!("without it: {bits:o}"),
        }),
        Value::List(items) => mixed(items).or_else(|| {
            let mut inner = items.iter().enumerate();
            inner.find_map(|(index, item)| Some(within(index, unusual(item)?)))
        }),
        _ => None,
    }
}

/// Returns the first element of another kind than those before it. Integers among floats are floats.
fn mixed(items: &[Value]) -> Option<Invalid> {
    let first = items.first()?;
    let floats = items.iter().all(|item| is_a(Kind::Float, item));
    let (index, odd) =
        items.iter().enumerate().find(|(_, item)| item.kind() != first.kind() && !floats)?;
    let message = format!(
        "a list holds values of one kind: expected {} as before it, found {}",
        first.kind(),
        odd.described()
    );
    let discreet = "a list holds values of one kind".to_owned();
    Some(within(index, Invalid { path: Vec::new(), message, discreet, hint: String::new() }))
}

fn within(index: usize, mut invalid: Invalid) -> Invalid {
    invalid.path.insert(0, index);
    invalid
}
