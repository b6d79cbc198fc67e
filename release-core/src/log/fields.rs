//! Formats an event's message and values for the log.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use crate::streams::printable::Lines;

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
