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
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::int_in_range};
///
/// assert!(int_in_range(1..=64).accepts(&Value::Int(64)));
/// assert!(!int_in_range(1..=64).accepts(&Value::Int(65)));
/// ```
#[must_use]
pub fn int_in_range(range: RangeInclusive<i64>) -> Validation {
    let expected = format!("an integer from {} to {}", range.start(), range.end());
    integer(expected, move |number| range.contains(&number))
}

/// Requires an integer greater than the given integer.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::int_greater_than};
///
/// assert!(int_greater_than(0).accepts(&Value::Int(1)));
/// assert!(!int_greater_than(0).accepts(&Value::Int(0)));
/// ```
#[must_use]
pub fn int_greater_than(limit: i64) -> Validation {
    integer(format!("an integer greater than {limit}"), move |number| number > limit)
}

/// Requires an integer less than the given integer.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::int_less_than};
///
/// assert!(int_less_than(10).accepts(&Value::Int(9)));
/// assert!(!int_less_than(10).accepts(&Value::Int(10)));
/// ```
#[must_use]
pub fn int_less_than(limit: i64) -> Validation {
    integer(format!("an integer less than {limit}"), move |number| number < limit)
}

/// Requires an integer from the given list.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::int_in};
///
/// assert!(int_in([1, 2, 4]).accepts(&Value::Int(4)));
/// assert!(!int_in([1, 2, 4]).accepts(&Value::Int(3)));
/// ```
#[must_use]
pub fn int_in<I: IntoIterator<Item = i64>>(numbers: I) -> Validation {
    let numbers: Vec<i64> = numbers.into_iter().collect();
    let expected = format!("the integer {}", alternatives(&numbers));
    integer(expected, move |number| numbers.contains(&number))
}

/// Requires a float or an integer in the given inclusive range. No value is in a range with a NaN.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::float_in_range};
///
/// assert!(float_in_range(0.0..=1.0).accepts(&Value::Float(0.5)));
/// assert!(!float_in_range(0.0..=1.0).accepts(&Value::Int(2)));
/// ```
#[must_use]
pub fn float_in_range(range: RangeInclusive<f64>) -> Validation {
    let expected = format!("a number from {} to {}", range.start(), range.end());
    real(expected, move |number| range.contains(&number))
}

/// Requires a float or an integer, greater than the given float. No value is greater than NaN.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::float_greater_than};
///
/// assert!(float_greater_than(0.0).accepts(&Value::Float(0.5)));
/// assert!(!float_greater_than(0.0).accepts(&Value::Float(0.0)));
/// ```
#[must_use]
pub fn float_greater_than(limit: f64) -> Validation {
    real(format!("a number greater than {limit}"), move |number| number > limit)
}

/// Requires a float or an integer, less than the given float. No value is less than NaN.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::float_less_than};
///
/// assert!(float_less_than(1.0).accepts(&Value::Float(0.5)));
/// assert!(!float_less_than(1.0).accepts(&Value::Float(1.0)));
/// ```
#[must_use]
pub fn float_less_than(limit: f64) -> Validation {
    real(format!("a number less than {limit}"), move |number| number < limit)
}

/// Requires a duration in the given inclusive range.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::config::{Value, validation::duration_in_range};
///
/// let timeout = duration_in_range(Duration::from_secs(1)..=Duration::from_secs(60));
/// assert!(timeout.accepts(&Value::from(Duration::from_secs(5))));
/// assert!(!timeout.accepts(&Value::from(Duration::from_secs(90))));
/// ```
#[must_use]
pub fn duration_in_range(range: RangeInclusive<Duration>) -> Validation {
    let written = Value::Duration;
    let expected =
        format!("a duration from {} to {}", written(*range.start()), written(*range.end()));
    compared(Kind::Duration, expected, Value::as_duration, move |value| range.contains(&value))
}

/// Requires a size in the given inclusive range of bytes.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::size_in_range};
///
/// assert!(size_in_range(1024..=65_536).accepts(&Value::Size(4096)));
/// assert!(!size_in_range(1024..=65_536).accepts(&Value::Size(512)));
/// ```
#[must_use]
pub fn size_in_range(range: RangeInclusive<u64>) -> Validation {
    let expected =
        format!("a size from {} to {}", Value::Size(*range.start()), Value::Size(*range.end()));
    compared(Kind::Size, expected, Value::as_size, move |value| range.contains(&value))
}
