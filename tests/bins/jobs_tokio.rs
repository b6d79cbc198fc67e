//! The example `jobs` on tokio, for the tests.

extern crate release_tokio as release;

include!("../../examples/jobs.rs");
