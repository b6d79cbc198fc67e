//! Tracing: values of a type are made of samples, until each variant has been seen.
//!
//! Each value is encoded and compared with the bytes of its samples. This detects types that do not
//! write the same parts that they read.

use std::any::type_name;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Serialize, de::DeserializeOwned};

use super::reader::SampleReader;
use super::tracer::{SamplePlan, TraceError, Tracer};
use super::{Shape, ValueKind};
use crate::ipc::wire::descriptor::Descriptor;
use crate::ipc::wire::fd_slots;
use crate::ipc::wire::format::{CodecError, decode, encode};

/// Maximum number of values.
const RUNS: usize = 10_000;

impl Shape {
    /// Traces a type by deserializing it.
    ///
    /// Calls the type's `Deserialize` with sample values until all variants have been seen, and
    /// encodes each result again. A type may refuse all samples if it accepts only special texts or
    /// numbers. This part of the shape is then unknown, and [`Shape::gap`] returns the reason.
    ///
    /// # Errors
    ///
    /// Returns an error if a format like postcard does not support the type. Such types do not
    /// write all parts, as with serde's `skip_serializing_if`, or depend on names, as with serde's
    /// `tag`,
    /// `untagged` and `flatten`.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::Shape;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct User {
    ///     #[serde(skip_serializing_if = "Option::is_none")]
    ///     email: Option<String>,
    ///     admin: bool,
    /// }
    ///
    /// assert!(Shape::of::<User>().is_err());
    /// ```
    pub fn of<T: Serialize + DeserializeOwned>() -> Result<Self, CodecError> {
        trace::<T>()
    }
}

fn trace<T: Serialize + DeserializeOwned>() -> Result<Shape, CodecError> {
    let mut tracer = Tracer::new();
    let mut root = ValueKind::Unknown;
    for plan in [SamplePlan::Full, SamplePlan::Hollow, SamplePlan::Zero] {
        tracer.begin(plan);
        for _ in 0..RUNS {
            let mut kind = ValueKind::Unknown;
            let outcome = value::<T>(&mut tracer, &mut kind);
            tracer.merge(&mut root, kind);
            if !tracer.wants_another_value(outcome, type_name::<T>())? {
                break;
            }
        }
    }
    Ok(tracer.finish(root))
}

/// Makes one value, and encodes it again.
fn value<T: Serialize + DeserializeOwned>(
    tracer: &mut Tracer,
    kind: &mut ValueKind,
) -> Result<(), TraceError> {
    tracer.begin_value();
    let made = catch_unwind(AssertUnwindSafe(|| {
        let value = fd_slots::tracing(|| T::deserialize(SampleReader::new(tracer, kind)))?;
        writes_what_it_reads(&value, tracer.given())
    }));
    made.unwrap_or_else(|panic| {
        let why = crate::guard::panic_message(panic.as_ref());
        Err(TraceError::Invalid(format!("a panic: {why}")))
    })
}

/// Returns an error unless a value writes the bytes of which it was made, or bytes that survive a
/// round trip: a type may accept more than one encoding of a value.
fn writes_what_it_reads<T: Serialize + DeserializeOwned>(
    value: &T,
    given: &[u8],
) -> Result<(), TraceError> {
    let Some((bytes, files)) = write(value)? else { return Ok(()) };
    if bytes == given {
        return Ok(());
    }
    let again = fd_slots::decoding(files, || decode::<T>(&bytes));
    match again.ok().map(|again| write(&again)).transpose()?.flatten() {
        Some((second, _)) if second == bytes => Ok(()),
        _ => Err(TraceError::Unwritten(UNEQUAL.to_owned())),
    }
}

type Written = (Vec<u8>, Vec<Descriptor>);

/// Encodes a value. Returns `None` if the value itself refuses it.
fn write<T: Serialize>(value: &T) -> Result<Option<Written>, TraceError> {
    let (mut bytes, mut fault) = (Vec::new(), None);
    let written = fd_slots::encoding(usize::MAX, || {
        encode(value, &mut bytes).map_err(|error| fault.insert(error).error().clone())
    });
    match (written, fault) {
        (Ok(files), _) => Ok(Some((bytes, files))),
        (Err(error), Some(fault)) if fault.is_of_the_format() => {
            Err(TraceError::Unwritten(error.to_string()))
        }
        (Err(_), _) => Ok(None),
    }
}

const UNEQUAL: &str = "it writes something else than it reads, as with serde's `skip_serializing`, \
                       `skip_serializing_if`, or `skip` at a variant that is not the last; take \
                       another codec, or another type";
