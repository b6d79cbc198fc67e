//! The system calls: the only module of the workspace that may contain unsafe code.
#![allow(unsafe_code)]

pub(crate) mod fds;
