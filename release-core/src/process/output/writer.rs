//! Writes the lines of one process to their destination.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::capture::{Capture, OutputFormat, OutputStream, Sink};
use super::format::Formatter;
use super::last_lines::LastLines;
use crate::process::worker_info::WorkerInfo;
use crate::rt::Rt;
use crate::streams::{self, StandardStream, launcher, printable};

const SECOND: Duration = Duration::from_secs(1);

/// The destination of one process's lines, with its format and rate limit.
pub(super) struct Writer {
    worker: WorkerInfo,
    sink: Sink,
    formatter: Formatter,
    rate: Option<RateLimit>,
    last: LastLines,
    /// Identifies this writer in the queue for room.
    number: u64,
}

/// A limit for the number of lines per second.
struct RateLimit {
    rt: Rt,
    most: u32,
    /// Start of the current second.
    began: Instant,
    lines: u32,
    dropped: u64,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("worker", &self.worker).finish_non_exhaustive()
    }
}

fn stream_of(stream: OutputStream) -> &'static StandardStream {
    match stream {
        OutputStream::Out => &streams::OUTPUT,
        OutputStream::Error => streams::error(),
    }
}

impl Writer {
    pub(super) fn new(rt: &Rt, worker: WorkerInfo, capture: &Capture) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let format = match &capture.sink {
            Sink::Streams(format) => *format,
            Sink::Lines(_) => OutputFormat::Plain,
        };
        let rate = capture.rate.map(|most| RateLimit {
            rt: rt.clone(),
            most,
            began: rt.now(),
            lines: 0,
            dropped: 0,
        });
        Self {
            formatter: Formatter::new(format, &worker),
            worker,
            sink: capture.sink.clone(),
            rate,
            last: LastLines::default(),
            number: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Completes when there is room for another block.
    pub(super) fn poll_room(&self, cx: &Context<'_>, stream: OutputStream) -> Poll<()> {
        match self.sink {
            Sink::Streams(_) => stream_of(stream).poll_room(cx, self.number),
            Sink::Lines(_) => Poll::Ready(()),
        }
    }

    /// Writes the lines that `lines` passes to its argument, each without its end.
    pub(super) fn write(
        &mut self,
        stream: OutputStream,
        lines: impl FnOnce(&mut dyn FnMut(&[u8])),
    ) {
        let Self { worker, sink, formatter, rate, last, .. } = self;
        let mut heard = launcher::is_there().then(Vec::new);
        let mut is_allowed = |line: &[u8]| {
            last.add(line);
            let is_allowed = rate.as_mut().is_none_or(RateLimit::allows);
            if let (true, Some(heard)) = (is_allowed, &mut heard) {
                heard.extend_from_slice(format!("[{} {}] ", worker.id, worker.pid).as_bytes());
                printable::append(heard, line);
                heard.push(b'\n');
            }
            is_allowed
        };
        match sink {
            Sink::Lines(take) => lines(&mut |line| {
                if is_allowed(line) {
                    take(worker, stream, line);
                }
            }),
            Sink::Streams(_) => stream_of(stream).append(|queue| {
                lines(&mut |line| {
                    if is_allowed(line) {
                        formatter.append(queue, stream, line);
                    }
                });
            }),
        }
        if let Some(heard) = heard {
            launcher::write(&heard);
        }
        if self.rate.as_ref().is_some_and(RateLimit::has_dropped) {
            self.report_dropped();
        }
    }

    pub(super) fn last_lines(&self) -> Vec<String> {
        self.last.lines()
    }

    pub(super) fn report_dropped(&mut self) {
        let Some(rate) = self.rate.as_mut().filter(|rate| rate.dropped > 0) else { return };
        let (id, pid) = (self.worker.id, self.worker.pid);
        log_warning!(worker = id, pid, lines = rate.dropped, "wrote too much, some is lost");
        rate.dropped = 0;
    }
}

impl RateLimit {
    fn allows(&mut self) -> bool {
        let now = self.rt.now();
        if now.saturating_duration_since(self.began) >= SECOND {
            (self.began, self.lines) = (now, 0);
        }
        let is_allowed = self.lines < self.most;
        if is_allowed {
            self.lines += 1;
        } else {
            self.dropped += 1;
        }
        is_allowed
    }

    /// Returns whether lines were dropped in an earlier second.
    fn has_dropped(&self) -> bool {
        self.dropped > 0 && self.lines < self.most
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        [&streams::OUTPUT, &streams::ERROR].into_iter().for_each(|one| one.forget(self.number));
    }
}
