//! Formats an event's message and values for the log.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Prefix of every line of a text after the first, so that none is mistaken for a line of the log.
const NEXT_LINE: &str = "\n    ";

/// The format `message name=value name=value`, in which no value can forge a line.
pub(super) struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line { writer, is_begun: false, done: Ok(()) };
        fields.record(&mut line);
        line.done
    }
}

struct Line<'writer> {
    writer: Writer<'writer>,
    is_begun: bool,
    done: fmt::Result,
}

impl Line<'_> {
    fn write(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let blank = if self.is_begun { " " } else { "" };
        let is_message = field.name() == "message";
        let (name, equals) = if is_message { ("", "") } else { (field.name(), "=") };
        let begun = write!(self.writer, "{blank}{name}{equals}");
        let written = begun.and_then(|()| Lines(&mut self.writer).write_fmt(value));
        self.done = self.done.and(written);
        self.is_begun = true;
    }
}

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.write(field, format_args!("{value}"));
        } else if value.trim_end().contains('\n') {
            // As separate lines, below the event.
            self.write(field, format_args!("\n{}", value.trim_end()));
        } else {
            self.write(field, format_args!("{value:?}"));
        }
    }
}

/// A writer of a text of one or more lines into a line of the log.
struct Lines<'a>(&'a mut dyn Write);

impl Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            match letter {
                '\n' => self.0.write_str(NEXT_LINE)?,
                '\t' => self.0.write_char(letter)?,
                _ if letter.is_control() => write!(self.0, "{}", letter.escape_debug())?,
                _ => self.0.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_message_stand_apart_from_those_of_the_log() {
        let mut text = String::new();
        write!(Lines(&mut text), "a\n2026 INFO b\r\x1b[31m").unwrap();
        assert_eq!(text, "a\n    2026 INFO b\\r\\u{1b}[31m");
    }
}
