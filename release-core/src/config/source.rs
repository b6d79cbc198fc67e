//! The text of a configuration file, and positions in it.

use std::fmt;
use std::ops::Range;

use super::printable::printable;

/// A part of the text: byte offsets, and the line (from 1) on which it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) bytes: Range<usize>,
    pub(super) line: usize,
}

/// The position of a value, and of each element if it is a list.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) span: Span,
    pub(super) items: Vec<Self>,
}

impl Place {
    /// Returns the position of the element at these indices.
    pub(super) fn inner(&self, path: &[usize]) -> &Span {
        match path {
            [index, rest @ ..] => {
                self.items.get(*index).map_or(&self.span, |item| item.inner(rest))
            }
            [] => &self.span,
        }
    }
}

/// The text, and its name in messages.
pub(super) struct Source {
    name: String,
    pub(super) text: String,
    /// The parts that are never shown, in order.
    hidden: Vec<Range<usize>>,
}

/// Replaces a part of a text that is never shown.
const HIDDEN: &str = "***";

impl Source {
    pub(super) fn new(name: &str, text: impl Into<String>) -> Self {
        Self { name: printable(name), text: text.into(), hidden: Vec::new() }
    }

    /// Hides parts of the text, in order.
    pub(super) fn hide(&mut self, parts: Vec<Range<usize>>) {
        self.hidden = parts;
    }

    /// Returns whether a part of the span is never shown.
    pub(super) fn is_hidden(&self, span: &Span) -> bool {
        let Range { start, end } = span.bytes;
        self.hidden.iter().any(|part| part.start < end.max(start + 1) && start < part.end)
    }

    /// Returns a part of the text as it may be shown.
    fn shown(&self, bytes: Range<usize>) -> String {
        let mut text = String::new();
        let mut at = bytes.start;
        for part in &self.hidden {
            if part.end > at && part.start < bytes.end {
                text.push_str(&self.text[at..part.start.max(at)]);
                // The part may have begun in a text that was shown before this one.
                text.push_str(if part.start >= bytes.start { HIDDEN } else { "" });
                at = part.end.min(bytes.end);
            }
        }
        text.push_str(&self.text[at..bytes.end]);
        text
    }

    /// Returns the name, safe to print.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn slice(&self, span: &Span) -> &str {
        &self.text[span.bytes.clone()]
    }

    /// Returns the column in characters, from 1.
    pub(super) fn column(&self, span: &Span) -> usize {
        self.text[self.line_start(span)..span.bytes.start].chars().count() + 1
    }

    /// Formats `file:line:column`, for a message that refers to a second position.
    pub(super) fn reference(&self, span: &Span) -> String {
        format!("{}:{}:{}", self.name, span.line, self.column(span))
    }

    /// Returns the line on which the span begins, with the part of the span on that line marked.
    pub(super) fn excerpt(&self, span: &Span) -> Excerpt {
        let start = self.line_start(span);
        let line = self.text[start..].split('\n').next().unwrap_or_default();
        let line = line.strip_suffix('\r').unwrap_or(line);
        let from = (span.bytes.start - start).min(line.len());
        let to = (span.bytes.end - start).clamp(from, line.len());
        let shown = |range: Range<usize>| self.shown(start + range.start..start + range.end);
        Excerpt::new(&shown(0..from), &shown(from..to), &shown(to..line.len()))
    }

    /// Returns the position after the last character.
    pub(super) fn end(&self) -> Span {
        let line = self.text.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Span { bytes: self.text.len()..self.text.len(), line }
    }

    fn line_start(&self, span: &Span) -> usize {
        self.text[..span.bytes.start].rfind('\n').map_or(0, |newline| newline + 1)
    }
}

/// Formats the name alone: the text may contain secrets.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.name).finish()
    }
}

/// A line of the text with carets under the relevant part, shortened around it if it is long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Excerpt {
    line: String,
    indent: usize,
    carets: usize,
}

/// Lines longer than this are shortened: this many characters are shown before the relevant part,
/// and this many from its beginning.
const LONG: usize = 100;
const BEFORE: usize = 40;
const FROM: usize = 60;

impl Excerpt {
    pub(super) fn new(before: &str, marked: &str, after: &str) -> Self {
        let whole = [before, marked, after].map(str::len).iter().sum::<usize>() <= LONG;
        let (room_before, room) = if whole { (LONG, LONG) } else { (BEFORE, FROM) };
        let cut = before.char_indices().rev().nth(room_before - 1).map_or(0, |(index, _)| index);
        let mut line = String::from(if cut > 0 { "\u{2026}" } else { "" });
        line.push_str(&printable(&before[cut..]));
        let indent = line.chars().count();
        let shown = head(marked, room);
        line.push_str(&printable(shown));
        let carets = (line.chars().count() - indent).max(1);
        let rest = head(after, room.saturating_sub(carets));
        line.push_str(&printable(rest));
        if shown.len() < marked.len() || rest.len() < after.len() {
            line.push('\u{2026}');
        }
        Self { line, indent, carets }
    }
}

/// Returns at most this many characters of the text.
fn head(text: &str, count: usize) -> &str {
    text.char_indices().nth(count).map_or(text, |(index, _)| &text[..index])
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (indent, carets) = (self.indent, "^".repeat(self.carets));
        write!(f, "    {}\n    {:indent$}{carets}", self.line.trim_end(), "")
    }
}
