//! Makes text from a file safe to print: it cannot control a terminal or reverse a line.

/// Escapes every character that is not visible as itself. Tabs become blanks.
pub(super) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => safe.push(' '),
            _ if is_hidden(character) => safe.extend(character.escape_unicode()),
            _ => safe.push(character),
        }
    }
    safe
}

/// Returns the text as one line of limited length, for use in a message.
pub(super) fn shortened(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((index, _)) => format!("{}\u{2026}", printable(&text[..index])),
        None => printable(text),
    }
}

/// Matches control characters, unusual blanks, and characters that disguise text: invisible
/// characters, and characters that change the direction of writing.
pub(super) fn is_hidden(character: char) -> bool {
    character.is_control()
        || character.is_whitespace() && character != ' '
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}
