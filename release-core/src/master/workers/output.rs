//! The way of the lines that workers write.

use std::sync::Arc;

use super::Workers;
use crate::WorkerInfo;
use crate::guard::Guard;
use crate::process::output::{OutputFormat, OutputStream, Sink};

const OUTPUT: Guard = Guard::new("output");

impl<W, C> Workers<W, C> {
    /// Sets how lines on the standard output and standard error of workers are passed on to those of
    /// the master; [`OutputFormat::Plain`] by default.
    ///
    /// No line is lost: a worker that writes faster than the master's output is read waits until there
    /// is room. The last output of a process is passed on in any case, up to the capacity of its pipe,
    /// before its end is reported.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{OutputFormat, Workers};
    ///
    /// let prefix = |worker: &release_core::WorkerInfo| format!("web {}:", worker.id);
    /// let workers = Workers::command("web", 2, "server", [""; 0])
    ///     .output_format(OutputFormat::Prefixed(prefix));
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn output_format(mut self, format: OutputFormat) -> Self {
        self.output.sink = Sink::Streams(format);
        self
    }

    /// Calls `sink` with each line on the standard output and standard error of workers, without the
    /// line end, in place of passing it on to the standard streams of the master.
    ///
    /// The last output of a process is read before its end is reported. The master's supervisor calls
    /// `sink`, which must not block: nothing else happens meanwhile. A panic in it is logged, and the
    /// next line is passed on.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{OutputStream, Workers};
    ///
    /// let workers = Workers::command("web", 1, "server", [""; 0]).output(|worker, stream, line| {
    ///     let line = String::from_utf8_lossy(line);
    ///     match stream {
    ///         OutputStream::Out => tracing::info!(worker = worker.id, "{line}"),
    ///         OutputStream::Error => tracing::warn!(worker = worker.id, "{line}"),
    ///     }
    /// });
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn output(
        mut self,
        sink: impl Fn(&WorkerInfo, OutputStream, &[u8]) + Send + Sync + 'static,
    ) -> Self {
        self.output.sink = Sink::Lines(Arc::new(move |worker, stream, line| {
            // The next line may be one that it can take.
            if let Err(panicked) = OUTPUT.call(|| sink(worker, stream, line)) {
                let WorkerInfo { id, pid, .. } = *worker;
                tracing::error!(worker = id, pid, reason = %panicked, "a line of a worker is lost");
            }
        }));
        self
    }

    /// Sets the maximum length of a line in bytes; 64 KiB by default. Longer lines are split.
    #[must_use]
    pub fn line_limit(mut self, bytes: usize) -> Self {
        self.output.longest = bytes.max(1);
        self
    }

    /// Limits the lines of a process in each second; there is no limit by default. Further lines of
    /// that second are dropped, and the log contains their number.
    #[must_use]
    pub fn line_rate(mut self, lines: u32) -> Self {
        self.output.rate = Some(lines);
        self
    }
}
