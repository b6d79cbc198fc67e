//! The example `hello` on smol, for the tests.

extern crate release_smol as release;

include!("../../examples/hello.rs");
