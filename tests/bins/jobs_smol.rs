//! The example `jobs` on smol, for the tests.

extern crate release_smol as release;

include!("../../examples/jobs.rs");
