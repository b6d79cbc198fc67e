//! The files that a program has read to start, and the output that it has not written yet.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Contents of files by absolute path, and answers by question; a question is never such a path.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Files(pub(crate) Vec<Content>);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Content {
    pub(crate) path: OsString,
    pub(crate) bytes: Vec<u8>,
}

/// The answer to a question for an account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: PathBuf,
    pub(crate) shell: PathBuf,
}

/// The output that a version has queued but not written, for the next version to write.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Unwritten {
    pub(crate) bytes: Vec<u8>,
    /// Number of further lost lines.
    pub(crate) lost: u64,
}
