//! The settings of a group for the output of its workers.

use std::sync::Arc;

use crate::process::worker_info::WorkerInfo;

/// Where a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum OutputStream {
    /// Standard output.
    Out,
    /// Standard error.
    Error,
}

/// How lines that workers write to standard output and error are passed on to the same stream of the
/// master.
///
/// Lines of several workers never mix. A worker whose lines there is no room for waits, because its
/// pipe is not read meanwhile; the master does not.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum OutputFormat {
    /// The line, with its control characters escaped: it can neither command a terminal nor hide
    /// what was printed before.
    #[default]
    Plain,
    /// The same, after a prefix that tells which worker has written it, and a blank.
    Prefixed(fn(&WorkerInfo) -> String),
    /// The bytes of the line as they are, colours included. Whoever reads it on a terminal trusts the
    /// workers.
    Raw,
    /// A JSON object with the members `worker`, `pid`, `stream` (`stdout` or `stderr`) and `message`.
    Json,
    /// Nothing is passed on: workers have the descriptors of the master.
    Inherit,
}

/// Takes a line.
type LineSink = Arc<dyn Fn(&WorkerInfo, OutputStream, &[u8]) + Send + Sync>;

/// Where lines go.
#[derive(Clone)]
pub(crate) enum Sink {
    /// A function of the program takes each.
    Lines(LineSink),
    /// The standard streams of the master.
    Streams(OutputFormat),
}

/// How the output of a group is taken.
#[derive(Clone)]
pub(crate) struct Capture {
    pub(crate) sink: Sink,
    /// The longest line; what is longer goes on in the next.
    pub(crate) longest: usize,
    /// How many lines a process may write in a second before the rest of that second is dropped.
    pub(crate) rate: Option<u32>,
}

impl Default for Capture {
    fn default() -> Self {
        Self { sink: Sink::Streams(OutputFormat::Plain), longest: 64 * 1024, rate: None }
    }
}

impl Capture {
    /// None where workers write to the same files as the master.
    pub(crate) fn unless_inherited(self) -> Option<Self> {
        match self.sink {
            Sink::Streams(OutputFormat::Inherit) => None,
            _ => Some(self),
        }
    }
}
