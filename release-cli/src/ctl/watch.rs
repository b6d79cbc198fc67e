//! `release ctl watch`: the table, live, on a screen of its own that leaves nothing behind.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
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
        let shown = match (client.status(), json) {
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
        if is_over || end.comes_before(next).map_err(failed)? {
            return Ok(());
        }
    }
}

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
        // Each line replaces what was there, so that nothing flickers.
        let lines = text.replace('\n', "\x1b[K\r\n");
        let keys = if self.before.is_some() { "q quits" } else { "ctrl-C quits" };
        format!("\x1b[H{lines}\x1b[K\r\n{keys}\x1b[J")
    }
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

/// What ends the watching: a signal, or the key q.
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

    fn comes_before(&mut self, deadline: Instant) -> io::Result<bool> {
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            let rest = PollTimeout::try_from(rest).unwrap_or(PollTimeout::ZERO);
            let input = io::stdin();
            let mut sources = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            if self.has_keys {
                sources.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut sources, rest) {
                // It was suspended, and goes on.
                Err(Errno::EINTR) => continue,
                polled => polled?,
            };
            let is_ready: Vec<_> =
                sources.iter().map(|source| source.any() == Some(true)).collect();
            match is_ready[..] {
                [true, ..] => return Ok(true),
                [_, true] => {
                    let mut keys = [0; 16];
                    // A terminal that has gone has no more keys.
                    self.has_keys = read(&input, &mut keys).is_ok_and(|count| count > 0);
                    if keys.iter().any(|key| matches!(key, b'q' | b'Q')) {
                        return Ok(true);
                    }
                }
                _ => return Ok(false),
            }
        }
    }
}
