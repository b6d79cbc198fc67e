//! The settings of a group for the output of its workers.

use std::sync::Arc;

use crate::process::worker_info::WorkerInfo;

/// The stream to which a worker wrote a line.
///
/// # Examples
///
/// ```
/// use release_core::{OutputStream, Workers, printable};
///
/// let workers = Workers::command("web", 2, "/usr/bin/server", [""; 0]).output(|worker, stream, line| {
///     let level = if stream == OutputStream::Error { "warn" } else { "info" };
///     eprintln!("{level} web {}: {}", worker.id, printable(line));
/// });
/// # let _ = workers;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputStream {
    /// Standard output.
    Out,
    /// Standard error.
    Error,
}

/// The format in which the master forwards standard output and error of workers to its own.
///
/// Lines of different workers never mix. If there is no room for a worker's output, the master
/// stops reading its pipe, so that the worker waits; the master does not.
///
/// # Examples
///
/// ```
/// use release_core::{OutputFormat, Workers};
///
/// let workers = Workers::command("web", 2, "/usr/bin/server", [""; 0])
///     .output_format(OutputFormat::Prefixed(|worker| format!("[web {}]", worker.id)));
/// # let _ = workers;
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum OutputFormat {
    /// The line, with its control characters escaped: it can neither control a terminal nor hide
    /// earlier output.
    #[default]
    Plain,
    /// Like `Plain`, after a prefix that names the worker, and a space.
    Prefixed(fn(&WorkerInfo) -> String),
    /// The unchanged bytes of the line, including colours. A terminal must trust the
    /// workers.
    Raw,
    /// A JSON object with the members `worker`, `pid`, `stream` (`stdout` or `stderr`) and `message`.
    Json,
    /// Nothing is forwarded: workers inherit the descriptors of the master.
    Inherit,
}

/// Receives each line.
type LineSink = Arc<dyn Fn(&WorkerInfo, OutputStream, &[u8]) + Send + Sync>;

/// The destination of lines.
#[derive(Clone)]
pub(crate) enum Sink {
    /// A function of the program, called for each line.
    Lines(LineSink),
    /// The standard streams of the master.
    Streams(OutputFormat),
}

/// The output settings of a group.
#[derive(Clone)]
pub(crate) struct Capture {
    pub(crate) sink: Sink,
    /// Maximum line length. Longer lines are split.
    pub(crate) longest: usize,
    /// Maximum number of lines per second and process. Further lines of that second are dropped.
    pub(crate) rate: Option<u32>,
}

impl Default for Capture {
    fn default() -> Self {
        Self { sink: Sink::Streams(OutputFormat::Plain), longest: 64 * 1024, rate: None }
    }
}

impl Capture {
    /// Returns `None` if workers write to the same files as the master.
    pub(crate) fn unless_inherited(self) -> Option<Self> {
        match self.sink {
            Sink::Streams(OutputFormat::Inherit) => None,
            _ => Some(self),
        }
    }
}
