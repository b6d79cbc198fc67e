//! The backend that a feature picks, under one name: the examples say `use release::...`.
//!
//! A program of your own depends on one backend crate and says `use release_tokio::...` instead.

#[cfg(not(any(feature = "tokio", feature = "smol", feature = "async-std")))]
compile_error!("pick a backend: --features tokio, --features smol or --features async-std");

#[cfg(feature = "async-std")]
pub use release_async_std::*;
#[cfg(all(feature = "smol", not(feature = "async-std")))]
pub use release_smol::*;
#[cfg(all(feature = "tokio", not(any(feature = "smol", feature = "async-std"))))]
pub use release_tokio::*;
