//! The text of a configuration file, and places in it.

use std::fmt;
use std::ops::Range;

use super::printable::printable;

/// A stretch of the text: byte offsets, and the line (from 1) on which it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) bytes: Range<usize>,
    pub(super) line: usize,
}

/// Where a value stands, and where each element of it does when it is a list.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) span: Span,
    pub(super) items: Vec<Self>,
}

impl Place {
    /// The place of the element that the indices lead to.
    pub(super) fn inner(&self, path: &[usize]) -> &Span {
        match path {
            [index, rest @ ..] => {
                self.items.get(*index).map_or(&self.span, |item| item.inner(rest))
            }
            [] => &self.span,
        }
    }
}

/// The text, and the name it goes by in messages.
#[derive(Debug)]
pub(super) struct Source {
    name: String,
    pub(super) text: String,
}

impl Source {
    pub(super) fn new(name: &str, text: impl Into<String>) -> Self {
        Self { name: printable(name), text: text.into() }
    }

    /// The name, safe to print.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn slice(&self, span: &Span) -> &str {
        &self.text[span.bytes.clone()]
    }

    /// The column in characters, from 1.
    pub(super) fn column(&self, span: &Span) -> usize {
        self.text[self.line_start(span)..span.bytes.start].chars().count() + 1
    }

    /// `file:line:column`, for a message that names a second place.
    pub(super) fn reference(&self, span: &Span) -> String {
        format!("{}:{}:{}", self.name, span.line, self.column(span))
    }

    /// The line of the text on which the stretch begins, with the stretch marked as far as it is on
    /// that line.
    pub(super) fn excerpt(&self, span: &Span) -> Excerpt {
        let start = self.line_start(span);
        let line = self.text[start..].split('\n').next().unwrap_or_default();
        let line = line.strip_suffix('\r').unwrap_or(line);
        let from = (span.bytes.start - start).min(line.len());
        let to = (span.bytes.end - start).clamp(from, line.len());
        Excerpt::new(&line[..from], &line[from..to], &line[to..])
    }

    /// The place behind the last character.
    pub(super) fn end(&self) -> Span {
        let line = self.text.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Span { bytes: self.text.len()..self.text.len(), line }
    }

    fn line_start(&self, span: &Span) -> usize {
        self.text[..span.bytes.start].rfind('\n').map_or(0, |newline| newline + 1)
    }
}

/// A line of the text with carets under the part that is meant, cut around it when it is long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Excerpt {
    line: String,
    indent: usize,
    carets: usize,
}

/// Of a line longer than this so many characters are shown before the part that is meant, and so
/// many from its beginning.
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

/// At most so many characters of the text.
fn head(text: &str, count: usize) -> &str {
    text.char_indices().nth(count).map_or(text, |(index, _)| &text[..index])
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (indent, carets) = (self.indent, "^".repeat(self.carets));
        write!(f, "    {}\n    {:indent$}{carets}", self.line.trim_end(), "")
    }
}
