//! Strings and regular expressions as tokens, including unclosed ones.

use super::{Lexer, Token, newlines, word_length};
use crate::config::quoted;
use crate::config::source::Span;

/// Maximum number of regular expressions in a file: each uses memory far beyond its length.
const REGEXPS: usize = 1000;

impl Lexer<'_> {
    /// Reads a string or a regular expression.
    pub(super) fn quoted(&mut self, quote: char) -> (Token, Span) {
        let start = self.position();
        let searched = if self.patience > 0 { self.rest() } else { self.rest_of_line() };
        if let Some(length) = quoted::length(searched, quote) {
            let span = self.take(length);
            if self.is_separated(&span) {
                return self.quoted_value(span, quote);
            }
            let one_line = self.line == span.line;
            self.go_back(start);
            if one_line && quote == '"' {
                let end = Span { bytes: span.bytes.end - 1..span.bytes.end, line: span.line };
                self.leave_line();
                let message = "the string ends here, but more follows without a blank";
                return self.wrong(end, message, "a quote within a string is written \\\"");
            }
            if one_line {
                return self.unclosed(quote);
            }
        }
        self.patience = self.patience.saturating_sub(1);
        self.unclosed(quote)
    }

    fn quoted_value(&mut self, span: Span, quote: char) -> (Token, Span) {
        if quote == '/' {
            self.regexps += 1;
            if self.regexps > REGEXPS {
                let message = format!("a file holds at most {REGEXPS} regular expressions");
                return self.wrong(span, message, "");
            }
        }
        match quoted::value(self.source.slice(&span), quote) {
            Ok(value) => (Token::Value(value), span),
            Err(wrong) => {
                let start = span.bytes.start + wrong.at.start;
                let line = span.line + newlines(&self.source.text[span.bytes.start..start]);
                let place = Span { bytes: start..span.bytes.start + wrong.at.end, line };
                let (token, _) = self.wrong(place, wrong.message, "");
                (token, span)
            }
        }
    }

    /// Examines the text after a closing quote. If a word is attached to it, the quote begins
    /// another string rather than closing this one, unless the word is the next key.
    fn is_separated(&self, span: &Span) -> bool {
        let rest = self.rest();
        match rest.chars().next() {
            None | Some('#' | ',' | '[' | ']') => true,
            Some(next) if next.is_whitespace() => true,
            Some(next) if next.is_ascii_alphabetic() && self.line == span.line => {
                rest[word_length(rest)..].trim_start_matches([' ', '\t']).starts_with('=')
            }
            Some(_) => false,
        }
    }

    #[cold]
    fn unclosed(&mut self, quote: char) -> (Token, Span) {
        let span = self.span(self.rest_of_line().trim_end().len());
        self.leave_line();
        // Without quotes it is more likely a path than a multi-line expression.
        self.unclosed = quote == '"';
        if quote == '"' {
            let hint = "a string ends with \" and a quote within it is written \\\"";
            return self.wrong(span, "the string that begins here is not closed", hint);
        }
        let message = "this is read as a regular expression, which is not closed";
        let hint = "text such as a path has to be in quotes, \"/like/this\"; \
                    a slash within a regular expression is written \\/";
        self.wrong(span, message, hint)
    }
}
