//! Output of workers, on its way to the log.

use release_core::{OutputStream, WorkerInfo};

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

/// Text of a worker or a service, made safe for a terminal: control characters are escaped in
/// letters, so that nothing of the log can be overwritten or forged.
pub(crate) fn printable(line: &[u8]) -> String {
    let mut text = String::new();
    for letter in String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).chars() {
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
    use super::*;

    #[test]
    fn nothing_is_forged() {
        assert_eq!(printable(b"plain\tline \xc3\xa9"), "plain\tline \u{e9}");
        assert_eq!(printable(b"from Windows\r"), "from Windows");
        assert_eq!(printable(b"a\rb\x1b[2Jc\0\x7f\xc2\x9b"), "a\\rb\\u{1b}[2Jc\\0\\u{7f}\\u{9b}");
        assert_eq!(printable(b"\xff"), "\u{fffd}");
    }
}
