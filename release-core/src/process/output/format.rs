//! Formats the lines of workers.

use std::io::Write;

use super::capture::{OutputFormat, OutputStream};
use crate::process::worker_info::WorkerInfo;
use crate::streams::printable;

/// The format for the lines of one process.
pub(super) struct Formatter {
    format: OutputFormat,
    /// The text before each line.
    head: Vec<u8>,
}

impl Formatter {
    pub(super) fn new(format: OutputFormat, worker: &WorkerInfo) -> Self {
        let head = match format {
            OutputFormat::Prefixed(prefix) => format!("{} ", prefix(worker)),
            OutputFormat::Json => {
                format!("{{\"worker\":{},\"pid\":{},\"stream\":\"std", worker.id, worker.pid)
            }
            _ => String::new(),
        };
        Self { format, head: head.into_bytes() }
    }

    pub(super) fn append(&self, queue: &mut Vec<u8>, stream: OutputStream, line: &[u8]) {
        queue.extend_from_slice(&self.head);
        match self.format {
            OutputFormat::Raw => queue.extend_from_slice(line),
            OutputFormat::Json => {
                let name = if stream == OutputStream::Out { "out" } else { "err" };
                queue.extend_from_slice(name.as_bytes());
                queue.extend_from_slice(b"\",\"message\":\"");
                append_json(queue, line);
                queue.extend_from_slice(b"\"}");
            }
            _ => printable::append(queue, line),
        }
        queue.push(b'\n');
    }
}

/// Appends the content of a JSON string, without quotes.
fn append_json(queue: &mut Vec<u8>, line: &[u8]) {
    let is_plain = line.iter().fold(true, |is_plain, byte| {
        is_plain & (matches!(byte, b' '..=b'~') & (*byte != b'"') & (*byte != b'\\'))
    });
    if is_plain {
        queue.extend_from_slice(line);
        return;
    }
    let is_special = |byte: u8| byte.is_ascii_control() || matches!(byte, b'"' | b'\\');
    printable::append_escaped(queue, line, is_special, |queue, letter| match letter {
        '"' => queue.extend_from_slice(b"\\\""),
        '\\' => queue.extend_from_slice(b"\\\\"),
        '\t' => queue.extend_from_slice(b"\\t"),
        _ => {
            // Writing to a Vec cannot fail.
            let _ = write!(queue, "\\u{:04x}", u32::from(letter));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::Driver;
    use crate::rt::local::Local;

    fn formatted(format: OutputFormat, line: &[u8]) -> String {
        let rt = Local::new().unwrap().handle();
        let worker = WorkerInfo { id: 3, pid: 77, group: "web".into(), generation: 1, rt };
        let mut queue = Vec::new();
        Formatter::new(format, &worker).append(&mut queue, OutputStream::Error, line);
        String::from_utf8(queue).unwrap()
    }

    #[test]
    fn each_format_is_a_line() {
        let line = b"say \"a\\b\"\x1b[31m \xc3\xa9\xc2\x9b";
        assert_eq!(formatted(OutputFormat::Plain, line), "say \"a\\b\"\\u{1b}[31m é\\u{9b}\n");
        assert_eq!(formatted(OutputFormat::Raw, line), "say \"a\\b\"\u{1b}[31m é\u{9b}\n");
        let prefix = |worker: &WorkerInfo| format!("[{}]", worker.id);
        assert_eq!(formatted(OutputFormat::Prefixed(prefix), b"x"), "[3] x\n");
        assert_eq!(
            formatted(OutputFormat::Json, line),
            "{\"worker\":3,\"pid\":77,\"stream\":\"stderr\",\
             \"message\":\"say \\\"a\\\\b\\\"\\u001b[31m é\\u009b\"}\n"
        );
    }

    proptest::proptest! {
        #![proptest_config(crate::cases::cases(1000))]

        #[test]
        fn any_line_is_a_json_string(line: Vec<u8>, text: String) {
            for line in [&line, text.as_bytes()] {
                let mut queue = vec![b'"'];
                append_json(&mut queue, line);
                queue.push(b'"');
                let read: String = serde_json::from_slice(&queue).unwrap();
                proptest::prop_assert_eq!(read, String::from_utf8_lossy(line));
            }
        }
    }
}
