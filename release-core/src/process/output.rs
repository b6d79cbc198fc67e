//! Forwards the standard output and error of workers, line by line.

use std::fmt;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use super::worker_info::WorkerInfo;
use crate::Error;
use crate::ipc::Descriptor;
use crate::kept;
use crate::rt::Rt;
use crate::sys::fds::duplicate_from;

mod capture;
mod format;
mod last_lines;
mod pipe;
mod writer;

pub(crate) use capture::{Capture, Sink};
pub use capture::{OutputFormat, OutputStream};
use pipe::Pipe;
use writer::Writer;

/// The two pipes for a process that will be started.
pub(crate) struct Pipes {
    ours: [PipeReader; 2],
    theirs: [PipeWriter; 2],
    capture: Capture,
}

impl fmt::Debug for Pipes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipes").field("ours", &self.ours).finish_non_exhaustive()
    }
}

impl Pipes {
    pub(crate) fn new(capture: &Capture) -> Result<Self, Error> {
        let failed = |error| Error::system("cannot make a pipe", error);
        let (out, their_out) = io::pipe().map_err(failed)?;
        let (error, their_error) = io::pipe().map_err(failed)?;
        Ok(Self { ours: [out, error], theirs: [their_out, their_error], capture: capture.clone() })
    }

    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (RawFd, BorrowedFd<'_>)> {
        (1..).zip(self.theirs.iter().map(AsFd::as_fd))
    }

    /// Keeps only the reading ends.
    pub(crate) fn watch(self, rt: &Rt, worker: WorkerInfo) -> io::Result<Output> {
        let ends = self.ours.map(|end| (Some(OwnedFd::from(end)), Vec::new()));
        Output::new(rt, worker, &self.capture, ends)
    }
}

/// The output of a running process. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Output(Arc<Mutex<Forwarder>>);

#[derive(Debug)]
struct Forwarder {
    pipes: [Pipe; 2],
    writer: Writer,
    /// Whether the next version of the program is being told how far this one has read.
    is_still: bool,
    /// The task that forwards the lines, meanwhile.
    waiting: Option<Waker>,
}

/// An output for the next version of the program: the pipes, and the unfinished lines.
pub(crate) type KeptOutput = kept::Output<Descriptor>;

impl KeptOutput {
    pub(crate) fn thaw(self, rt: &Rt, worker: WorkerInfo, capture: &Capture) -> io::Result<Output> {
        Output::new(
            rt,
            worker,
            capture,
            self.0.map(|kept::Pipe(end, line)| (end.map(Into::into), line)),
        )
    }
}

impl Forwarder {
    fn poll(&mut self, cx: &mut Context<'_>) {
        let Self { pipes, writer, is_still, waiting } = self;
        if *is_still {
            *waiting = Some(cx.waker().clone());
        } else {
            pipes.iter_mut().for_each(|pipe| pipe.poll(cx, writer));
        }
    }
}

impl Output {
    fn new(
        rt: &Rt,
        worker: WorkerInfo,
        capture: &Capture,
        ends: [(Option<OwnedFd>, Vec<u8>); 2],
    ) -> io::Result<Self> {
        let [out, error] = ends;
        let longest = capture.longest;
        let pipe = |(end, line): (Option<OwnedFd>, _), stream| {
            let io = end.map(|end| rt.register(end)).transpose()?;
            Ok::<_, io::Error>(Pipe::new(io, line, stream, longest))
        };
        let pipes = [pipe(out, OutputStream::Out)?, pipe(error, OutputStream::Error)?];
        let writer = Writer::new(rt, worker, capture);
        let forwarder = Forwarder { pipes, writer, is_still: false, waiting: None };
        Ok(Self(Arc::new(Mutex::new(forwarder))))
    }

    /// Decides whether it reads nothing: another thread may be about to.
    pub(crate) fn stand_still(&self, is_still: bool) {
        let mut forwarder = self.forwarder();
        forwarder.is_still = is_still;
        let waiting = forwarder.waiting.take_if(|_| !is_still);
        drop(forwarder);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Returns the output for the next version of the program. This version must not read it
    /// afterwards: see [`stand_still`](Self::stand_still).
    pub(crate) fn freeze(&self) -> Result<KeptOutput, Error> {
        let keep = |pipe: &Pipe| {
            let end = pipe.io().map(|io| duplicate_from(io.as_fd(), 3)).transpose();
            let end = end.map_err(|error| Error::system("cannot duplicate a pipe", error))?;
            Ok::<_, Error>(kept::Pipe(end.map(Into::into), pipe.begun().to_vec()))
        };
        let Forwarder { pipes: [out, error], .. } = &*self.forwarder();
        Ok(kept::Output([keep(out)?, keep(error)?]))
    }

    /// Returns the last lines of both streams, the oldest first, without control characters.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        self.forwarder().writer.last_lines()
    }

    fn forwarder(&self) -> MutexGuard<'_, Forwarder> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forwards lines until `end` completes, and then the lines that the pipes contain at that
    /// moment, with or without room for them. It does not wait for the end of the pipes: processes
    /// left behind by the worker may hold them open for ever.
    pub(crate) async fn pass_on_until<T>(self, end: impl Future<Output = T>) -> T {
        let mut end = pin!(end);
        let ended = std::future::poll_fn(|cx: &mut Context<'_>| {
            let ended = end.as_mut().poll(cx);
            if ended.is_pending() {
                self.forwarder().poll(cx);
            }
            ended
        });
        let ended = ended.await;
        let Forwarder { pipes, writer, .. } = &mut *self.forwarder();
        pipes.iter_mut().for_each(|pipe| pipe.empty(writer));
        writer.report_dropped();
        ended
    }
}
