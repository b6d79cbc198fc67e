//! What workers write to standard output and error, line by line (row S9).

use std::fmt;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nix::unistd::read;
use serde::{Deserialize, Serialize};

use super::WorkerInfo;
use crate::Error;
use crate::ipc::Descriptor;
use crate::rt::{Direction, Io, Progress, Rt};
use crate::sys::fds::duplicate_from;

/// Where a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum OutputStream {
    /// Standard output.
    Out,
    /// Standard error.
    Error,
}

/// Takes the lines.
pub(crate) type Sink = Arc<dyn Fn(&WorkerInfo, OutputStream, &[u8]) + Send + Sync>;

/// The longest line; what is longer goes on in the next. With who wrote it in front it still fits
/// into the 4096 bytes that a pipe takes whole.
const LONGEST: usize = 4000;

/// How many lines a process may write in a second before the rest of that second is dropped.
const MOST_LINES: u32 = 1000;

const SECOND: Duration = Duration::from_secs(1);

/// How many pieces are read before others of the runtime have their turn.
const READS_PER_TURN: usize = 8;

/// How many pieces there may be left of a process that has ended: what pipes of a mebibyte hold.
const LAST_READS: usize = 256;

/// The two pipes of a process that is about to be started.
pub(crate) struct Pipes {
    ours: [PipeReader; 2],
    theirs: [PipeWriter; 2],
    sink: Sink,
}

impl fmt::Debug for Pipes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipes").field("ours", &self.ours).finish_non_exhaustive()
    }
}

impl Pipes {
    pub(crate) fn new(sink: &Sink) -> Result<Self, Error> {
        let failed = |error| Error::system("cannot make a pipe", error);
        let (out, their_out) = io::pipe().map_err(failed)?;
        let (error, their_error) = io::pipe().map_err(failed)?;
        Ok(Self { ours: [out, error], theirs: [their_out, their_error], sink: Arc::clone(sink) })
    }

    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (RawFd, BorrowedFd<'_>)> {
        (1..).zip(self.theirs.iter().map(AsFd::as_fd))
    }

    /// Keeps the reading ends alone.
    pub(crate) fn watch(self, rt: &Rt, worker: WorkerInfo) -> io::Result<Output> {
        let ends = self.ours.map(|end| (Some(OwnedFd::from(end)), Vec::new()));
        Output::new(rt, worker, &self.sink, ends)
    }
}

/// What a running process writes. A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct Output(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    pipes: [Pipe; 2],
    writer: Writer,
}

/// An output on its way to the next version of the program: the pipes, and the lines that began.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptOutput([(Option<Descriptor>, Vec<u8>); 2]);

#[derive(Debug)]
struct Pipe {
    /// `None` once everybody has closed the other end.
    io: Option<Io>,
    /// The beginning of a line.
    line: Vec<u8>,
    stream: OutputStream,
}

struct Writer {
    rt: Rt,
    worker: WorkerInfo,
    sink: Sink,
    /// The second that is counted now.
    began: Instant,
    lines: u32,
    dropped: u64,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl KeptOutput {
    pub(crate) fn thaw(self, rt: &Rt, worker: WorkerInfo, sink: &Sink) -> io::Result<Output> {
        Output::new(rt, worker, sink, self.0.map(|(end, line)| (end.map(Into::into), line)))
    }
}

impl Output {
    fn new(
        rt: &Rt,
        worker: WorkerInfo,
        sink: &Sink,
        ends: [(Option<OwnedFd>, Vec<u8>); 2],
    ) -> io::Result<Self> {
        let [out, error] = ends;
        let pipe = |(end, line): (Option<OwnedFd>, Vec<u8>), stream| {
            let io = end.map(|end| rt.register(end)).transpose()?;
            Ok::<_, io::Error>(Pipe { io, line, stream })
        };
        let pipes = [pipe(out, OutputStream::Out)?, pipe(error, OutputStream::Error)?];
        let (rt, sink, began) = (rt.clone(), Arc::clone(sink), rt.now());
        let writer = Writer { rt, worker, sink, began, lines: 0, dropped: 0 };
        Ok(Self(Arc::new(Mutex::new(State { pipes, writer }))))
    }

    /// For the next version of the program. Nothing is read afterwards.
    pub(crate) fn freeze(&self) -> Result<KeptOutput, Error> {
        let keep = |pipe: &Pipe| {
            let end = pipe.io.as_ref().map(|io| duplicate_from(io.as_fd(), 3)).transpose();
            let end = end.map_err(|error| Error::system("cannot duplicate a pipe", error))?;
            Ok::<_, Error>((end.map(Into::into), pipe.line.clone()))
        };
        let State { pipes: [out, error], .. } = &*self.state();
        Ok(KeptOutput([keep(out)?, keep(error)?]))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes lines on until `end` is done, and then those that are in the pipes at that moment:
    /// processes that the worker leaves behind may hold the pipes open for ever.
    pub(crate) async fn pass_on_until<T>(self, end: impl Future<Output = T>) -> T {
        let mut end = pin!(end);
        let ended = std::future::poll_fn(|cx| {
            let ended = end.as_mut().poll(cx);
            let State { pipes, writer } = &mut *self.state();
            pipes.iter_mut().for_each(|pipe| pipe.poll(cx, READS_PER_TURN, writer));
            ended
        });
        let ended = ended.await;
        let State { pipes, writer } = &mut *self.state();
        pipes.iter_mut().for_each(|pipe| pipe.empty(writer));
        writer.tell_dropped();
        ended
    }
}

impl Pipe {
    fn poll(&mut self, cx: &mut Context<'_>, most: usize, writer: &mut Writer) {
        let mut bytes = [0; LONGEST];
        for _ in 0..most {
            let Some(io) = &self.io else { return };
            let polled = io.poll(cx, Direction::Read, |fd| {
                Ok((read(fd.as_fd(), &mut bytes)?, Progress::More))
            });
            match polled {
                Poll::Pending => return,
                Poll::Ready(Ok(count)) if count > 0 => self.take(&bytes[..count], writer),
                Poll::Ready(_) => {
                    self.finish_line(writer);
                    self.io = None;
                }
            }
        }
        cx.waker().wake_by_ref();
    }

    /// Takes what is there at this moment, whether or not the runtime has noticed.
    fn empty(&mut self, writer: &mut Writer) {
        let mut bytes = [0; LONGEST];
        for _ in 0..LAST_READS {
            match self.io.as_ref().map(|io| read(io.as_fd(), &mut bytes)) {
                Some(Ok(count)) if count > 0 => self.take(&bytes[..count], writer),
                _ => break,
            }
        }
        self.finish_line(writer);
    }

    fn take(&mut self, bytes: &[u8], writer: &mut Writer) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LONGEST - self.line.len();
            let (now, rest) = part.split_at(part.len().min(room));
            self.line.extend_from_slice(now);
            if now.ends_with(b"\n") || self.line.len() == LONGEST {
                self.finish_line(writer);
            }
            self.line.extend_from_slice(rest);
            if rest.ends_with(b"\n") {
                self.finish_line(writer);
            }
        }
    }

    fn finish_line(&mut self, writer: &mut Writer) {
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        if !self.line.is_empty() {
            writer.write(self.stream, line);
        }
        self.line.clear();
    }
}

impl Writer {
    fn write(&mut self, stream: OutputStream, line: &[u8]) {
        let now = self.rt.now();
        if now.saturating_duration_since(self.began) >= SECOND {
            self.tell_dropped();
            (self.began, self.lines) = (now, 0);
        }
        if self.lines == MOST_LINES {
            self.dropped += 1;
        } else {
            self.lines += 1;
            (self.sink)(&self.worker, stream, line);
        }
    }

    fn tell_dropped(&mut self) {
        if self.dropped > 0 {
            let WorkerInfo { id, pid, .. } = self.worker;
            tracing::warn!(worker = id, pid, lines = self.dropped, "wrote too much, some is lost");
            self.dropped = 0;
        }
    }
}
