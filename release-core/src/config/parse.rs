//! Builds sections, keys and values from the tokens. After an error, continues at the next key or
//! section.

mod list;
mod recover;

use std::borrow::Cow;

use super::error::Problems;
use super::lex::{Lexer, Token};
use super::printable::shortened;
use super::source::{Place, SourceText, Span};
use super::{Endpoint, Value};

/// A section of the file as written. Each file begins with a section of global keys.
#[derive(Debug)]
pub(super) struct ParsedSection {
    /// The name in the header; `None` for the global keys.
    pub(super) name: Option<Span>,
    /// The text behind the name: `[name "label"]`.
    pub(super) label: Option<String>,
    /// The header is wrong: the keys can be assigned only if the name is known.
    pub(super) lost: bool,
    pub(super) entries: Vec<ParsedEntry>,
}

#[derive(Debug)]
pub(super) struct ParsedEntry {
    pub(super) key: Span,
    /// Whether an equals sign follows the key. Otherwise it may not be a key at all.
    pub(super) set: bool,
    /// `None` if it is wrong, which has been reported.
    pub(super) value: Option<(Value, Place)>,
}

/// The kind of a section header.
#[derive(PartialEq)]
enum SectionHeader {
    /// `[name]`, which may also be a list.
    Plain,
    /// `[name "label"]`, which is never a list.
    Labelled,
}

/// An error that has been reported.
struct Reported;

type ParseResult<T> = Result<T, Reported>;

/// Returns the sections in the order of the file. Errors are added to the problems.
pub(super) fn parse(source: &SourceText) -> (Vec<ParsedSection>, Problems<'_>) {
    let mut parser = Parser::new(source);
    (0..source.count()).for_each(|file| parser.enter(file));
    (parser.sections, parser.lexer.problems)
}

/// Returns the global keys of one file, without its errors.
pub(super) fn globals(source: &SourceText, file: usize) -> Vec<ParsedEntry> {
    let mut parser = Parser::new(source);
    parser.enter(file);
    parser.sections.swap_remove(0).entries
}

struct Parser<'a> {
    source: &'a SourceText,
    lexer: Lexer<'a>,
    peeked: Option<(Token, Span)>,
    sections: Vec<ParsedSection>,
    /// The lists that are open.
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(source: &'a SourceText) -> Self {
        Self { source, lexer: Lexer::new(source), peeked: None, sections: Vec::new(), depth: 0 }
    }

    /// Parses a file, which begins with global keys.
    fn enter(&mut self, file: usize) {
        self.lexer.enter(file);
        self.sections.push(ParsedSection {
            name: None,
            label: None,
            lost: false,
            entries: Vec::new(),
        });
        let mut after_entry = false;
        loop {
            let (token, span) = self.next();
            let glued = after_entry && !self.is_first(&span);
            after_entry = token == Token::Word;
            let done = match token {
                Token::End => return,
                Token::Open => self.header(&span),
                Token::Word => self.entry(span, glued),
                Token::Wrong => Err(Reported),
                _ => {
                    self.unexpected(&span, glued);
                    Err(Reported)
                }
            };
            if done.is_err() {
                self.skip();
            }
        }
    }

    /// Parses a section header, after its bracket.
    fn header(&mut self, open: &Span) -> ParseResult<()> {
        let (token, name) = self.next();
        let named = token == Token::Word;
        let (name_found, entries) = (named.then(|| name.clone()), Vec::new());
        let section = ParsedSection { name: name_found, label: None, lost: !named, entries };
        self.sections.push(section);
        if named {
            return self.header_end(open, &name);
        }
        match token {
            Token::Wrong => {}
            Token::Close => {
                self.error(open, "a section needs a name between the brackets", "");
                return Ok(());
            }
            Token::Open => {
                let hint = "a section is written [name], with one bracket";
                self.error(&name, "expected the name of a section, found `[`", hint);
            }
            _ => {
                let hint = "a section is written [name]: a word that begins with a letter";
                let found = self.found(&token, &name);
                self.error(&name, format!("expected the name of a section, found {found}"), hint);
            }
        }
        // Its end belongs to it; the rest of the line is skipped.
        if matches!(token, Token::Open | Token::End | Token::Word) {
            self.put_back(token, name);
        }
        Err(Reported)
    }

    fn header_end(&mut self, open: &Span, name: &Span) -> ParseResult<()> {
        let (mut token, mut span) = self.next();
        if let Token::Value(Value::String(label)) = &token {
            if let Some(section) = self.sections.last_mut() {
                section.label = Some(label.clone());
            }
            (token, span) = self.next();
        }
        if token == Token::Close {
            return Ok(());
        }
        if let Some(section) = self.sections.last_mut() {
            section.lost = true;
        }
        if token != Token::Wrong {
            let shown = self.shown(name);
            let place = Span { bytes: open.bytes.start..name.bytes.end, line: open.line };
            let message = format!("the name of the section is not closed: `[{shown}`");
            self.error(&place, message, "a section is written [name], and the name is one word");
        }
        self.put_back(token, span);
        Err(Reported)
    }

    /// Parses an entry after its key; `glued` if a value precedes it on the line.
    fn entry(&mut self, key: Span, glued: bool) -> ParseResult<()> {
        if !self.lexer.at_equals() {
            self.not_set(&key, glued);
            return Err(Reported);
        }
        self.next();
        let value = self.value(&key);
        let done = value.as_ref().map(drop).map_err(|_| Reported);
        self.add(ParsedEntry { key, set: true, value: value.ok() });
        done
    }

    /// Reports a word that is not a key because no equals sign follows it.
    #[cold]
    fn not_set(&mut self, key: &Span, glued: bool) {
        let end = key.bytes.start + self.source.slice(key).trim_end_matches(':').len();
        let colon = Span { bytes: end..key.bytes.end, line: key.line };
        let key = Span { bytes: key.bytes.start..end, line: key.line };
        let shown = self.shown(&key);
        let hint = format!("a key is written {shown} = value");
        if glued {
            self.unexpected(&key, true);
        } else if !colon.bytes.is_empty() {
            let message = format!("expected `=` after `{shown}`, found `:`");
            self.error(&colon, message, &hint);
        } else {
            let (token, next) = self.next();
            let same_line = next.line == key.line && token != Token::End;
            let found = self.found(&token, &next);
            let found = if same_line { found.as_str() } else { "the end of the line" };
            let place = if same_line { &next } else { &key };
            if token != Token::Wrong || !same_line {
                let message = format!("expected `=` after `{shown}`, found {found}");
                self.error(place, message, &hint);
            }
            self.put_back(token, next);
        }
        self.add(ParsedEntry { key, set: false, value: None });
    }

    fn add(&mut self, entry: ParsedEntry) {
        if let Some(section) = self.sections.last_mut() {
            section.entries.push(entry);
        }
    }

    /// Parses the value of a key, or an element of its list.
    fn value(&mut self, key: &Span) -> ParseResult<(Value, Place)> {
        let (token, span) = self.next();
        let value = match token {
            Token::Wrong => return Err(Reported),
            Token::Value(value) => value,
            Token::Word if !self.lexer.at_equals() => self.bare(&span)?,
            Token::Open if self.header_kind(&span) != Some(SectionHeader::Labelled) => {
                return self.list(key, &span);
            }
            _ => {
                let mut message = format!("a value is missing for `{}`", self.shown(key));
                let elsewhere = token == Token::End || span.line != key.line;
                if !elsewhere {
                    message = format!("{message}, found {}", self.found(&token, &span));
                }
                self.error(if elsewhere { key } else { &span }, message, "");
                self.put_back(token, span);
                return Err(Reported);
            }
        };
        Ok((value, Place { span, items: Vec::new() }))
    }

    /// Parses a word in place of a value.
    fn bare(&mut self, span: &Span) -> ParseResult<Value> {
        let word = self.source.slice(span);
        match (word, Endpoint::recognize(word)) {
            ("true", _) => Ok(Value::Bool(true)),
            ("false", _) => Ok(Value::Bool(false)),
            (_, None) => Ok(Value::Keyword(word.to_owned())),
            (_, Some(Ok(address))) => Ok(Value::Address(address)),
            (_, Some(Err(reason))) => {
                let message = format!("`{}` is no value: {reason}", shortened(word, 60));
                self.error(span, message, "");
                Err(Reported)
            }
        }
    }

    /// Reports text that begins neither a key nor a section.
    #[cold]
    fn unexpected(&mut self, span: &Span, after_value: bool) {
        let shown = self.shown(span);
        if after_value {
            let hint = match shown.as_str() {
                "," | "]" | "=" => "",
                _ => "text with blanks has to be in quotes; several values are a list, [1, 2]",
            };
            self.error(span, format!("unexpected `{shown}` after the value before it"), hint);
        } else {
            let hint = if shown.starts_with('/') { "a comment begins with `#`" } else { "" };
            self.error(span, format!("expected a key or a [section], found `{shown}`"), hint);
        }
    }

    fn next(&mut self) -> (Token, Span) {
        self.peeked.take().unwrap_or_else(|| self.lexer.next())
    }

    fn put_back(&mut self, token: Token, span: Span) {
        self.peeked = Some((token, span));
    }

    fn error(&mut self, span: &Span, message: impl Into<Cow<'static, str>>, hint: &str) {
        self.lexer.problems.read_at(span, message).hinted(hint);
    }

    fn shown(&self, span: &Span) -> String {
        shortened(self.source.slice(span), 60)
    }

    fn found(&self, token: &Token, span: &Span) -> String {
        match token {
            Token::End => "the end of the file".to_owned(),
            Token::Value(value) => value.described(),
            _ => format!("`{}`", self.shown(span)),
        }
    }
}

/// Parses text that consists of a single value.
pub(super) fn value(text: &str) -> Option<Value> {
    let source = SourceText::new("", format!("key = {text}"));
    let (mut sections, problems) = parse(&source);
    let mut globals = sections.remove(0).entries;
    let alone = sections.is_empty() && globals.len() == 1 && problems.is_empty();
    globals.pop().filter(|_| alone)?.value.map(|(value, _)| value)
}
