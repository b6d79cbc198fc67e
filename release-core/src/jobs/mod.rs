//! Jobs.
#[allow(dead_code)]
mod schedule;
