//! The test program `commands` on async-std, for the tests.

extern crate release_async_std as release;

include!("../programs/commands.rs");
