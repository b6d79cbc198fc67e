//! What workers write, passed on with who wrote it in front.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;
use release_core::{OutputStream, WorkerInfo};

/// With who wrote it in front, a line of this length fits into what a pipe takes whole.
const LONGEST: usize = 4040;

/// Whoever reads this program's output may be slow: then lines are lost and counted, and the workers
/// are not.
#[derive(Debug)]
struct Place {
    lost: AtomicU64,
}

/// Passes lines to standard output and error.
pub(crate) fn to_standard_streams(
    prefix: fn(&WorkerInfo) -> String,
) -> impl Fn(&WorkerInfo, OutputStream, &[u8]) + Send + Sync + 'static {
    let [out, error] = [(); 2].map(|()| Place { lost: AtomicU64::new(0) });
    move |worker, stream, line| {
        let prefix = prefix(worker);
        match stream {
            OutputStream::Out => out.pass_on(io::stdout().as_fd(), &prefix, line),
            OutputStream::Error => error.pass_on(io::stderr().as_fd(), &prefix, line),
        }
    }
}

/// Passes lines to the log.
pub(crate) fn to_log(
    prefix: fn(&WorkerInfo) -> String,
) -> impl Fn(&WorkerInfo, OutputStream, &[u8]) + Send + Sync + 'static {
    move |worker, stream, line| {
        let (prefix, line) = (prefix(worker), printable(line));
        match stream {
            OutputStream::Out => tracing::info!("{prefix} {line}"),
            OutputStream::Error => tracing::warn!("{prefix} {line}"),
        }
    }
}

impl Place {
    fn pass_on(&self, file: BorrowedFd<'_>, prefix: &str, line: &[u8]) {
        let lost = self.lost.load(Ordering::Relaxed);
        let mut text = Vec::with_capacity(prefix.len() + line.len() + 2);
        if lost > 0 {
            text.extend_from_slice(format!("{lost} lines are lost\n").as_bytes());
        }
        text.extend_from_slice(prefix.as_bytes());
        text.push(b' ');
        text.extend_from_slice(printable(line).as_bytes());
        text.push(b'\n');
        let mut watched = [PollFd::new(file, PollFlags::POLLOUT)];
        let has_room = poll(&mut watched, PollTimeout::ZERO) == Ok(1);
        let lost = if has_room && write(file, &text).is_ok() { 0 } else { lost + 1 };
        self.lost.store(lost, Ordering::Relaxed);
    }
}

/// What a worker or a service may write to somebody's terminal: control characters are said in
/// letters, so that nothing of the log can be overwritten or forged. What then does not fit into a pipe
/// is cut off.
pub(crate) fn printable(line: &[u8]) -> String {
    let mut text = String::new();
    for letter in String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).chars() {
        if text.len() >= LONGEST {
            text.push('\u{2026}');
            break;
        }
        match letter {
            '\t' => text.push(letter),
            _ if letter.is_control() => text.extend(letter.escape_debug()),
            _ => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn nothing_is_forged() {
        assert_eq!(printable(b"plain\tline \xc3\xa9"), "plain\tline \u{e9}");
        assert_eq!(printable(b"from Windows\r"), "from Windows");
        assert_eq!(printable(b"a\rb\x1b[2Jc\0\x7f\xc2\x9b"), "a\\rb\\u{1b}[2Jc\\0\\u{7f}\\u{9b}");
        assert_eq!(printable(b"\xff"), "\u{fffd}");
        assert!(printable(&[7; 4000]).len() < 4096 - 40);
    }

    #[test]
    fn a_slow_reader_loses_lines_and_holds_nobody_up() {
        let (mut reader, writer) = io::pipe().unwrap();
        let place = Place { lost: AtomicU64::new(0) };
        let line = [b'x'; 1000];
        for _ in 0..1000 {
            place.pass_on(writer.as_fd(), "[1]", &line);
        }
        let lost = place.lost.load(Ordering::Relaxed);
        assert!(lost > 900, "{lost}");
        let mut all = vec![0; 64 * 1024];
        let count = reader.read(&mut all).unwrap();
        assert!(all[..count].split_inclusive(|byte| *byte == b'\n').all(|line| line.len() == 1005));
        place.pass_on(writer.as_fd(), "[1]", b"more");
        drop(writer);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with(&format!("{lost} lines are lost\n[1] more\n")), "{rest}");
    }
}
