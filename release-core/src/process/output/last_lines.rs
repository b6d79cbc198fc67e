//! The end of a process's output, for the report of its death.

use memchr::memchr;

use crate::streams::printable;
use crate::sys::beginning;

/// Maximum number of lines, and of their bytes together.
const LINES: usize = 8;
const BYTES: usize = 2048;

/// Maximum length of a line. The beginning of a longer one is kept.
const LONGEST: usize = 512;

/// Length of the buffer: when it is full, only its last bytes are kept.
const BUFFER: usize = 2 * BYTES;

/// The last lines of both streams, in the order in which they were read.
#[derive(Debug, Default)]
pub(super) struct LastLines(Vec<u8>);

impl LastLines {
    pub(super) fn add(&mut self, line: &[u8]) {
        let line = &line[..line.len().min(LONGEST)];
        let Self(text) = self;
        if text.len() + line.len() >= BUFFER {
            let cut = text.len().saturating_sub(BYTES);
            // Not in the middle of a line.
            let end = memchr(b'\n', &text[cut..]).map_or(text.len(), |at| cut + at + 1);
            text.drain(..end);
        }
        if text.is_empty() {
            text.reserve_exact(BUFFER);
        }
        text.extend_from_slice(line);
        text.push(b'\n');
    }

    /// Returns the lines, the oldest first, in a form that is safe for a log and a terminal.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut room = BYTES;
        let lines = self.0.split(|byte| *byte == b'\n').rev().skip(1).take(LINES);
        let printable = lines.map(|line| {
            let line = printable::printable(line);
            beginning(&line, LONGEST).to_owned()
        });
        let fits = |line: &String| {
            let fits = line.len() <= room;
            room = room.saturating_sub(line.len());
            fits
        };
        let mut lines: Vec<_> = printable.take_while(fits).collect();
        lines.reverse();
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lines: &[&[u8]]) -> Vec<String> {
        let mut last = LastLines::default();
        lines.iter().for_each(|line| last.add(line));
        last.lines()
    }

    #[test]
    fn the_last_lines_are_kept_and_harmless() {
        assert!(after(&[]).is_empty());
        assert_eq!(after(&[b"", b"a\tb\r", b"\x1b[2J\xff"]), ["", "a\tb", "\\u{1b}[2J\u{fffd}"]);
        let lines: Vec<_> = (0..1000).map(|number| format!("line {number}")).collect();
        let bytes: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
        assert_eq!(after(&bytes), lines[992..]);
    }

    #[test]
    fn neither_the_buffer_nor_its_text_grows() {
        let mut last = LastLines::default();
        for length in (0..100_000).step_by(77) {
            last.add(&vec![b'\x1b'; length]);
            assert!(last.0.capacity() <= BUFFER, "{}", last.0.capacity());
            let lines = last.lines();
            assert!(!lines.is_empty() && lines.len() <= LINES, "{}", lines.len());
            assert!(lines.iter().all(|line| line.len() <= LONGEST));
            assert!(lines.iter().map(String::len).sum::<usize>() <= BYTES);
        }
    }
}
