//! The text of a configuration file, and positions in it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// The text of a file and of the files that it includes, one behind the other.
pub(super) struct SourceText {
    /// The main file comes first.
    files: Vec<File>,
    pub(super) text: String,
    /// The parts that are never shown, in order.
    hidden: Vec<Range<usize>>,
}

struct File {
    /// The name in messages.
    name: Arc<str>,
    path: PathBuf,
    bytes: Range<usize>,
}

/// Replaces a part of a text that is never shown.
const HIDDEN: &str = "***";

impl SourceText {
    pub(super) fn new(name: &str, text: impl Into<String>) -> Self {
        let text = text.into();
        let bytes = 0..text.len();
        let file = File { name: printable(name).into(), path: PathBuf::from(name), bytes };
        Self { files: vec![file], text, hidden: Vec::new() }
    }

    /// Sets the path of the main file.
    pub(super) fn read_from(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.files[0].path);
        self
    }

    /// Appends the text of an included file. Returns its index.
    pub(super) fn append(&mut self, path: PathBuf, text: &str) -> usize {
        // Ends the last line of the file before it.
        self.text.push('\n');
        let start = self.text.len();
        self.text.push_str(text);
        let name = printable(&path.to_string_lossy()).into();
        self.files.push(File { name, path, bytes: start..self.text.len() });
        self.files.len() - 1
    }

    /// Returns the number of files.
    pub(super) fn count(&self) -> usize {
        self.files.len()
    }

    pub(super) fn path(&self, file: usize) -> &Path {
        &self.files[file].path
    }

    /// Returns where the text of a file stands.
    pub(super) fn bytes(&self, file: usize) -> Range<usize> {
        self.files[file].bytes.clone()
    }

    /// Returns the file in which the span stands.
    pub(super) fn file(&self, span: &Span) -> usize {
        self.files.partition_point(|file| file.bytes.start <= span.bytes.start).saturating_sub(1)
    }

    /// Hides parts of the text, in order, of which none touches the next.
    pub(super) fn hide(&mut self, parts: Vec<Range<usize>>) {
        self.hidden = parts;
    }

    /// Returns whether a part of the span is never shown.
    pub(super) fn is_hidden(&self, span: &Span) -> bool {
        let Range { start, end } = span.bytes;
        let next = self.hidden.partition_point(|part| part.end <= start);
        self.hidden.get(next).is_some_and(|part| part.start < end.max(start + 1))
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

    /// Returns the name of the file in which the span stands, safe to print.
    pub(super) fn name(&self, span: &Span) -> &Arc<str> {
        &self.files[self.file(span)].name
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
        format!("{}:{}:{}", self.name(span), span.line, self.column(span))
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

    /// Returns the position after the last character of the main file.
    pub(super) fn end(&self) -> Span {
        let end = self.files[0].bytes.end;
        let line = self.text[..end].bytes().filter(|byte| *byte == b'\n').count() + 1;
        Span { bytes: end..end, line }
    }

    fn line_start(&self, span: &Span) -> usize {
        self.text[..span.bytes.start].rfind('\n').map_or(0, |newline| newline + 1)
    }
}

impl Span {
    /// The position of the first character of the main file.
    pub(super) const START: Self = Self { bytes: 0..0, line: 1 };
}

/// Formats the name alone: the text may contain secrets.
impl fmt::Debug for SourceText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SourceText").field(&self.files[0].name).finish()
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
