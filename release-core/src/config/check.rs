//! Checks a file against its specification.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::entry::{Entry, Values};
use super::error::{Errors, Problems};
use super::parse::{self, parse};
use super::printable::shortened;
use super::secret::{self, External};
use super::source::{Source, Span};
use super::spec::{Key, SectionSpec, Spec};
use super::suggest::nearest;
use super::validation::Invalid;
use super::value::Value;

/// Maximum number of known names listed when none is near.
const LISTED: usize = 10;

/// The content of a configuration without errors.
pub(super) struct Checked {
    pub(super) sections: Vec<Values>,
    /// The files that hold secrets, with their content.
    pub(super) secrets: Vec<(PathBuf, Vec<u8>)>,
}

/// Returns the content of the configuration in the text, or every error in it.
pub(super) fn check(source: &Source, spec: &Spec) -> Result<Checked, Errors> {
    let (written, mut problems) = parse(source);
    report_duplicates(&written, source, &mut problems);
    for mistake in spec.mistakes() {
        problems.general(format!("a mistake of the program, not of the file: {mistake}"));
    }
    let mut check = Check::new(source, spec, problems);
    for section in written {
        check.section(section);
    }
    let sections = check.complete();
    let secrets = check.secrets;
    check.problems.result()?;
    spec.fits.iter().try_for_each(|fits| fits(&sections, source))?;
    Ok(Checked { sections, secrets })
}

struct Check<'a> {
    source: &'a Source,
    spec: &'a Spec,
    problems: Problems<'a>,
    /// The sections of the specification, each with its keys, by name.
    known: HashMap<Option<&'a str>, (usize, HashMap<&'a str, usize>)>,
    /// The content of the file, in the order of the specification.
    found: Vec<Found>,
    /// A section name could not be read: no section is known to be missing.
    lost: bool,
    secrets: Vec<(PathBuf, Vec<u8>)>,
}

/// The content of a section in the file.
#[derive(Default)]
struct Found {
    header: Option<Span>,
    values: HashMap<usize, Entry>,
    /// Wrong, misspelt or misplaced keys: already reported, so they are not missing.
    excused: HashSet<usize>,
}

impl<'a> Check<'a> {
    fn new(source: &'a Source, spec: &'a Spec, problems: Problems<'a>) -> Self {
        let keys = |section: &'a SectionSpec| {
            section.keys.iter().enumerate().map(|(index, key)| (key.name.as_str(), index)).collect()
        };
        let sections = spec.sections.iter().enumerate();
        let known = sections.map(|(index, known)| (known.name.as_deref(), (index, keys(known))));
        let found = spec.sections.iter().map(|_| Found::default()).collect();
        Self {
            source,
            spec,
            problems,
            known: known.collect(),
            found,
            lost: false,
            secrets: Vec::new(),
        }
    }

    fn section(&mut self, section: parse::Section) {
        let name = section.name.as_ref().map(|span| self.source.slice(span));
        let known = self.known.get(&name).map(|(index, _)| *index);
        if section.lost && (name.is_none() || known.is_none()) {
            self.lost = true;
            return;
        }
        let Some(mut index) = known.or_else(|| self.unknown_section(section.name.as_ref()?)) else {
            return;
        };
        if let Some(header) = section.name {
            self.found[index].header.get_or_insert(header);
        }
        for entry in section.entries {
            match self.swallowed_header(&entry) {
                Some(section) => {
                    self.report_swallowed(index, section, &entry);
                    index = section;
                }
                None => self.entry(index, entry),
            }
        }
    }

    /// Reports an unknown section. Returns the intended section, if it can be determined.
    fn unknown_section(&mut self, name: &Span) -> Option<usize> {
        if self.problems.is_full() {
            self.problems.general("");
            return None;
        }
        let text = self.source.slice(name);
        let sections = self.spec.sections.iter();
        let names: Vec<&str> = sections.filter_map(|section| section.name.as_deref()).collect();
        let near = nearest(text, names.iter().copied());
        let shown = shortened(text, 60);
        match near {
            Some(near) => {
                let message = format!("unknown section `{shown}`; is it `{near}`?");
                self.problems.read_at(name, message);
            }
            None => {
                let hint = listed("sections", &names);
                self.problems.read_at(name, format!("unknown section `{shown}`")).hinted(hint);
            }
        }
        self.known.get(&Some(near?)).map(|(index, _)| *index)
    }

    /// Returns the section whose header was parsed as the list value of the preceding key: a list
    /// of one word, alone on a line.
    fn swallowed_header(&self, entry: &parse::Entry) -> Option<usize> {
        let (Value::List(items), place) = entry.value.as_ref()? else { return None };
        let [Value::Keyword(name)] = items.as_slice() else { return None };
        let (index, _) = self.known.get(&Some(name.as_str()))?;
        (place.span.line != entry.key.line).then_some(*index)
    }

    fn accepts(&self, section: usize, entry: &parse::Entry) -> bool {
        let key = self.key(section, self.source.slice(&entry.key)).map(|(_, key)| key);
        let value = entry.value.as_ref().map(|(value, _)| value);
        key.zip(value).is_some_and(|(key, value)| key.failed(value).is_empty())
    }

    fn report_swallowed(&mut self, section: usize, next: usize, entry: &parse::Entry) {
        let name = self.source.slice(&entry.key);
        let shown = shortened(name, 60);
        let list = entry.value.as_ref().filter(|_| self.accepts(section, entry));
        if let Some((_, place)) = list {
            let message = format!("the section that begins here is read as the value of `{shown}`");
            let hint = format!(
                "set a value before it; a list of one word follows `{shown} =` on its line"
            );
            self.problems.at(&place.span, message).hinted(hint);
        } else {
            self.problems.read_at(&entry.key, format!("a value is missing for `{shown}`"));
        }
        if let Some((index, _)) = self.key(section, name) {
            self.found[section].excused.insert(index);
        }
        let header = entry.value.as_ref().map(|(_, place)| place.span.clone());
        self.found[next].header = self.found[next].header.take().or(header);
    }

    /// Returns the key of the specification with its index.
    fn key(&self, section: usize, name: &str) -> Option<(usize, &'a Key)> {
        let spec = &self.spec.sections[section];
        let (_, keys) = self.known.get(&spec.name.as_deref())?;
        keys.get(name).map(|index| (*index, &spec.keys[*index]))
    }

    fn entry(&mut self, section: usize, entry: parse::Entry) {
        let Some((index, key)) = self.key(section, self.source.slice(&entry.key)) else {
            return self.unknown_key(section, &entry);
        };
        let Some((value, place)) = entry.value else {
            self.found[section].excused.insert(index);
            return;
        };
        let value = match self.resolved(key, value) {
            Ok(value) => value,
            Err(reason) => {
                self.problems.at(&place.span, format!("`{}`: {reason}", key.name));
                self.found[section].excused.insert(index);
                return;
            }
        };
        for invalid in key.failed(&value) {
            let problem = self.problems.at(place.inner(&invalid.path), about(key, &invalid));
            problem.hinted(if key.is_secret { String::new() } else { invalid.hint });
        }
        self.found[section].values.insert(index, key.entry(Some(value), Some(place)));
    }

    /// Returns the value, or the content of the file to which the value of a secret key refers.
    fn resolved(&mut self, key: &Key, value: Value) -> Result<Value, String> {
        match Some(&value).filter(|_| key.is_secret).and_then(secret::external) {
            None => Ok(value),
            Some(found) => {
                let External { value, path, bytes } = found?;
                self.secrets.push((path, bytes));
                Ok(value)
            }
        }
    }

    fn unknown_key(&mut self, section: usize, entry: &parse::Entry) {
        if self.problems.is_full() {
            self.problems.general("");
            return;
        }
        let text = self.source.slice(&entry.key);
        let spec = &self.spec.sections[section];
        let elsewhere = self.known.iter().find_map(|(name, (index, keys))| {
            keys.get(text).filter(|_| *index != section).map(|key| (*name, *index, *key))
        });
        let names: Vec<&str> = spec.keys.iter().map(|key| key.name.as_str()).collect();
        let near = nearest(text, names.iter().copied());
        let meant = near.and_then(|near| names.iter().position(|name| *name == near));
        if let Some((_, section, key)) = elsewhere {
            self.found[section].excused.insert(key);
        } else if let Some(index) = meant {
            self.found[section].excused.insert(index);
        }
        if !entry.set {
            return;
        }
        let place = match &spec.name {
            Some(name) => format!(" in section `{name}`"),
            None => String::new(),
        };
        let message = format!("unknown key `{}`{place}", shortened(text, 60));
        match (elsewhere, near) {
            (None, Some(near)) => {
                self.problems.read_at(&entry.key, format!("{message}; is it `{near}`?"));
            }
            (Some((Some(name), ..)), _) => {
                self.problems
                    .read_at(&entry.key, message)
                    .hinted(format!("it belongs to [{name}]"));
            }
            (Some((None, ..)), _) => {
                let hint = "it is a global key, which has to stand before the first [section]";
                self.problems.read_at(&entry.key, message).hinted(hint);
            }
            (None, None) => {
                self.problems.read_at(&entry.key, message).hinted(listed("keys", &names));
            }
        }
    }

    /// Fills in the defaults, and reports missing keys.
    fn complete(&mut self) -> Vec<Values> {
        let found = std::mem::take(&mut self.found);
        let mut sections = Vec::new();
        for (spec, mut found) in self.spec.sections.iter().zip(found) {
            let (mut entries, mut missing) = (Vec::new(), Vec::new());
            for (index, key) in spec.keys.iter().enumerate() {
                if let Some(entry) = found.values.remove(&index) {
                    entries.push(entry);
                } else if found.excused.contains(&index) {
                    // The error was already reported.
                } else if key.default.is_some() || key.optional {
                    let value = self.default(key);
                    entries.push(key.entry(value, None));
                } else {
                    missing.push(key.name.as_str());
                }
            }
            self.report_missing(spec, found.header.as_ref(), &missing);
            sections.push(Values { name: spec.name.clone(), entries });
        }
        sections
    }

    /// Returns the default of a key, and reports a wrong one.
    fn default(&mut self, key: &Key) -> Option<Value> {
        let value = self.resolved(key, key.default.clone()?);
        let messages = match &value {
            Ok(value) => key.failed(value).iter().map(|invalid| about(key, invalid)).collect(),
            Err(reason) => vec![format!("`{}`: {reason}", key.name)],
        };
        for message in messages {
            let hint = format!("set {} in the file", key.name);
            self.problems.general(format!("the default of {message}")).hinted(hint);
        }
        value.ok()
    }

    fn report_missing(&mut self, spec: &SectionSpec, header: Option<&Span>, missing: &[&str]) {
        if self.lost || missing.is_empty() {
            return;
        }
        let all = missing.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let start = Span { bytes: 0..0, line: 1 };
        match (&spec.name, header) {
            (None, _) => {
                for name in missing {
                    let hint = format!("add `{name} = ...` before the first [section]");
                    let message = format!("the required key `{name}` is missing");
                    self.problems.about(&start, message).hinted(hint);
                }
            }
            (Some(section), Some(header)) => {
                for name in missing {
                    let message =
                        format!("the required key `{name}` is missing in section `{section}`");
                    self.problems.at(header, message);
                }
            }
            (Some(section), None) => {
                let message = format!("the section `{section}` with the required {all} is missing");
                self.problems.about(&self.source.end(), message);
            }
        }
    }
}

/// Reports duplicate sections, and duplicate keys in a section.
fn report_duplicates(sections: &[parse::Section], source: &Source, problems: &mut Problems<'_>) {
    let headers = sections.iter().filter_map(|section| section.name.as_ref());
    report_duplicate("section", headers, source, problems);
    for section in sections {
        let keys = section.entries.iter().filter(|entry| entry.set).map(|entry| &entry.key);
        report_duplicate("key", keys, source, problems);
    }
}

fn report_duplicate<'a>(
    kind: &str,
    names: impl Iterator<Item = &'a Span>,
    source: &Source,
    problems: &mut Problems<'_>,
) {
    let mut known: HashMap<&str, &Span> = HashMap::new();
    for name in names {
        let text = source.slice(name);
        match known.get(text) {
            // Only counted: searching for the first occurrence would be wasted.
            Some(_) if problems.is_full() => {
                problems.general("");
            }
            Some(first) => {
                let (shown, first) = (shortened(text, 60), source.reference(first));
                let message = format!("the {kind} `{shown}` comes twice; the first is at {first}");
                problems.read_at(name, message);
            }
            None => {
                known.insert(text, name);
            }
        }
    }
}

fn about(key: &Key, invalid: &Invalid) -> String {
    let message = if key.is_secret { &invalid.discreet } else { &invalid.message };
    format!("`{}`: {message}", key.name)
}

fn listed(what: &str, names: &[&str]) -> String {
    match names.len() {
        0 => format!("there are no {what} here"),
        1..=LISTED => format!("the {what} here are {}", names.join(", ")),
        _ => String::new(),
    }
}
