//! The test program `http` on smol.

extern crate release_smol as release;

include!("../programs/http.rs");
