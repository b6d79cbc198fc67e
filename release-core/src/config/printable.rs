//! Text from a file, made safe to print: nothing in it may command a terminal or turn a line around.

/// The text with every character escaped that is not seen as itself; tabs become blanks.
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

/// The text in one line and at most so many characters, for use within a message.
pub(super) fn shortened(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((index, _)) => format!("{}\u{2026}", printable(&text[..index])),
        None => printable(text),
    }
}

/// Controls, odd blanks, and what makes text look like something that it is not: invisible characters, and
/// those that change the direction of writing.
pub(super) fn is_hidden(character: char) -> bool {
    character.is_control()
        || character.is_whitespace() && character != ' '
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}
