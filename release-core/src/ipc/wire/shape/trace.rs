//! Tracing: a type is read from nothing, again and again, until every variant has been seen.
//!
//! Each run is one value of the type. What was given to it is kept as postcard would have it, and
//! compared with what the value writes: a type that writes other things than it reads is found here.

use std::any::type_name;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Serialize, de::DeserializeOwned};

use super::reader::SampleReader;
use super::tracer::{SamplePlan, TraceError, Tracer};
use super::{Kind, Shape};
use crate::ipc::wire::fd_slots;
use crate::ipc::wire::format::{CodecError, decode, encode};

/// How many values are made at most.
const RUNS: usize = 10_000;

impl Shape {
    /// Traces a type as serde reads it.
    ///
    /// The type's `Deserialize` is called again and again with sample values, until all variants have
    /// been seen, and each result is encoded again. A type that takes only special texts or numbers
    /// may refuse all samples: the shape is then known up to there, and [`Shape::gap`] says so.
    ///
    /// # Errors
    ///
    /// When a format like postcard's does not carry the type: it writes what it does not read, as
    /// with serde's `skip_serializing_if`, or has to be told what comes, as with serde's `tag`,
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
    let mut root = Kind::Unknown;
    for plan in [SamplePlan::Full, SamplePlan::Hollow, SamplePlan::Zero] {
        tracer.begin(plan);
        for _ in 0..RUNS {
            let mut kind = Kind::Unknown;
            let outcome = value::<T>(&mut tracer, &mut kind);
            tracer.merge(&mut root, kind);
            if !tracer.wants_another_value(outcome, type_name::<T>())? {
                break;
            }
        }
    }
    Ok(tracer.finish(root))
}

/// Makes one value, and has it write itself.
fn value<T: Serialize + DeserializeOwned>(
    tracer: &mut Tracer,
    kind: &mut Kind,
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

/// Whether a value writes the bytes that it was made of, or others that come back as themselves: a
/// type may take more than it gives.
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

type Written = (Vec<u8>, Vec<OwnedFd>);

/// The encoding of a value; none if the value itself refuses.
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
