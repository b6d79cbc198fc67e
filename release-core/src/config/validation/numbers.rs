//! Validations of the magnitude of a value.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Validation;
use super::kinds::alternatives;
use crate::config::{Kind, Value};

/// Creates a condition on the content of a value of this kind.
fn compared<T, G, F>(kind: Kind, expected: String, get: G, test: F) -> Validation
where
    G: Fn(&Value) -> Option<T> + Send + Sync + 'static,
    F: Fn(T) -> bool + Send + Sync + 'static,
{
    Validation::of_kind(kind, expected, move |value| {
        if get(value).is_some_and(&test) { Ok(()) } else { Err(String::new()) }
    })
}

fn integer(expected: String, test: impl Fn(i64) -> bool + Send + Sync + 'static) -> Validation {
    compared(Kind::Int, expected, Value::as_int, test)
}

fn real(expected: String, test: impl Fn(f64) -> bool + Send + Sync + 'static) -> Validation {
    compared(Kind::Float, expected, Value::as_float, test)
}

/// Requires an integer in the given inclusive range.
#[must_use]
pub fn int_in_range(range: RangeInclusive<i64>) -> Validation {
    let expected = format!("an integer from {} to {}", range.start(), range.end());
    integer(expected, move |number| range.contains(&number))
}

/// Requires an integer greater than the given integer.
#[must_use]
pub fn int_greater_than(limit: i64) -> Validation {
    integer(format!("an integer greater than {limit}"), move |number| number > limit)
}

/// Requires an integer less than the given integer.
#[must_use]
pub fn int_less_than(limit: i64) -> Validation {
    integer(format!("an integer less than {limit}"), move |number| number < limit)
}

/// Requires an integer from the given list.
#[must_use]
pub fn int_in<I: IntoIterator<Item = i64>>(numbers: I) -> Validation {
    let numbers: Vec<i64> = numbers.into_iter().collect();
    let expected = format!("the integer {}", alternatives(&numbers));
    integer(expected, move |number| numbers.contains(&number))
}

/// Requires a float or an integer in the given inclusive range. No value is in a range with a NaN.
#[must_use]
pub fn float_in_range(range: RangeInclusive<f64>) -> Validation {
    let expected = format!("a number from {} to {}", range.start(), range.end());
    real(expected, move |number| range.contains(&number))
}

/// Requires a float or an integer, greater than the given float. No value is greater than NaN.
#[must_use]
pub fn float_greater_than(limit: f64) -> Validation {
    real(format!("a number greater than {limit}"), move |number| number > limit)
}

/// Requires a float or an integer, less than the given float. No value is less than NaN.
#[must_use]
pub fn float_less_than(limit: f64) -> Validation {
    real(format!("a number less than {limit}"), move |number| number < limit)
}

/// Requires a duration in the given inclusive range.
#[must_use]
pub fn duration_in_range(range: RangeInclusive<Duration>) -> Validation {
    let written = Value::Duration;
    let expected =
        format!("a duration from {} to {}", written(*range.start()), written(*range.end()));
    compared(Kind::Duration, expected, Value::as_duration, move |value| range.contains(&value))
}

/// Requires a size in the given inclusive range of bytes.
#[must_use]
pub fn size_in_range(range: RangeInclusive<u64>) -> Validation {
    let expected =
        format!("a size from {} to {}", Value::Size(*range.start()), Value::Size(*range.end()));
    compared(Kind::Size, expected, Value::as_size, move |value| range.contains(&value))
}
