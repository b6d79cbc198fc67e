//! Checks a file against its specification.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::entry::{Entry, Values};
use super::error::{Errors, Problem, Problems};
use super::include::FailedInclude;
use super::parse::{self, parse};
use super::printable::shortened;
use super::secret::{self, External};
use super::source::{Place, SourceText, Span};
use super::spec::{Key, SectionSpec, Spec, key};
use super::suggest::nearest;
use super::validation::{Invalid, Validation};
use super::value::Value;

/// Maximum length of the name of a key that the specification does not name.
const LONGEST_NAME: usize = 255;

/// Maximum number of known names listed when none is near.
const LISTED: usize = 10;

/// The content of a configuration without errors.
pub(super) struct Checked {
    pub(super) sections: Vec<Values>,
    /// The files that hold secrets, with their content.
    pub(super) secrets: Vec<(PathBuf, Vec<u8>)>,
    pub(super) warnings: Vec<Problem>,
}

/// Returns the content of the configuration in the text, or every error in it.
pub(super) fn check(
    source: &SourceText,
    spec: &Spec,
    failures: &[FailedInclude],
) -> Result<Checked, Errors> {
    let (written, mut problems) = parse(source);
    report_duplicates(&written, spec.include.as_deref(), source, &mut problems);
    for (span, message) in failures {
        problems.at(span, message.as_str());
    }
    for mistake in spec.mistakes() {
        problems.general(format!("a mistake of the program, not of the file: {mistake}"));
    }
    let mut check = Checker::new(source, spec, problems);
    for section in written {
        check.section(section);
    }
    let sections = check.complete();
    let secrets = check.secrets;
    let warnings = check.problems.result()?;
    spec.fits.iter().try_for_each(|fits| fits(&sections, source))?;
    Ok(Checked { sections, secrets, warnings })
}

struct Checker<'a> {
    source: &'a SourceText,
    spec: &'a Spec,
    problems: Problems<'a>,
    /// The sections of the specification, each with its keys, by name.
    known: HashMap<Option<&'a str>, (usize, HashMap<&'a str, usize>)>,
    /// The content of the file: the sections of the specification, then those with labels.
    found: Vec<FoundSection>,
    /// The sections with labels, by their number in the specification.
    labelled: HashMap<(usize, String), usize>,
    /// A section name could not be read: no section is known to be missing.
    lost: bool,
    secrets: Vec<(PathBuf, Vec<u8>)>,
}

/// The content of a section in the file.
#[derive(Default)]
struct FoundSection {
    /// The number of the section in the specification.
    spec: usize,
    label: Option<String>,
    header: Option<Span>,
    values: HashMap<usize, Entry>,
    /// The keys that the specification does not name, in the order of the file.
    others: Vec<Entry>,
    /// The names by which keys are set.
    names: HashMap<usize, Span>,
    /// Wrong, misspelt or misplaced keys: already reported, so they are not missing.
    excused: HashSet<usize>,
}

impl<'a> Checker<'a> {
    fn new(source: &'a SourceText, spec: &'a Spec, problems: Problems<'a>) -> Self {
        let keys = |section: &'a SectionSpec| {
            let keys = section.keys.iter().enumerate();
            keys.flat_map(|(index, key)| key.names().map(move |name| (name, index))).collect()
        };
        let sections = spec.sections.iter().enumerate();
        let known = sections.map(|(index, known)| (known.name.as_deref(), (index, keys(known))));
        let found =
            (0..spec.sections.len()).map(|spec| FoundSection { spec, ..FoundSection::default() });
        let found = found.collect();
        Self {
            source,
            spec,
            problems,
            known: known.collect(),
            found,
            labelled: HashMap::new(),
            lost: false,
            secrets: Vec::new(),
        }
    }

    fn section(&mut self, section: parse::ParsedSection) {
        let name = section.name.as_ref().map(|span| self.source.slice(span));
        let known = self.known.get(&name).map(|(index, _)| *index);
        if section.lost && (name.is_none() || known.is_none()) {
            self.lost = true;
            return;
        }
        let Some(mut index) = known.or_else(|| self.unknown_section(section.name.as_ref()?)) else {
            return;
        };
        index = self.labelled(index, &section);
        if let Some(header) = section.name {
            self.found[index].header.get_or_insert(header);
        }
        for entry in section.entries {
            let name = self.source.slice(&entry.key);
            if index == 0 && self.spec.include.as_deref() == Some(name) {
                continue;
            }
            match self.swallowed_header(&entry) {
                Some(section) => {
                    self.report_swallowed(index, section, &entry);
                    index = section;
                }
                None => self.entry(index, entry),
            }
        }
    }

    /// Returns the section with the label of the header, and reports a missing or unexpected label.
    fn labelled(&mut self, spec: usize, section: &parse::ParsedSection) -> usize {
        let Some(header) = &section.name else { return spec };
        let name = shortened(self.source.slice(header), 60);
        match (self.spec.sections[spec].is_labelled, &section.label) {
            (false, None) => spec,
            (false, Some(_)) => {
                let hint = format!("it is written [{name}]");
                let message = format!("the section `{name}` has no label");
                self.problems.read_at(header, message).hinted(hint);
                spec
            }
            (true, Some(label)) if !label.is_empty() => {
                let (next, found) = (self.found.len(), &mut self.found);
                *self.labelled.entry((spec, label.clone())).or_insert_with(|| {
                    found.push(FoundSection {
                        spec,
                        label: Some(label.clone()),
                        ..FoundSection::default()
                    });
                    next
                })
            }
            (true, _) => {
                // A header that is wrong has been reported.
                if !section.lost {
                    let hint = format!("it is written [{name} \"label\"]");
                    let message = format!("the section `{name}` needs a label");
                    self.problems.read_at(header, message).hinted(hint);
                }
                spec
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
    fn swallowed_header(&self, entry: &parse::ParsedEntry) -> Option<usize> {
        let (Value::List(items), place) = entry.value.as_ref()? else { return None };
        let [Value::Keyword(name)] = items.as_slice() else { return None };
        let (index, _) = self.known.get(&Some(name.as_str()))?;
        (place.span.line != entry.key.line).then_some(*index)
    }

    fn accepts(&self, section: usize, entry: &parse::ParsedEntry) -> bool {
        let key = self.key(section, self.source.slice(&entry.key)).map(|(_, key)| key);
        let value = entry.value.as_ref().map(|(value, _)| value);
        key.zip(value).is_some_and(|(key, value)| key.failed(value).is_empty())
    }

    fn report_swallowed(&mut self, section: usize, next: usize, entry: &parse::ParsedEntry) {
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

    fn spec_of(&self, section: usize) -> &'a SectionSpec {
        &self.spec.sections[self.found[section].spec]
    }

    /// Returns the key of the specification with its index.
    fn key(&self, section: usize, name: &str) -> Option<(usize, &'a Key)> {
        let spec = self.spec_of(section);
        let (_, keys) = self.known.get(&spec.name.as_deref())?;
        keys.get(name).map(|index| (*index, &spec.keys[*index]))
    }

    fn entry(&mut self, section: usize, entry: parse::ParsedEntry) {
        let Some((index, key)) = self.key(section, self.source.slice(&entry.key)) else {
            return match &self.spec_of(section).others {
                Some(values) => self.other(section, values, entry),
                None => self.unknown_key(section, &entry),
            };
        };
        self.name(section, index, &entry.key);
        let Some((value, place)) = entry.value else {
            self.found[section].excused.insert(index);
            return;
        };
        self.warn_of_variables(key, &value, &place);
        let value = match self.resolved(key, value) {
            Ok(value) => value,
            Err(reason) => {
                self.problems.at(&place.span, format!("`{}`: {reason}", key.name));
                self.found[section].excused.insert(index);
                return;
            }
        };
        self.test(key, &value, &place);
        self.found[section].values.insert(index, key.entry(Some(value), Some(place)));
    }

    fn test(&mut self, key: &Key, value: &Value, place: &Place) {
        for invalid in key.failed(value) {
            let problem = self.problems.at(place.inner(&invalid.path), about(key, &invalid));
            problem.hinted(if key.is_secret { String::new() } else { invalid.hint });
        }
    }

    /// Adds a key that the specification does not name.
    fn other(&mut self, section: usize, values: &Validation, entry: parse::ParsedEntry) {
        let Some((value, place)) = entry.value else { return };
        let name = self.source.slice(&entry.key);
        if name.len() > LONGEST_NAME {
            let message = format!("the name of a key is at most {LONGEST_NAME} bytes long");
            self.problems.at(&entry.key, message);
            return;
        }
        let key = key(name).check(values.clone());
        self.warn_of_variables(&key, &value, &place);
        self.test(&key, &value, &place);
        self.found[section].others.push(key.entry(Some(value), Some(place)));
    }

    /// Examines the name by which a key is set.
    fn name(&mut self, section: usize, index: usize, name: &Span) {
        let (present, text) = (&self.spec_of(section).keys[index].name, self.source.slice(name));
        let first = self.found[section].names.entry(index).or_insert_with(|| name.clone());
        if self.source.slice(first) != text {
            let first = self.source.reference(first);
            let message = format!("`{text}` is another name of the key that is set at {first}");
            self.problems.read_at(name, message);
        } else if present != text {
            let message = format!("the key `{text}` is now called `{present}`");
            self.problems.warn(name, message, "");
        }
    }

    /// Warns of quoted text in which a shell would replace variables.
    fn warn_of_variables(&mut self, key: &Key, value: &Value, place: &Place) {
        if let Value::List(items) = value {
            for (item, place) in items.iter().zip(&place.items) {
                self.warn_of_variables(key, item, place);
            }
        }
        let Some(variable) = variable(self.source.slice(&place.span)) else { return };
        if value.as_bytes().is_none() && value.as_address().is_none() {
            return;
        }
        let name = &key.name;
        match key.is_secret {
            true => {
                let message = format!("`{name}` contains ${{...}}, which is part of the secret");
                let hint = "the file may name another one that holds the secret, file:/like/this";
                self.problems.warn(&place.span, message, hint);
            }
            false => {
                let message = format!("`{name}` contains {variable}, which is not replaced");
                let hint = "to mean this text, write the dollar sign as \\x24";
                self.problems.warn(&place.span, message, hint);
            }
        }
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

    fn unknown_key(&mut self, section: usize, entry: &parse::ParsedEntry) {
        if self.problems.is_full() {
            self.problems.general("");
            return;
        }
        let text = self.source.slice(&entry.key);
        let (spec, number) = (self.spec_of(section), self.found[section].spec);
        let elsewhere = self.known.iter().find_map(|(name, (index, keys))| {
            keys.get(text).filter(|_| *index != number).map(|key| (*name, *index, *key))
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
        let mut by_spec: Vec<Vec<FoundSection>> =
            self.spec.sections.iter().map(|_| Vec::new()).collect();
        for found in std::mem::take(&mut self.found) {
            by_spec[found.spec].push(found);
        }
        let mut sections = Vec::new();
        for (spec, found) in self.spec.sections.iter().zip(by_spec) {
            for found in found {
                sections.push(self.values(spec, found));
            }
        }
        sections
    }

    fn values(&mut self, spec: &SectionSpec, mut found: FoundSection) -> Values {
        let (name, is_labelled, label) = (spec.name.clone(), spec.is_labelled, found.label.take());
        if is_labelled && label.is_none() {
            return Values { name, is_labelled, label, entries: Vec::new() };
        }
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
        entries.append(&mut found.others);
        Values { name, is_labelled, label, entries }
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
        match (&spec.name, header) {
            (None, _) => {
                for name in missing {
                    let hint = format!("add `{name} = ...` before the first [section]");
                    let message = format!("the required key `{name}` is missing");
                    self.problems.about(&Span::START, message).hinted(hint);
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

/// Reports sections that a file repeats, and keys that are set twice. The key that includes files may
/// be repeated.
fn report_duplicates(
    sections: &[parse::ParsedSection],
    include: Option<&str>,
    source: &SourceText,
    problems: &mut Problems<'_>,
) {
    let headers = sections.iter().filter_map(|section| {
        let name = section.name.as_ref()?;
        Some(((source.file(name), section.label.as_deref()), name))
    });
    report_duplicate("section", headers, source, problems);
    let (mut by_name, mut seen) = (HashMap::new(), HashSet::new());
    let keys = sections.iter().enumerate().flat_map(|(index, section)| {
        let name = section.name.as_ref().map(|name| source.slice(name));
        let file = section.name.as_ref().map(|name| source.file(name));
        // A section that its file repeats is one error already.
        let is_repeated = file.is_some() && !seen.insert((file, name, &section.label));
        let number = if is_repeated {
            index
        } else {
            *by_name.entry((name, &section.label)).or_insert(index)
        };
        let set = section.entries.iter().filter(move |entry| {
            let includes = name.is_none() && include == Some(source.slice(&entry.key));
            entry.set && !includes
        });
        set.map(move |entry| ((number, None), &entry.key))
    });
    report_duplicate("key", keys, source, problems);
}

/// Reports the names that come twice in a scope: a number and a label.
fn report_duplicate<'a>(
    kind: &str,
    names: impl Iterator<Item = ((usize, Option<&'a str>), &'a Span)>,
    source: &SourceText,
    problems: &mut Problems<'_>,
) {
    let mut known: HashMap<_, &Span> = HashMap::new();
    for (scope, name) in names {
        let text = source.slice(name);
        match known.get(&(scope, text)) {
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
                known.insert((scope, text), name);
            }
        }
    }
}

fn about(key: &Key, invalid: &Invalid) -> String {
    let message = if key.is_secret { &invalid.discreet } else { &invalid.message };
    format!("`{}`: {message}", key.name)
}

/// Returns the first `${NAME}` in a text.
fn variable(text: &str) -> Option<&str> {
    text.match_indices("${").find_map(|(start, _)| {
        let end = start + text[start..].find('}')?;
        let name = &text[start + 2..end];
        let is_name = |character: char| character.is_ascii_uppercase() || character == '_';
        let is_rest = |character: char| is_name(character) || character.is_ascii_digit();
        let sound = name.starts_with(is_name) && name.len() <= 64 && name.chars().all(is_rest);
        sound.then(|| &text[start..=end])
    })
}

fn listed(what: &str, names: &[&str]) -> String {
    match names.len() {
        0 => format!("there are no {what} here"),
        1..=LISTED => format!("the {what} here are {}", names.join(", ")),
        _ => String::new(),
    }
}
