//! `release ctl watch`: the table, live, on a screen of its own that leaves nothing behind.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::PIPE_BUF;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use nix::unistd::read;

use rustix::termios::tcgetwinsize;

use release_core::StatusReport;

use super::client::Client;
use super::table::{Style, table};

const INTERVAL: Duration = Duration::from_secs(1);

/// Shows the status every second until q, ctrl-C or a signal; without a terminal, one after the
/// other.
pub(super) fn run(client: &Client, json: bool) -> Result<(), String> {
    // The first failure is an error, later ones are part of what is watched.
    client.status()?;
    let failed = |error: io::Error| format!("cannot watch: {error}");
    let mut end = End::new().map_err(failed)?;
    let screen = if json { None } else { Screen::enter().map_err(failed)? };
    loop {
        let next = Instant::now() + INTERVAL;
        let Some(status) = answered(client, &mut end).map_err(failed)? else { return Ok(()) };
        let shown = match (status, json) {
            (Ok((text, _)), true) => text,
            (Ok((_, status)), false) => table(&status, Style::of_stdout()),
            (Err(why), true) => serde_json::json!({ "error": why }).to_string(),
            (Err(why), false) => format!("{why}\n"),
        };
        let shown = screen.as_ref().map_or_else(|| format!("{shown}\n"), |it| it.page(&shown));
        let is_over = match end.comes_before_written(&shown) {
            // Whoever has read it, such as `head`, has enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => true,
            is_over => is_over.map_err(failed)?,
        };
        if is_over || end.comes_before(Some(next), None).map_err(failed)? {
            return Ok(());
        }
    }
}

/// Asks for the status; `None` if the end comes before the answer. Signals are blocked, and a service
/// that hangs would keep this program until its time-out.
fn answered(client: &Client, end: &mut End) -> io::Result<Option<Answered>> {
    let (over, asking) = io::pipe()?;
    let client = client.clone();
    let asked = thread::Builder::new().spawn(move || {
        // Closed when the answer is there.
        let _asking = asking;
        client.status()
    })?;
    if end.comes_before(None, Some(over.as_fd()))? {
        return Ok(None);
    }
    let panicked = |_| Err("the question has failed".to_owned());
    Ok(Some(asked.join().unwrap_or_else(panicked)))
}

type Answered = Result<(String, StatusReport), String>;

/// A terminal's second screen, without a cursor, whose keys are read one by one.
struct Screen {
    before: Option<Termios>,
}

impl Screen {
    /// None when standard output is no terminal.
    fn enter() -> io::Result<Option<Self>> {
        if !io::stdout().is_terminal() {
            return Ok(None);
        }
        let input = io::stdin();
        let before = if input.is_terminal() { Some(tcgetattr(&input)?) } else { None };
        let screen = Self { before };
        if let Some(before) = &screen.before {
            let mut raw = before.clone();
            raw.local_flags &= !(LocalFlags::ICANON | LocalFlags::ECHO);
            // Who is suspended leaves the screen as it is.
            raw.control_chars[SpecialCharacterIndices::VSUSP as usize] = 0;
            tcsetattr(&input, SetArg::TCSANOW, &raw)?;
        }
        write!(io::stdout(), "\x1b[?1049h\x1b[?25l")?;
        Ok(Some(screen))
    }

    fn page(&self, text: &str) -> String {
        let keys = if self.before.is_some() { "q quits" } else { "ctrl-C quits" };
        let size = tcgetwinsize(io::stdout()).map(|size| (size.ws_row.into(), size.ws_col.into()));
        // One that does not know its size says 0.
        let (rows, columns) = size.unwrap_or_default();
        let lines = fit(text, keys, rows).into_iter();
        // Each line replaces what was there, so that nothing flickers.
        let lines: Vec<_> = lines.map(|line| cut(&line, columns) + "\x1b[K").collect();
        format!("\x1b[H{}\x1b[J", lines.join("\r\n"))
    }
}

/// How many lines stay when there is room for few: the one about the master, and the titles.
const HEADER: usize = 2;

/// Returns the text, an empty line and the line about the keys, on this number of rows. Lines without
/// room are counted.
fn fit(text: &str, keys: &str, rows: usize) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    if rows == 0 || lines.len() + 2 <= rows {
        lines.push(String::new());
        lines.push(keys.to_owned());
        return lines;
    }
    let kept = rows.saturating_sub(1).max(HEADER).min(lines.len());
    let left_out = lines.len() - kept;
    lines.truncate(kept);
    lines.push(if left_out == 0 { keys.to_owned() } else { format!("{keys}, {left_out} more") });
    lines
}

/// The beginning of a line, as many characters as there are columns. Its colours are no characters, and
/// none is left on.
fn cut(line: &str, columns: usize) -> String {
    let mut rest = if columns == 0 { usize::MAX } else { columns };
    let mut is_colour = false;
    let is_kept = |letter: &char| {
        is_colour |= *letter == '\x1b';
        if is_colour {
            is_colour = *letter != 'm';
            return true;
        }
        let has_room = rest > 0;
        rest = rest.saturating_sub(1);
        has_room
    };
    line.chars().filter(is_kept).collect()
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        let _ = write!(out, "\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

/// Ends the watching: a signal, or the key q.
struct End {
    signals: SignalFd,
    has_keys: bool,
}

impl End {
    fn new() -> io::Result<Self> {
        let ends = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
        let set: SigSet = ends.into_iter().collect();
        set.thread_block()?;
        Ok(Self { signals: SignalFd::new(&set)?, has_keys: io::stdin().is_terminal() })
    }

    /// Writes to standard output, whose reader may have stopped; whether a signal came first.
    fn comes_before_written(&self, text: &str) -> io::Result<bool> {
        let mut out = io::stdout().lock();
        // A pipe with room has it for so much at least.
        for part in text.as_bytes().chunks(PIPE_BUF) {
            let mut sources = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(out.as_fd(), PollFlags::POLLOUT),
            ];
            while poll(&mut sources, PollTimeout::NONE) == Err(Errno::EINTR) {}
            if sources[0].any() == Some(true) {
                return Ok(true);
            }
            out.write_all(part)?;
            out.flush()?;
        }
        Ok(false)
    }

    /// Waits until this time, or until this descriptor has something; whether the end came first.
    fn comes_before(
        &mut self,
        deadline: Option<Instant>,
        other: Option<BorrowedFd<'_>>,
    ) -> io::Result<bool> {
        loop {
            let rest = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let rest = rest.map(|rest| PollTimeout::try_from(rest).unwrap_or(PollTimeout::ZERO));
            let input = io::stdin();
            let mut sources = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            sources.extend(other.map(|other| PollFd::new(other, PollFlags::POLLIN)));
            if self.has_keys {
                sources.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut sources, rest.unwrap_or(PollTimeout::NONE)) {
                // It was suspended, and goes on.
                Err(Errno::EINTR) => continue,
                polled => polled?,
            };
            let is_ready: Vec<_> =
                sources.iter().map(|source| source.any() == Some(true)).collect();
            if is_ready[0] {
                return Ok(true);
            }
            let has_typed = self.has_keys && is_ready.last() == Some(&true);
            if has_typed {
                let mut keys = [0; 16];
                // A terminal that has gone has no more keys.
                self.has_keys = read(&input, &mut keys).is_ok_and(|count| count > 0);
                if keys.iter().any(|key| matches!(key, b'q' | b'Q')) {
                    return Ok(true);
                }
            }
            if !has_typed || (other.is_some() && is_ready[1]) {
                return Ok(false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_screen_keeps_the_header() {
        let text: String = (0..9).map(|row| format!("row {row}\n")).collect();
        for (rows, last) in
            [(12, "q quits"), (11, "q quits"), (10, "q quits"), (6, "q quits, 4 more")]
        {
            let lines = fit(&text, "q quits", rows);
            assert!(lines.len() <= rows, "{rows}: {lines:?}");
            assert_eq!((&*lines[1], &**lines.last().unwrap()), ("row 1", last), "{rows}");
        }
        assert_eq!(fit(&text, "q quits", 0).len(), 11);
    }

    #[test]
    fn a_row_is_cut_and_its_colours_end() {
        assert_eq!(cut("0  \x1b[32mready\x1b[0m  1", 5), "0  \x1b[32mre\x1b[0m");
        assert_eq!(cut("abc", 0), "abc");
        assert_eq!(cut("\u{e9}\u{e9}\u{e9}", 2), "\u{e9}\u{e9}");
    }
}
