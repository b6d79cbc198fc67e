//! Splits the text into tokens.

use std::borrow::Cow;
use std::iter::Peekable;
use std::ops::Range;
use std::str::CharIndices;

use super::error::Problems;
use super::source::{SourceText, Span};
use super::value::is_plain;
use super::{Endpoint, Value, number};

mod quoted;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Equals,
    Open,
    Close,
    Comma,
    /// A bare word that begins with a letter.
    Word,
    /// A value that is not a bare word, or begins with a digit.
    Value(Value),
    /// An error, already reported.
    Wrong,
    End,
}

/// A reader of tokens from the text, which reports errors.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    pub(super) source: &'a SourceText,
    pub(super) problems: Problems<'a>,
    offset: usize,
    /// The end of the file that is read.
    end: usize,
    line: usize,
    /// After an error, skipped text is not reported again.
    pub(super) quiet: bool,
    /// A string or regular expression is not closed: the text after it may be part of it.
    pub(super) unclosed: bool,
    /// Remaining searches beyond a line for the end of an apparently unclosed string.
    patience: u32,
    /// Number of regular expressions so far: each uses memory far beyond its length.
    regexps: usize,
}

/// See [`Lexer::patience`]: without a limit, a hostile file could have each line searched to the
/// end.
const PATIENCE: u32 = 10;

impl<'a> Lexer<'a> {
    pub(super) fn new(source: &'a SourceText) -> Self {
        let problems = Problems::new(source);
        Self {
            source,
            problems,
            offset: 0,
            end: 0,
            line: 1,
            quiet: false,
            unclosed: false,
            patience: PATIENCE,
            regexps: 0,
        }
    }

    /// Begins to read a file.
    pub(super) fn enter(&mut self, file: usize) {
        let Range { start, end } = self.source.bytes(file);
        let mark = '\u{feff}';
        let has_mark = self.source.text[start..end].starts_with(mark);
        (self.offset, self.end) = (start + if has_mark { mark.len_utf8() } else { 0 }, end);
        self.line = 1;
    }

    /// Returns the next token and its position.
    pub(super) fn next(&mut self) -> (Token, Span) {
        self.skip_blanks();
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return (Token::End, self.span(0));
        };
        let single = match first {
            '=' => Token::Equals,
            ']' => Token::Close,
            ',' => Token::Comma,
            '[' => return self.open(),
            '"' | '/' => return self.quoted(first),
            '0'..='9' | '-' | '.' => return self.number(),
            'a'..='z' | 'A'..='Z' => return self.word(),
            _ => return self.stray(first),
        };
        (single, self.take(first.len_utf8()))
    }

    /// Returns the position at which the next token is searched.
    pub(super) fn position(&self) -> (usize, usize) {
        (self.offset, self.line)
    }

    /// Continues from an earlier position.
    pub(super) fn go_back(&mut self, position: (usize, usize)) {
        (self.offset, self.line) = position;
    }

    /// Returns whether the next token is an equals sign.
    pub(super) fn at_equals(&self) -> bool {
        let mut characters = self.rest().char_indices().peekable();
        skip_blanks(&mut characters);
        characters.next().is_some_and(|(_, character)| character == '=')
    }

    /// Skips to the end of the line, because the end of the token is unknown.
    fn leave_line(&mut self) {
        self.offset += self.rest_of_line().len();
    }

    fn rest_of_line(&self) -> &'a str {
        self.rest().split('\n').next().unwrap_or_default()
    }

    fn rest(&self) -> &'a str {
        &self.source.text[self.offset..self.end]
    }

    /// Returns the span of the next bytes.
    fn span(&self, length: usize) -> Span {
        Span { bytes: self.offset..self.offset + length, line: self.line }
    }

    fn take(&mut self, length: usize) -> Span {
        let span = self.span(length);
        self.line += newlines(self.source.slice(&span));
        self.offset += length;
        span
    }

    fn skip_blanks(&mut self) {
        self.take(blanks_length(self.rest()));
    }

    fn word_length(&self) -> usize {
        word_length(self.rest())
    }

    fn word(&mut self) -> (Token, Span) {
        let span = self.take(self.word_length());
        // A path that does not fit in a bare word follows the colon in quotes.
        if self.source.slice(&span) == "unix:" && self.rest().starts_with('"') {
            let (token, path) = self.quoted('"');
            let span = Span { bytes: span.bytes.start..path.bytes.end, ..span };
            return match token {
                Token::Value(Value::String(path)) if !path.is_empty() => {
                    (Token::Value(Value::Address(Endpoint::Unix(path))), span)
                }
                Token::Wrong => (Token::Wrong, span),
                _ => self.wrong(
                    span,
                    "the path of a Unix socket is text in UTF-8, and not empty",
                    "",
                ),
            };
        }
        (Token::Word, span)
    }

    fn number(&mut self) -> (Token, Span) {
        let span = self.take(self.word_length());
        match number::parse(self.source.slice(&span)) {
            Ok(value) => (Token::Value(value), span),
            Err(reason) => {
                let message = format!("`{}` is no value: {reason}", self.shown(&span));
                self.wrong(span, message, "")
            }
        }
    }

    /// Reads a bracket, or an IPv6 address in brackets with its port.
    fn open(&mut self) -> (Token, Span) {
        let is_inside =
            |character: &char| character.is_ascii_hexdigit() || ":.%".contains(*character);
        let inside = self.rest()[1..].chars().take_while(is_inside).count();
        let tail = &self.rest()[1 + inside..];
        if !tail.starts_with("]:") {
            return (Token::Open, self.take(1));
        }
        let port = word_length(&tail[2..]);
        let span = self.take(1 + inside + 2 + port);
        match self.source.slice(&span).parse() {
            Ok(address) => (Token::Value(Value::Address(Endpoint::Inet(address))), span),
            Err(_) => {
                let message = format!(
                    "`{}` is no value: an IPv6 address with a port is written [::1]:80",
                    self.shown(&span)
                );
                self.wrong(span, message, "")
            }
        }
    }

    /// Reports a character that cannot begin a token.
    #[cold]
    fn stray(&mut self, first: char) -> (Token, Span) {
        let hint = match first {
            '\'' | '\u{2018}'..='\u{201f}' | '\u{ab}' | '\u{bb}' => {
                "a string is written \"like this\""
            }
            ';' | '!' => "a comment begins with `#`",
            '{' | '}' => "a list is written [1, 2], a section begins with [name]",
            '*' => "all addresses are 0.0.0.0:port or [::]:port; other text has to be in quotes",
            ':' => "a key is set with `=`; an address is 0.0.0.0:port or [::]:port",
            '+' => "a positive number has no sign",
            _ if first.is_whitespace() => "use blanks, tabs and line breaks only",
            _ if first.is_alphanumeric() => {
                "a name begins with a letter from a to z or A to Z; other \
                                             text has to be in quotes"
            }
            _ => "text has to be in quotes",
        };
        let shown = super::printable::printable(first.encode_utf8(&mut [0; 4]));
        // Attached characters belong to the same error.
        let rest = &self.rest()[first.len_utf8()..];
        let length = if is_plain(first) { word_length(rest) } else { 0 };
        let span = self.take(first.len_utf8() + length);
        self.wrong(span, format!("unexpected character `{shown}`"), hint)
    }

    fn wrong(
        &mut self,
        span: Span,
        message: impl Into<Cow<'static, str>>,
        hint: &str,
    ) -> (Token, Span) {
        if !self.quiet {
            self.problems.read_at(&span, message).hinted(hint);
        }
        (Token::Wrong, span)
    }

    fn shown(&self, span: &Span) -> String {
        super::printable::shortened(self.source.slice(span), 60)
    }
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

/// Returns the length of the bare word at the beginning.
pub(super) fn word_length(text: &str) -> usize {
    text.find(|character| !is_plain(character)).unwrap_or(text.len())
}

/// Returns the length of the blanks and comments at the beginning.
pub(super) fn blanks_length(text: &str) -> usize {
    let mut characters = text.char_indices().peekable();
    skip_blanks(&mut characters);
    characters.peek().map_or(text.len(), |(index, _)| *index)
}

/// Skips blanks and comments. A carriage return is a blank.
fn skip_blanks(characters: &mut Peekable<CharIndices<'_>>) {
    while let Some((_, character)) = characters.peek() {
        match character {
            ' ' | '\t' | '\r' | '\n' => {
                characters.next();
            }
            '#' => while characters.next_if(|(_, character)| *character != '\n').is_some() {},
            _ => return,
        }
    }
}
