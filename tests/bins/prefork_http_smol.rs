//! The example `prefork_http` on smol, for the tests.

extern crate release_smol as release;

include!("../../examples/prefork_http.rs");
