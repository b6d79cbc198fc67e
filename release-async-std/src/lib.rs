//! Release for Rust.
