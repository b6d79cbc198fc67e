//! The description of the first difference between two shapes.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{Field, Shape, TypeBody, ValueKind, Variant};

/// The permitted differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// None.
    Same,
    /// An enum may have more variants at its end in the new version, which reads. The numbers of
    /// the other variants do not change.
    MoreAtTheEnd,
    /// The type itself, but no part of it, may have more variants at its end in the new version.
    MoreVariants,
}

/// The difference between two versions of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The part of a type.
    pub(crate) place: String,
    pub(crate) old: String,
    pub(crate) new: String,
    /// The kind of change, if it can be determined.
    pub(crate) how: &'static str,
}

impl Shape {
    /// Returns the first difference between an old version and this one that is not permitted.
    pub(crate) fn difference(&self, old: &Self, rule: Rule) -> Option<Difference> {
        let mut comparison = Comparison { old, new: self, rule, seen: HashSet::new() };
        comparison.kinds(&old.root, &self.root, &|| "the type".to_owned())
    }
}

struct Comparison<'a> {
    old: &'a Shape,
    new: &'a Shape,
    rule: Rule,
    /// Pairs of types that have been compared, or are being compared.
    seen: HashSet<(usize, usize)>,
}

/// The old and the new name at an index of a list, and the kind of change.
type NameChange = (usize, Option<String>, Option<String>, &'static str);

impl<'a> Comparison<'a> {
    fn kinds(
        &mut self,
        old: &'a ValueKind,
        new: &'a ValueKind,
        place: &dyn Fn() -> String,
    ) -> Option<Difference> {
        match (old, new) {
            (ValueKind::Unknown, _) | (_, ValueKind::Unknown) => None,
            (ValueKind::Option(old), ValueKind::Option(new))
            | (ValueKind::Sequence(old), ValueKind::Sequence(new)) => self.kinds(old, new, place),
            (ValueKind::Map(old), ValueKind::Map(new)) => self
                .kinds(&old.0, &new.0, &|| format!("a key of {}", place()))
                .or_else(|| self.kinds(&old.1, &new.1, &|| format!("a value of {}", place()))),
            (ValueKind::Array(was, old), ValueKind::Array(is, new)) if was == is => {
                self.kinds(old, new, place)
            }
            (old, new) if old.count().is_some() && old.count() == new.count() => {
                let mut pairs = old.parts().zip(new.parts()).enumerate();
                pairs.find_map(|(index, (old, new))| {
                    self.kinds(old, new, &|| format!("part {index} of {}", place()))
                })
            }
            (ValueKind::Named(old), ValueKind::Named(new)) => self.types(*old, *new, place),
            (old, new) if old == new => None,
            (old, new) => Some(Difference {
                place: place(),
                old: self.old.words(old),
                new: self.new.words(new),
                how: "",
            }),
        }
    }

    fn types(&mut self, old: usize, new: usize, place: &dyn Fn() -> String) -> Option<Difference> {
        // A type without contents is not known.
        let (was, is) = (self.old.types.get(old)?, self.new.types.get(new)?);
        if !self.seen.insert((old, new)) {
            return None;
        }
        let kind =
            |body: &TypeBody| if matches!(body, TypeBody::Enum(_)) { "enum" } else { "struct" };
        if was.name != is.name || kind(&was.body) != kind(&is.body) {
            return Some(Difference {
                place: place(),
                old: format!("{} `{}`", kind(&was.body), was.name),
                new: format!("{} `{}`", kind(&is.body), is.name),
                how: "",
            });
        }
        match (&was.body, &is.body) {
            (TypeBody::Enum(was), TypeBody::Enum(variants)) => {
                let is_root = self.new.root == ValueKind::Named(new);
                self.variants(&is.name, is_root, was, variants)
            }
            (TypeBody::Struct(old), TypeBody::Struct(new)) => self.fields(&is.name, old, new),
            _ => None,
        }
    }

    fn variants(
        &mut self,
        name: &str,
        is_root: bool,
        old: &'a [Variant],
        new: &'a [Variant],
    ) -> Option<Difference> {
        let names = |all: &'a [Variant]| all.iter().map(|one| &one.name).collect::<Vec<_>>();
        let change = first_change(&names(old), &names(new));
        let may_grow = match self.rule {
            Rule::Same => false,
            Rule::MoreVariants => is_root,
            Rule::MoreAtTheEnd => true,
        };
        let is_allowed = |(at, ..): &NameChange| may_grow && *at == old.len();
        if let Some(change) = change.filter(|change| !is_allowed(change)) {
            return Some(in_words(name, "variant", change));
        }
        old.iter().zip(new).find_map(|(old, new)| {
            let (was, is) = (old.fields.as_ref()?, new.fields.as_ref()?);
            self.fields(&format!("{name}::{}", new.name), was, is)
        })
    }

    fn fields(&mut self, name: &str, old: &'a [Field], new: &'a [Field]) -> Option<Difference> {
        let names = |all: &'a [Field]| all.iter().map(|one| &one.name).collect::<Vec<_>>();
        if let Some(change) = first_change(&names(old), &names(new)) {
            return Some(in_words(name, "field", change));
        }
        old.iter().zip(new).find_map(|(old, new)| {
            self.kinds(&old.kind, &new.kind, &|| format!("field `{}` of `{name}`", new.name))
        })
    }
}

/// Returns the first difference between two lists of names.
fn first_change(old: &[&Cow<'static, str>], new: &[&Cow<'static, str>]) -> Option<NameChange> {
    let at = (0..old.len().max(new.len())).find(|at| old.get(*at) != new.get(*at))?;
    let (was, is) = (old.get(at), new.get(at));
    let (is_gone, is_new) =
        (was.is_some_and(|name| !new.contains(name)), is.is_some_and(|name| !old.contains(name)));
    let how = match (is_gone, is_new) {
        (true, true) => "renamed or replaced",
        (true, false) => "removed",
        (false, true) => "added",
        (false, false) => "in another order",
    };
    Some((at, was.map(|name| format!("`{name}`")), is.map(|name| format!("`{name}`")), how))
}

fn in_words(name: &str, what: &str, (at, old, new, how): NameChange) -> Difference {
    let none = || "not there".to_owned();
    Difference {
        place: format!("{what} {at} of `{name}`"),
        old: old.unwrap_or_else(none),
        new: new.unwrap_or_else(none),
        how,
    }
}
