//! Splits the bytes from a pipe of a worker into lines.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use memchr::memchr;
use nix::unistd::read;

use super::capture::OutputStream;
use super::writer::Writer;
use crate::rt::{Direction, Io, Progress};

/// Number of bytes in one read; also the default capacity of a pipe.
const BLOCK: usize = 64 * 1024;

/// Maximum number of blocks read after the process has ended, enough for a pipe of 1 MiB.
const LAST_READS: usize = 17;

/// The buffer of all reads, before the bytes are split into lines.
static READ: Mutex<Vec<u8>> = Mutex::new(Vec::new());

#[derive(Debug)]
pub(super) struct Pipe {
    /// `None` once all writers have closed the other end.
    io: Option<Io>,
    /// The unfinished line.
    line: Vec<u8>,
    stream: OutputStream,
    longest: usize,
}

impl Pipe {
    pub(super) fn new(io: Option<Io>, line: Vec<u8>, stream: OutputStream, longest: usize) -> Self {
        Self { io, line, stream, longest }
    }

    pub(super) fn io(&self) -> Option<&Io> {
        self.io.as_ref()
    }

    pub(super) fn begun(&self) -> &[u8] {
        &self.line
    }

    /// Forwards one block if there is room for it, and then gives way to the other tasks.
    ///
    /// Without room it reads nothing: the pipe fills up, and its worker waits.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, writer: &mut Writer) {
        let Some(io) = &self.io else { return };
        if writer.poll_room(cx, self.stream).is_pending() {
            return;
        }
        let mut block = READ.lock().unwrap_or_else(PoisonError::into_inner);
        block.resize(BLOCK, 0);
        let polled = io.poll(cx, Direction::Read, |fd| {
            let count = read(fd.as_fd(), &mut block)?;
            Ok((count, if count < BLOCK { Progress::Drained } else { Progress::More }))
        });
        match polled {
            Poll::Pending => return,
            Poll::Ready(Ok(count)) if count > 0 => self.take(&block[..count], writer),
            Poll::Ready(_) => {
                self.finish_line(writer);
                self.io = None;
            }
        }
        cx.waker().wake_by_ref();
    }

    /// Forwards the bytes that are in the pipe now, without waiting for an event of the runtime.
    pub(super) fn empty(&mut self, writer: &mut Writer) {
        let mut block = READ.lock().unwrap_or_else(PoisonError::into_inner);
        block.resize(BLOCK, 0);
        for _ in 0..LAST_READS {
            match self.io.as_ref().map(|io| read(io.as_fd(), &mut block)) {
                Some(Ok(count)) if count > 0 => self.take(&block[..count], writer),
                _ => break,
            }
        }
        self.finish_line(writer);
    }

    fn take(&mut self, mut bytes: &[u8], writer: &mut Writer) {
        let Self { line, stream, longest, .. } = self;
        writer.write(*stream, |pass| {
            while !bytes.is_empty() {
                // A line that another version has begun may be longer.
                let room = longest.saturating_sub(line.len());
                let end = memchr(b'\n', &bytes[..bytes.len().min(room + 1)]);
                let (part, rest) = match end {
                    Some(end) => (&bytes[..end], &bytes[end + 1..]),
                    None if bytes.len() > room => bytes.split_at(room),
                    None => {
                        line.extend_from_slice(bytes);
                        return;
                    }
                };
                if line.is_empty() {
                    pass(part);
                } else {
                    line.extend_from_slice(part);
                    pass(line);
                    line.clear();
                }
                bytes = rest;
            }
        });
        if self.line.is_empty() {
            self.line.shrink_to(0);
        }
    }

    fn finish_line(&mut self, writer: &mut Writer) {
        if !self.line.is_empty() {
            writer.write(self.stream, |pass| pass(&self.line));
            self.line = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::capture::{Capture, Sink};
    use super::*;
    use crate::process::worker_info::WorkerInfo;
    use crate::rt::Driver;
    use crate::rt::local::Local;

    /// The version before may have had a larger limit.
    #[test]
    fn a_line_that_is_longer_than_the_limit_already_is_passed_on() {
        let rt = Local::new().unwrap().handle();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&lines);
        let line = move |_: &WorkerInfo, _, line: &[u8]| seen.lock().unwrap().push(line.to_vec());
        let capture = Capture { sink: Sink::Lines(Arc::new(line)), ..Capture::default() };
        let info = WorkerInfo { id: 0, pid: 1, group: "web".into(), generation: 1, rt: rt.clone() };
        let mut writer = Writer::new(&rt, info, &capture);
        let mut pipe = Pipe::new(None, b"0123456789".to_vec(), OutputStream::Out, 4);
        pipe.take(b"abcdef\n\n", &mut writer);
        let expected: [&[u8]; 4] = [b"0123456789", b"abcd", b"ef", b""];
        assert_eq!(*lines.lock().unwrap(), expected);
    }
}
