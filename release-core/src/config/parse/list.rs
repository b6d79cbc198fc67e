//! Lists of values.

use super::{ParseResult, Parser, Reported, SectionHeader, Token};
use crate::config::Value;
use crate::config::source::{Place, Span};

/// Maximum nesting of lists.
const DEPTH: usize = 16;

impl Parser<'_> {
    /// Parses a list after its bracket. After an error, `skip` handles the rest.
    pub(super) fn list(&mut self, key: &Span, open: &Span) -> ParseResult<(Value, Place)> {
        self.depth += 1;
        if self.depth > DEPTH {
            self.error(open, format!("lists are nested more than {DEPTH} deep"), "");
            return Err(Reported);
        }
        let (mut values, mut items) = (Vec::new(), Vec::new());
        let close = loop {
            let (token, span) = self.next();
            match token {
                Token::Close if values.is_empty() => break span,
                Token::Close => {
                    let hint = "there is no comma after the last element of a list";
                    self.error(&span, "a value is missing after the comma", hint);
                    self.put_back(token, span);
                    return Err(Reported);
                }
                _ => self.put_back(token, span),
            }
            if self.at_end_of_list() {
                return self.unclosed(key, open);
            }
            let (value, place) = self.value(key)?;
            values.push(value);
            items.push(place);
            let (token, span) = self.next();
            match token {
                Token::Comma => {}
                Token::Close => break span,
                _ => {
                    self.put_back(token, span);
                    return if self.at_end_of_list() || self.at_start() {
                        self.unclosed(key, open)
                    } else {
                        self.not_separated()
                    };
                }
            }
        };
        self.depth -= 1;
        let span = Span { bytes: open.bytes.start..close.bytes.end, line: open.line };
        Ok((Value::List(values), Place { span, items }))
    }

    /// Returns whether the following text cannot be part of a list.
    fn at_end_of_list(&mut self) -> bool {
        let (token, span) = self.next();
        let end = match token {
            Token::End => true,
            Token::Word => self.lexer.at_equals(),
            Token::Open => self.header_kind(&span) == Some(SectionHeader::Labelled),
            _ => false,
        };
        self.put_back(token, span);
        end
    }

    fn not_separated<T>(&mut self) -> ParseResult<T> {
        let (token, span) = self.next();
        if token != Token::Wrong {
            let found = self.found(&token, &span);
            let message = format!("expected `,` or `]` in the list, found {found}");
            self.error(&span, message, "the elements of a list are separated by commas");
        }
        self.put_back(token, span);
        Err(Reported)
    }

    fn unclosed<T>(&mut self, key: &Span, open: &Span) -> ParseResult<T> {
        let message = format!("the list of `{}` that begins here is not closed", self.shown(key));
        self.error(open, message, "a list ends with `]`");
        Err(Reported)
    }
}
