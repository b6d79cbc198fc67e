//! Makes sections, keys and values of the tokens, and goes on after a mistake where the next key or
//! section begins.

use std::collections::HashMap;

use super::error::Problems;
use super::lex::{Lexer, Token, word_length};
use super::printable::shortened;
use super::source::{Place, Source, Span};
use super::{Address, Value};

/// How deep lists may be nested.
const DEPTH: usize = 16;

/// A section of the file as it is written; the first one holds the global keys.
#[derive(Debug)]
pub(super) struct Section {
    /// The name in the header; `None` for the global keys.
    pub(super) name: Option<Span>,
    /// The name could not be read: whose keys these are is not known.
    pub(super) lost: bool,
    pub(super) entries: Vec<Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Span,
    /// Whether an equals sign follows the key; otherwise it may be no key at all.
    pub(super) set: bool,
    /// `None` when it is wrong, which has been reported.
    pub(super) value: Option<(Value, Place)>,
}

/// Something is wrong and has been reported.
struct Reported;

type Found<T> = Result<T, Reported>;

/// The sections in the order of the file; what is wrong is among the problems.
pub(super) fn parse(source: &Source) -> (Vec<Section>, Problems<'_>) {
    let lexer = Lexer::new(source);
    let globals = Section { name: None, lost: false, entries: Vec::new() };
    let mut parser = Parser { source, lexer, peeked: None, sections: vec![globals], depth: 0 };
    parser.file();
    parser.report_duplicates();
    (parser.sections, parser.lexer.problems)
}

struct Parser<'a> {
    source: &'a Source,
    lexer: Lexer<'a>,
    peeked: Option<(Token, Span)>,
    sections: Vec<Section>,
    /// The lists that are open.
    depth: usize,
}

impl Parser<'_> {
    fn file(&mut self) {
        // The line of the key before.
        let mut last = 0;
        loop {
            let (token, span) = self.next();
            let glued = std::mem::replace(&mut last, 0) == span.line;
            let done = match token {
                Token::End => return,
                Token::Open => self.header(&span),
                Token::Word => {
                    last = span.line;
                    self.entry(span, glued)
                }
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

    /// A section's header, after its bracket.
    fn header(&mut self, open: &Span) -> Found<()> {
        let (token, name) = self.next();
        let named = token == Token::Word;
        let section = Section { name: named.then(|| name.clone()), lost: !named, entries: vec![] };
        self.sections.push(section);
        if named {
            return self.header_end(open, &name);
        }
        match token {
            Token::Wrong => {}
            Token::Close => self.error(open, "a section needs a name between the brackets", ""),
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
        // Its end belongs to it; everything else on the line is skipped.
        if matches!(token, Token::Open | Token::End | Token::Word) {
            self.put_back(token, name);
        }
        Err(Reported)
    }

    fn header_end(&mut self, open: &Span, name: &Span) -> Found<()> {
        let (token, span) = self.next();
        if token == Token::Close {
            return Ok(());
        }
        if token != Token::Wrong {
            let message =
                format!("the name of the section is not closed: `[{}]`", self.shown(name));
            let place = Span { bytes: open.bytes.start..name.bytes.end, line: open.line };
            self.error(&place, message, "the name of a section is one word");
        }
        self.put_back(token, span);
        Err(Reported)
    }

    /// A key and its value, after the key; `glued` when a value stands before it on the line.
    fn entry(&mut self, key: Span, glued: bool) -> Found<()> {
        let (token, next) = self.next();
        if token == Token::Equals {
            let value = self.value(&key);
            let done = value.as_ref().map(drop).map_err(|_| Reported);
            self.add(Entry { key, set: true, value: value.ok() });
            return done;
        }
        let name = self.source.slice(&key);
        let end = key.bytes.start + name.trim_end_matches(':').len();
        let colon = Span { bytes: end..key.bytes.end, line: key.line };
        let key = Span { bytes: key.bytes.start..end, line: key.line };
        let shown = self.shown(&key);
        if glued {
            self.unexpected(&key, true);
        } else if !colon.bytes.is_empty() {
            let message = format!("expected `=` after `{shown}`, found `:`");
            self.error(&colon, message, &format!("a key is written {shown} = value"));
        } else if token != Token::Wrong {
            let same_line = next.line == key.line;
            let found = self.found(&token, &next);
            let found = if same_line { found.as_str() } else { "the end of the line" };
            let message = format!("expected `=` after `{shown}`, found {found}");
            let place = if same_line && token != Token::End { &next } else { &key };
            self.error(place, message, &format!("a key is written {shown} = value"));
        }
        self.add(Entry { key, set: false, value: None });
        self.put_back(token, next);
        Err(Reported)
    }

    fn add(&mut self, entry: Entry) {
        if let Some(section) = self.sections.last_mut() {
            section.entries.push(entry);
        }
    }

    /// The value of a key, or an element of its list.
    fn value(&mut self, key: &Span) -> Found<(Value, Place)> {
        let (token, span) = self.next();
        let value = match token {
            Token::Wrong => return Err(Reported),
            Token::Value(value) => value,
            Token::Word if !self.lexer.at_equals() => self.bare(&span)?,
            Token::Open => return self.list(key, &span),
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

    /// A word in the place of a value.
    fn bare(&mut self, span: &Span) -> Found<Value> {
        let word = self.source.slice(span);
        match (word, Address::recognize(word)) {
            ("true", _) => Ok(Value::Bool(true)),
            ("false", _) => Ok(Value::Bool(false)),
            (_, None) => Ok(Value::Keyword(word.to_owned())),
            (_, Some(Ok(address))) => Ok(Value::Address(address)),
            (_, Some(Err(reason))) => {
                let message = format!("`{}` is no address: {reason}", shortened(word, 60));
                self.error(span, message, "");
                Err(Reported)
            }
        }
    }

    /// A list, after its bracket. What is left of it after an error is skipped by `skip`.
    fn list(&mut self, key: &Span, open: &Span) -> Found<(Value, Place)> {
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
        self.one_kind(&values, &items)?;
        let span = Span { bytes: open.bytes.start..close.bytes.end, line: open.line };
        Ok((Value::List(values), Place { span, items }))
    }

    /// Whether what follows can be no part of a list.
    fn at_end_of_list(&mut self) -> bool {
        match self.peek() {
            Token::End => true,
            Token::Word => self.lexer.at_equals(),
            _ => false,
        }
    }

    fn not_separated<T>(&mut self) -> Found<T> {
        let (token, span) = self.next();
        if token != Token::Wrong {
            let found = self.found(&token, &span);
            let message = format!("expected `,` or `]` in the list, found {found}");
            self.error(&span, message, "the elements of a list are separated by commas");
        }
        self.put_back(token, span);
        Err(Reported)
    }

    fn unclosed<T>(&mut self, key: &Span, open: &Span) -> Found<T> {
        let message = format!("the list of `{}` that begins here is not closed", self.shown(key));
        self.error(open, message, "a list ends with `]`");
        Err(Reported)
    }

    fn one_kind(&mut self, values: &[Value], items: &[Place]) -> Found<()> {
        let Some(first) = values.first() else { return Ok(()) };
        let odd = values.iter().zip(items).find(|(value, _)| value.kind() != first.kind());
        let Some((value, place)) = odd else { return Ok(()) };
        let message = format!(
            "a list holds values of one kind: expected {} as before it, found {}",
            first.kind(),
            value.described()
        );
        self.error(&place.span, message, "");
        Err(Reported)
    }

    /// Something that begins neither a key nor a section.
    #[cold]
    fn unexpected(&mut self, span: &Span, after_value: bool) {
        let shown = self.shown(span);
        if after_value {
            let hint = "text with blanks has to be in quotes; several values are a list, [1, 2]";
            self.error(span, format!("unexpected `{shown}` after the value"), hint);
        } else {
            self.error(span, format!("expected a key or a [section], found `{shown}`"), "");
        }
    }

    /// Goes to where the next key or section begins.
    fn skip(&mut self) {
        self.lexer.quiet = true;
        while !self.at_start() {
            let (token, span) = self.next();
            match token {
                Token::End => {
                    self.put_back(token, span);
                    break;
                }
                Token::Open if self.depth > 0 => self.depth += 1,
                Token::Close if self.depth == 1 => break,
                Token::Close => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        self.lexer.quiet = false;
        self.depth = 0;
    }

    /// Whether the next token begins a key, or a section on a line of its own.
    fn at_start(&mut self) -> bool {
        match self.peek() {
            Token::Word => self.lexer.at_equals(),
            Token::Open => self.peeked.as_ref().is_some_and(|(_, span)| self.is_header(span)),
            _ => false,
        }
    }

    /// Whether a line consists of a word in brackets and nothing that continues a list.
    fn is_header(&self, open: &Span) -> bool {
        let (before, after) = self.source.text.split_at(open.bytes.start);
        let before = before.trim_end_matches([' ', '\t']);
        let after = after[1..].trim_start_matches([' ', '\t']);
        let closed = after[word_length(after)..].trim_start_matches([' ', '\t']).strip_prefix(']');
        (before.is_empty() || before.ends_with('\n'))
            && after.starts_with(|first: char| first.is_ascii_alphabetic())
            && closed.is_some_and(|rest| !rest.trim_start().starts_with([',', ']']))
    }

    fn report_duplicates(&mut self) {
        let Self { source, sections, lexer, .. } = self;
        let names = sections.iter().filter_map(|section| section.name.as_ref());
        duplicates("section", names, source, &mut lexer.problems);
        for section in sections {
            let keys = section.entries.iter().filter(|entry| entry.set).map(|entry| &entry.key);
            duplicates("key", keys, source, &mut lexer.problems);
        }
    }

    fn next(&mut self) -> (Token, Span) {
        self.peeked.take().unwrap_or_else(|| self.lexer.next())
    }

    fn put_back(&mut self, token: Token, span: Span) {
        self.peeked = Some((token, span));
    }

    fn peek(&mut self) -> &Token {
        &self.peeked.get_or_insert_with(|| self.lexer.next()).0
    }

    fn error(&mut self, span: &Span, message: impl Into<String>, hint: &str) {
        self.lexer.problems.at(span, message).hinted(hint);
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

/// Reports names that are there before.
fn duplicates<'a>(
    what: &str,
    names: impl Iterator<Item = &'a Span>,
    source: &Source,
    problems: &mut Problems<'_>,
) {
    let mut known: HashMap<&str, &Span> = HashMap::new();
    for name in names {
        if let Some(first) = known.get(source.slice(name)) {
            let shown = shortened(source.slice(name), 60);
            let first = source.reference(first);
            problems
                .at(name, format!("the {what} `{shown}` is there twice; the first is at {first}"));
        } else {
            known.insert(source.slice(name), name);
        }
    }
}

/// The value that a text alone is.
pub(super) fn value(text: &str) -> Option<Value> {
    let source = Source::new("", format!("key = {text}"));
    let (mut sections, problems) = parse(&source);
    let mut globals = sections.remove(0).entries;
    let alone = sections.is_empty() && globals.len() == 1 && problems.is_empty();
    globals.pop().filter(|_| alone)?.value.map(|(value, _)| value)
}
