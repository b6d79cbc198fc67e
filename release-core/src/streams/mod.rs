//! Standard output and error of this process, written without ever waiting for a reader.
//!
//! Output without room stays in a bounded queue and is written as room becomes available. Workers
//! with forwarded output wait for room in it; the process itself never does.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{FileStat, fstat};

use crate::guard::wake_all;
use crate::kept::Unwritten;
use crate::rt::{Direction, Io, Progress, Rt};

pub(crate) mod launcher;
mod outlet;
pub(crate) mod printable;

use outlet::Outlet;

/// Running workers wait for room when this many bytes are unwritten.
const ROOM: usize = 256 * 1024;

/// Log lines and last words beyond this many unwritten bytes are lost.
const MOST: usize = 2 * 1024 * 1024;

/// Approximate number of bytes that one worker adds in its turn.
const TURN: usize = 64 * 1024;

/// The queue frees memory beyond this size.
const KEPT_CAPACITY: usize = 2 * TURN;

/// Maximum waits of a process that ends, for a stalled reader and for a slow reader.
const LAST_WORDS_TIME: Duration = Duration::from_millis(500);
const LONGEST_END: Duration = Duration::from_secs(5);

/// Device and number of a file.
type DeviceAndInode = (libc::dev_t, libc::ino_t);

/// A standard stream of this process.
pub(crate) struct StandardStream {
    number: i32,
    state: Mutex<StreamState>,
}

/// The queue of a stream, its waiters, and the outlet of its file.
struct StreamState {
    queue: Vec<u8>,
    /// Number of bytes of the queue that are written.
    written: usize,
    /// Number of lost lines that are not reported yet.
    lost: u64,
    /// Number of lost lines reported in the queue, and the end of that report.
    told: (u64, usize),
    /// The method of writing to the file that had this identity.
    outlet: Option<(DeviceAndInode, Outlet)>,
    /// Workers that wait for room, each once.
    waiting: VecDeque<(u64, Waker)>,
    drainer: Option<Waker>,
    /// Whether writing is suspended: the previous version may return, and has the same lines.
    is_held: bool,
}

pub(crate) static OUTPUT: StandardStream = StandardStream::new(1);
pub(crate) static ERROR: StandardStream = StandardStream::new(2);

/// Returns standard error, or standard output if both are the same file, so that lines do not mix.
pub(crate) fn error() -> &'static StandardStream {
    match (identity(io::stdout().as_fd()), identity(io::stderr().as_fd())) {
        (Some(output), Some(error)) if output == error => &OUTPUT,
        _ => &ERROR,
    }
}

/// Writes the last line of a process, which ends whether the line is read or not.
pub(crate) fn last_words(line: &str) {
    error().push(line.as_bytes());
    launcher::write(line.as_bytes());
    finish();
}

/// Writes the queued output before the process ends, or becomes another program, as long as the
/// reader makes progress, within limits.
pub(crate) fn finish() {
    let deadline = Instant::now() + LONGEST_END;
    [&OUTPUT, &ERROR].into_iter().for_each(|stream| stream.finish(deadline));
}

/// Writes as much as there is room for, and returns the rest.
pub(crate) fn leave() -> [Unwritten; 2] {
    [&OUTPUT, &ERROR].map(|stream| {
        stream.flush(stream.state());
        let state = stream.state();
        Unwritten { bytes: state.queue[state.written..].to_owned(), lost: state.lost }
    })
}

/// Continues with the output left by a previous version, only from [`release`] on if it
/// `may_return`.
pub(crate) fn take_over(left: [Unwritten; 2], may_return: bool) {
    for (stream, left) in [&OUTPUT, &ERROR].into_iter().zip(left) {
        let mut state = stream.state();
        state.is_held = may_return && !left.bytes.is_empty();
        state.lost += left.lost;
        state.told.1 = 0;
        // It may end in the middle of a line.
        let written = state.written;
        state.queue.splice(..written, left.bytes);
        state.written = 0;
    }
}

/// Lets this version write from now on.
pub(crate) fn release() {
    for stream in [&OUTPUT, &ERROR] {
        let mut state = stream.state();
        state.is_held = false;
        stream.flush(state);
    }
}

/// Spawns the tasks that write both queues, in a process with a runtime.
pub(crate) fn drain(rt: &Rt) -> [crate::rt::Task<()>; 2] {
    [&OUTPUT, &ERROR].map(|stream| rt.spawn(stream.drain(rt.clone())))
}

fn identity(file: BorrowedFd<'_>) -> Option<DeviceAndInode> {
    fstat(file).ok().map(|FileStat { st_dev, st_ino, .. }| (st_dev, st_ino))
}

impl StandardStream {
    const fn new(number: i32) -> Self {
        let state = StreamState {
            queue: Vec::new(),
            written: 0,
            lost: 0,
            told: (0, 0),
            outlet: None,
            waiting: VecDeque::new(),
            drainer: None,
            is_held: false,
        };
        Self { number, state: Mutex::new(state) }
    }

    /// Adds whole lines, written now or as soon as there is room.
    pub(crate) fn push(&self, lines: &[u8]) {
        self.append(|queue| queue.extend_from_slice(lines));
    }

    /// Lets the caller add whole lines to the queue.
    pub(crate) fn append(&self, add: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        state.append(add);
        self.flush(state);
    }

    /// Completes when there is room for more of a worker's output. `who` is woken at that time.
    pub(crate) fn poll_room(&self, cx: &Context<'_>, who: u64) -> Poll<()> {
        let mut state = self.state();
        if state.unwritten() < ROOM {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        let replaced = match state.waiting.iter_mut().find(|(other, _)| *other == who) {
            Some((_, before)) => Some(std::mem::replace(before, waker)),
            None => {
                state.waiting.push_back((who, waker));
                None
            }
        };
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    /// Removes a worker that is gone, if it waited for room.
    pub(crate) fn forget(&self, who: u64) {
        let mut state = self.state();
        let at = state.waiting.iter().position(|(other, _)| *other == who);
        let gone = at.and_then(|at| state.waiting.remove(at));
        drop(state);
        drop(gone);
    }

    fn state(&self) -> MutexGuard<'_, StreamState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file<T>(&self, what: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        // Not locked: a waiting thread may hold the lock of the standard library.
        if self.number == 1 { what(io::stdout().as_fd()) } else { what(io::stderr().as_fd()) }
    }

    /// Writes as much as there is room for. Returns whether that was everything.
    fn flush(&self, mut state: MutexGuard<'_, StreamState>) -> bool {
        let is_done = self.file(|file| state.flush(file));
        let woken = state.take_woken(is_done);
        drop(state);
        wake_all(woken);
        is_done
    }

    /// Writes queued output as room becomes available, until it is dropped.
    async fn drain(&'static self, rt: Rt) {
        let mut watched: Option<(DeviceAndInode, Io)> = None;
        loop {
            std::future::poll_fn(|cx| self.poll_stuck(cx)).await;
            let current = self.file(identity);
            watched = watched.filter(|(of, _)| Some(*of) == current);
            if watched.is_none() {
                watched = current.zip(self.watch(&rt));
            }
            match &watched {
                Some((_, io)) => {
                    let write = |_: BorrowedFd<'_>| match self.flush(self.state()) {
                        true => Ok(((), Progress::More)),
                        false => Err(io::ErrorKind::WouldBlock.into()),
                    };
                    let _ = io.run(Direction::Write, write).await;
                }
                // A file that cannot report when there is room.
                None => {
                    rt.sleep(Duration::from_millis(20)).await;
                    self.flush(self.state());
                }
            }
        }
    }

    fn poll_stuck(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.unwritten() > 0 {
            return Poll::Ready(());
        }
        let replaced = state.drainer.replace(cx.waker().clone());
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    fn watch(&self, rt: &Rt) -> Option<Io> {
        let state = self.state();
        let (_, outlet) = state.outlet.as_ref()?;
        let copy = self.file(|file| outlet.to_be_watched(file))?;
        drop(state);
        rt.register_as_it_is(copy).ok()
    }

    fn finish(&self, deadline: Instant) {
        loop {
            let before = self.state().unwritten();
            if self.flush(self.state()) || Instant::now() > deadline || self.state().is_held {
                return;
            }
            let is_moving = self.state().unwritten() < before;
            let patience = PollTimeout::try_from(LAST_WORDS_TIME).unwrap_or(PollTimeout::ZERO);
            let polled = self.file(|file| {
                poll(&mut [PollFd::new(file, PollFlags::POLLOUT)], patience).unwrap_or(1)
            });
            match (polled, is_moving) {
                (0, false) => return,
                // A terminal may have room for less than a character.
                (_, false) => std::thread::sleep(Duration::from_millis(5)),
                _ => {}
            }
        }
    }
}

impl StreamState {
    fn unwritten(&self) -> usize {
        self.queue.len() - self.written
    }

    fn append(&mut self, add: impl FnOnce(&mut Vec<u8>)) {
        // Each byte is moved once on average.
        if self.written >= TURN && self.written >= self.unwritten() {
            self.queue.drain(..self.written);
            self.told.1 = self.told.1.saturating_sub(self.written);
            self.written = 0;
        }
        let is_full = self.unwritten() >= MOST;
        if self.lost > 0 && !is_full {
            self.queue.extend_from_slice(format!("{} lines are lost\n", self.lost).as_bytes());
            self.told = (std::mem::take(&mut self.lost), self.queue.len());
        }
        let before = self.queue.len();
        add(&mut self.queue);
        if is_full {
            self.lost += count_lines(&self.queue[before..]);
            self.queue.truncate(before);
        }
    }

    /// Writes as much as there is room for. Returns whether that was everything.
    fn flush(&mut self, file: BorrowedFd<'_>) -> bool {
        if self.unwritten() == 0 {
            return true;
        }
        if self.is_held {
            return false;
        }
        let identity = identity(file);
        self.outlet = self.outlet.take().filter(|(of, _)| Some(*of) == identity);
        let Some(identity) = identity else {
            // The stream is closed: its output can never be read.
            self.empty();
            return true;
        };
        let (_, outlet) = self.outlet.get_or_insert_with(|| (identity, Outlet::of(file)));
        while self.written < self.queue.len() {
            match outlet.write(file, &self.queue[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => {
                    self.lose();
                    break;
                }
            }
        }
        self.empty();
        true
    }

    /// Discards queued output that cannot be written.
    fn lose(&mut self) {
        let (told, end) = self.told;
        let from = self.written.max(end);
        self.lost += count_lines(&self.queue[from..]);
        if self.written < end {
            self.lost += told;
        }
    }

    fn empty(&mut self) {
        self.queue.clear();
        self.queue.shrink_to(KEPT_CAPACITY);
        (self.written, self.told) = (0, (0, 0));
    }

    /// Returns the waiters that have room now, one for each turn that fits, and the drainer if
    /// output remains.
    fn take_woken(&mut self, is_done: bool) -> Vec<Waker> {
        let turns = match ROOM.checked_sub(self.unwritten()) {
            _ if is_done => usize::MAX,
            Some(room) if room > 0 => room / TURN + 1,
            _ => 0,
        };
        let woken = self.waiting.drain(..turns.min(self.waiting.len())).map(|(_, waker)| waker);
        let drainer = if is_done { None } else { self.drainer.take() };
        woken.chain(drainer).collect()
    }
}

fn count_lines(text: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', text).count() as u64
}

#[cfg(test)]
mod tests;
