//! Reads a configuration file of any type safely: without waiting, and with limited memory.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::error::Errors;
use super::source::{Excerpt, SourceText};
use crate::start_files::given;
use crate::trusted::{Writers, check_file, check_path};

/// The nouns for a kind of file in messages.
pub(super) struct Subject {
    the: &'static str,
    a: &'static str,
    short: &'static str,
}

pub(super) const CONFIGURATION: Subject =
    Subject { the: "the configuration file", a: "a configuration file", short: "a configuration" };

pub(super) const SECRET: Subject =
    Subject { the: "the file of the secret", a: "the file of a secret", short: "a secret" };

/// Returns the text of the file, up to a maximum number of bytes. With `secrets`, no error shows
/// a part of it.
pub(super) fn read(path: &Path, limit: u64, secrets: bool) -> Result<SourceText, Errors> {
    let name = path.to_string_lossy();
    let bytes = bytes(path, limit, &CONFIGURATION);
    let bytes = bytes.map_err(|message| Errors::of_file(&name, message))?;
    text(&name, bytes, secrets).map(|source| source.read_from(path))
}

/// Returns the content of the file, or the reason why it cannot be used.
pub(super) fn bytes(path: &Path, limit: u64, subject: &Subject) -> Result<Vec<u8>, String> {
    if let Some(bytes) = given(path) {
        return Ok(bytes);
    }
    let Subject { the, a, short } = subject;
    let unsafe_for_root = |why| {
        format!(
            "{the} decides what root does, and {why}: give it and its directories \
             to root, and nobody else the right to write"
        )
    };
    check_path(path, Writers::Nobody).map_err(unsafe_for_root)?;
    // O_NONBLOCK: opening a FIFO would wait for a writer. O_NOCTTY: a terminal must not become the
    // daemon's controlling terminal.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut options = OpenOptions::new();
    let opened = options.read(true).custom_flags(flags.bits()).open(path);
    let file = opened.map_err(|error| unopened(path, &error, subject))?;
    let metadata = file.metadata().map_err(|error| cannot_read(&error, the))?;
    if !metadata.is_file() {
        return Err(not_regular(metadata.file_type(), short));
    }
    check_file(&metadata).map_err(unsafe_for_root)?;
    let too_large = || format!("the file is larger than {limit} bytes: is it {a}?");
    if metadata.len() > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // The file may grow while it is read, and some kernel files do not report their length.
    File::take(file, limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| cannot_read(&error, the))?;
    let fits = u64::try_from(bytes.len()).is_ok_and(|length| length <= limit);
    if fits { Ok(bytes) } else { Err(too_large()) }
}

#[cold]
fn unopened(path: &Path, error: &io::Error, subject: &Subject) -> String {
    let Subject { the, short, .. } = subject;
    match error.raw_os_error() {
        Some(libc::ENOENT) => format!("{the} does not exist; create it, or name another one"),
        Some(libc::EACCES) => format!(
            "{the} cannot be read by user number {}: permission denied; check \
             the mode and owner of the file and of the directories above it",
            nix::unistd::geteuid()
        ),
        // A socket cannot even be opened.
        Some(libc::ENXIO) => match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => not_regular(metadata.file_type(), short),
            _ => cannot_read(error, the),
        },
        _ => cannot_read(error, the),
    }
}

fn cannot_read(error: &io::Error, the: &str) -> String {
    format!("{the} cannot be read: {}", reason(error))
}

fn not_regular(kind: FileType, short: &str) -> String {
    format!("this is {}; {short} has to be a regular file", kind_of(kind))
}

/// Returns the system's message, without the number.
pub(super) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

/// Names the type of a file.
pub(super) fn kind_of(kind: FileType) -> &'static str {
    match kind {
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a named pipe",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_block_device() => "a block device",
        _ if kind.is_char_device() => "a character device",
        _ if kind.is_symlink() => "a symbolic link",
        _ => "a regular file",
    }
}

/// Returns the bytes as UTF-8 text without NUL bytes, or the position of an invalid byte.
pub(super) fn text(name: &str, bytes: Vec<u8>, secrets: bool) -> Result<SourceText, Errors> {
    let wrong = |bytes: &[u8], at, message| match secrets {
        true => Errors::of_file(name, message),
        false => not_text(name, bytes, at, message),
    };
    let nul = bytes.iter().position(|byte| *byte == 0);
    let valid = match std::str::from_utf8(&bytes) {
        Ok(_) => bytes.len(),
        Err(error) => error.valid_up_to(),
    };
    if let Some(at) = nul.filter(|at| *at <= valid) {
        let message = "a NUL byte: this is no text file; in a string it is written \\000";
        return Err(wrong(&bytes, at, message.to_owned()));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(SourceText::new(name, text)),
        Err(error) => {
            let bytes = error.as_bytes();
            let message =
                format!("the byte 0x{:02x} is not UTF-8: save the file in UTF-8", bytes[valid]);
            Err(wrong(bytes, valid, message))
        }
    }
}

/// Creates the error for a byte that is not text, with the valid text before it on its line.
#[cold]
fn not_text(name: &str, bytes: &[u8], at: usize, message: String) -> Errors {
    let (before, rest) = bytes.split_at(at);
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let before = String::from_utf8_lossy(&before[start..]);
    let marked = if rest[0] == 0 { "\0" } else { "\u{fffd}" };
    let after = String::from_utf8_lossy(&rest[1..end.max(1)]);
    let column = before.chars().count() + 1;
    Errors::at(name, (line, column), message, Excerpt::new(&before, marked, &after))
}
