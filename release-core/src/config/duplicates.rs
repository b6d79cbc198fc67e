//! Reports duplicate names in a file, with both positions.

use std::collections::HashMap;

use super::error::Problems;
use super::parse::Section;
use super::printable::shortened;
use super::source::{Source, Span};

/// Reports duplicate sections, and duplicate keys in a section.
pub(super) fn report(sections: &[Section], source: &Source, problems: &mut Problems<'_>) {
    let headers = sections.iter().filter_map(|section| section.name.as_ref());
    of_kind("section", headers, source, problems);
    for section in sections {
        let keys = section.entries.iter().filter(|entry| entry.set).map(|entry| &entry.key);
        of_kind("key", keys, source, problems);
    }
}

fn of_kind<'a>(
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
                problems.at(name, message);
            }
            None => {
                known.insert(text, name);
            }
        }
    }
}
