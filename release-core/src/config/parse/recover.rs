//! Continues after an error, so that it is reported once and does not hide the next one.

use super::{Parser, SectionHeader, Token};
use crate::config::lex::word_length;
use crate::config::quoted;
use crate::config::source::Span;

impl Parser<'_> {
    /// Skips to the beginning of the next key or section.
    ///
    /// This is the next line, unless a list is open or the end of a string is missing. In that case
    /// it is the next apparent section header, or key with an equals sign.
    pub(super) fn skip(&mut self) {
        let lines = !std::mem::take(&mut self.lexer.unclosed);
        self.lexer.quiet = true;
        loop {
            let read_before = self.peeked.is_some();
            let start = self.lexer.position();
            let (token, span) = self.next();
            let next_line = lines && self.depth == 0 && self.is_first(&span);
            if token == Token::End || next_line || self.is_start(&token, &span) {
                if read_before {
                    self.put_back(token, span);
                } else {
                    // Read again later, and its errors reported.
                    self.lexer.go_back(start);
                }
                break;
            }
            match token {
                Token::Open => self.depth += 1,
                Token::Close => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        self.lexer.quiet = false;
        self.lexer.unclosed = false;
        self.depth = 0;
    }

    /// Returns whether the last token read begins a key or a section, including within a list.
    fn is_start(&self, token: &Token, span: &Span) -> bool {
        match token {
            Token::Word => self.lexer.at_equals(),
            Token::Open => self.header_kind(span).is_some(),
            _ => false,
        }
    }

    /// Returns whether a key or section follows, so that a list must have ended before it.
    pub(super) fn at_start(&mut self) -> bool {
        let (token, span) = self.next();
        let start = self.is_start(&token, &span);
        self.put_back(token, span);
        start
    }

    /// Returns whether only blanks precede it on its line.
    pub(super) fn is_first(&self, span: &Span) -> bool {
        let before = self.source.text[..span.bytes.start].trim_end_matches([' ', '\t']);
        before.is_empty() || before.ends_with('\n')
    }

    /// Returns the kind of the header that a line consists of, unless a list continues behind it.
    pub(super) fn header_kind(&self, open: &Span) -> Option<SectionHeader> {
        if !self.is_first(open) {
            return None;
        }
        let blanks = [' ', '\t'];
        let name = self.source.text[open.bytes.end..].trim_start_matches(blanks);
        let after = name[word_length(name)..].trim_start_matches(blanks);
        let line = after.split('\n').next().unwrap_or_default();
        let label = if line.starts_with('"') { quoted::length(line, '"') } else { None };
        let closed = after[label.unwrap_or(0)..].trim_start_matches(blanks).strip_prefix(']')?;
        let is_header = name.starts_with(|first: char| first.is_ascii_alphabetic())
            && !closed.trim_start().starts_with([',', ']']);
        is_header.then_some(if label.is_some() {
            SectionHeader::Labelled
        } else {
            SectionHeader::Plain
        })
    }
}
