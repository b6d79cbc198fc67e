//! Numbers and texts as people read them, and as HTML.

use std::fmt;

/// A text for HTML, also between quotes: no character of it is markup, controls a terminal or turns the
/// direction of what follows.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_char(letter)?,
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char('\u{fffd}')?,
                _ if letter.is_control() => f.write_char('\u{fffd}')?,
                _ => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

/// A number of bytes.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    #[allow(clippy::cast_precision_loss)] // Three digits are shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut number, mut unit) = (self.0 as f64 / 1024.0, "KiB");
        for larger in ["MiB", "GiB", "TiB"] {
            if number < 1000.0 {
                break;
            }
            (number, unit) = (number / 1024.0, larger);
        }
        let digits = usize::from(number < 10.0 && unit != "KiB");
        write!(f, "{number:.digits$} {unit}")
    }
}

/// A time in seconds, in its two largest units.
pub(super) struct Age(pub(super) f64);

impl fmt::Display for Age {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Neither is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.max(0.0) as u64;
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        match (days, hours, minutes) {
            (1.., ..) => write!(f, "{days} d {} h", hours % 24),
            (_, 1.., _) => write!(f, "{hours} h {} min", minutes % 60),
            (.., 1..) => write!(f, "{minutes} min {} s", seconds % 60),
            _ => write!(f, "{seconds} s"),
        }
    }
}

/// Causes with their numbers: `3 failed, 1 by a signal`.
pub(super) struct Causes<'a>(pub(super) &'a [(String, u64)]);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (cause, count)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            let cause = match cause.as_str() {
                "signal" => "by a signal".to_owned(),
                "stop_deadline" => "too slow to stop".to_owned(),
                "stop_now" => "stopped at once".to_owned(),
                other => other.replace('_', " "),
            };
            write!(f, "{comma}{count} {}", Escaped(&cause))?;
        }
        Ok(())
    }
}

impl Causes<'_> {
    pub(super) fn sum(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_markup() {
        let hostile = "<script>\"'&\u{1b}[31m\u{202e}x\r\n";
        let text = Escaped(hostile).to_string();
        let expected = "&lt;script&gt;&quot;&#39;&amp;\u{fffd}[31m\u{fffd}x\u{fffd}\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn numbers_are_short() {
        let sizes = [0, 1 << 10, 999 << 10, 1 << 20, 34 << 20, 1100 << 20, u64::MAX];
        let texts = sizes.map(|bytes| Bytes(bytes).to_string());
        assert_eq!(texts[..6], ["0 KiB", "1 KiB", "999 KiB", "1.0 MiB", "34 MiB", "1.1 GiB"]);
        let ages = [-1.0, 59.9, 61.0, 3600.0, 90_000.0].map(|age| Age(age).to_string());
        assert_eq!(ages, ["0 s", "59 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]);
        let causes = [("not_ready".to_owned(), 2), ("signal".to_owned(), 1)];
        assert_eq!(Causes(&causes).to_string(), "2 not ready, 1 by a signal");
    }
}
