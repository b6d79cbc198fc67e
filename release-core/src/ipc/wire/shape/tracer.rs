//! The state of tracing: the known types, the current value, and the choice of the next variant.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Serialize;

use super::{Field, NamedType, Shape, TypeBody, ValueKind, Variant};
use crate::ipc::wire::format::{CodecError, Depth, NO_KINDS};

/// Maximum number of parts in all values. An endlessly nested type must not prevent the start of a
/// process.
const PARTS: usize = 200_000;

/// Maximum number of times that a type contains itself. Then its smallest variant is chosen.
const INSIDE_ITSELF: usize = 4;

/// The reason why a value could not be made.
#[derive(Debug)]
pub(super) enum TraceError {
    /// The type refuses a sample.
    Invalid(String),
    /// Formats without names and kinds do not support the type.
    NotCarried,
    /// The type does not write the parts that it reads.
    Unwritten(String),
    /// The type has no values.
    Never,
    /// The type has too many parts.
    TooLarge,
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid(why) | Self::Unwritten(why) => why,
            Self::NotCarried => NO_KINDS,
            Self::Never => "there are no values of it",
            Self::TooLarge => "it has too many parts",
        })
    }
}

impl std::error::Error for TraceError {}

impl serde::de::Error for TraceError {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self::Invalid(why.to_string())
    }
}

/// The kind of values that are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SamplePlan {
    /// With all optional parts. They determine the shape.
    Full,
    /// Without optional parts.
    Hollow,
    /// Without optional parts and with zeros, which a type may treat as missing.
    Zero,
}

/// The position of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Spot {
    /// The type, the variant and the field.
    owner: Option<(usize, usize, usize)>,
    /// Number of earlier samples of this field.
    nth: usize,
}

/// The identity of a type: its visitor, its name, and the names of its fields or variants.
type TypeKey = (&'static str, &'static str, &'static [&'static str]);

/// The progress with a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VariantProgress {
    New,
    Begun,
    /// A value has been made.
    Done,
    /// It refuses all samples.
    Failed,
}

/// The progress with the variants of an enum.
#[derive(Debug)]
struct Exploration {
    progress: Vec<VariantProgress>,
    /// Variants that lead to no further unseen variants.
    exhausted: HashSet<usize>,
}

#[derive(Debug)]
pub(super) struct Tracer {
    types: Vec<NamedType>,
    known: HashMap<TypeKey, usize>,
    explored: HashMap<usize, Exploration>,
    plan: SamplePlan,
    depth: Depth,
    /// Number of further parts that may be read.
    parts: usize,
    gap: Option<String>,
    /// The current candidate at each position, and the positions where all were refused.
    samples: HashMap<Spot, usize>,
    spent: HashSet<Spot>,
    run: Run,
}

/// The state of one value.
#[derive(Debug, Default)]
struct Run {
    /// The bytes of its samples.
    given: Vec<u8>,
    spot: Spot,
    /// The types and variants that are being read, outermost first.
    inside: Vec<(usize, usize)>,
    /// The types and variants of the first error.
    failed: Option<Vec<(usize, usize)>>,
    /// The position of the last sample, and the number of its candidates.
    last: Option<(Spot, usize)>,
    has_news: bool,
    /// Variants that were chosen because they lead to unseen variants.
    detours: Vec<(usize, usize)>,
}

impl Tracer {
    pub(super) fn new() -> Self {
        Self {
            types: Vec::new(),
            known: HashMap::new(),
            explored: HashMap::new(),
            plan: SamplePlan::Full,
            depth: Depth::new(),
            parts: PARTS,
            gap: None,
            samples: HashMap::new(),
            spent: HashSet::new(),
            run: Run::default(),
        }
    }

    /// Starts with values of another kind.
    pub(super) fn begin(&mut self, plan: SamplePlan) {
        self.plan = plan;
        self.explored.clear();
    }

    pub(super) fn begin_value(&mut self) {
        self.run = Run::default();
    }

    /// Returns the bytes of the samples of the value.
    pub(super) fn given(&self) -> &[u8] {
        &self.run.given
    }

    /// Returns the shape of a type of this kind.
    pub(super) fn finish(mut self, mut root: ValueKind) -> Shape {
        root.in_short();
        self.fields().for_each(|field| field.kind.in_short());
        Shape { root, types: self.types, gap: self.gap }
    }

    /// Returns true if another value may show more of the type.
    pub(super) fn wants_another_value(
        &mut self,
        outcome: Result<(), TraceError>,
        name: &str,
    ) -> Result<bool, CodecError> {
        let refused = |stop: TraceError| CodecError::new(format_args!("`{name}`: {stop}"));
        match outcome {
            Ok(()) | Err(TraceError::Never) => {}
            Err(stop @ (TraceError::NotCarried | TraceError::Unwritten(_))) => {
                return Err(refused(stop));
            }
            Err(stop @ TraceError::TooLarge) => {
                self.leave_a_gap(&stop);
                return Ok(false);
            }
            Err(stop) if !self.try_next_candidate() => {
                self.leave_a_gap(&stop);
                return Ok(self.give_up_a_variant());
            }
            Err(_) => return Ok(true),
        }
        if self.run.has_news {
            return Ok(true);
        }
        let detours = std::mem::take(&mut self.run.detours);
        for (index, variant) in &detours {
            if let Some(explored) = self.explored.get_mut(index) {
                explored.exhausted.insert(*variant);
            }
        }
        Ok(!detours.is_empty())
    }

    fn leave_a_gap(&mut self, stop: &TraceError) {
        if self.plan == SamplePlan::Full && self.gap.is_none() {
            let place = self.run.failed.as_ref().and_then(|inside| inside.last());
            let place = place.map(|(index, variant)| match &self.types[*index] {
                NamedType { name, body: TypeBody::Enum(variants) } => {
                    format!("`{name}::{}`: ", variants[*variant].name)
                }
                NamedType { name, .. } => format!("`{name}`: "),
            });
            self.gap = Some(format!("{}{stop}", place.unwrap_or_default()));
        }
    }

    /// Selects the next candidate in place of a refused sample, if there is one.
    fn try_next_candidate(&mut self) -> bool {
        let last = self.run.last.filter(|(spot, _)| !self.spent.contains(spot));
        let Some((spot, candidates)) = last.filter(|_| self.plan == SamplePlan::Full) else {
            return false;
        };
        let candidate = self.samples.entry(spot).or_default();
        *candidate += 1;
        let is_left = *candidate < candidates;
        if is_left {
            self.reset(None);
        } else {
            self.samples.remove(&spot);
            self.spent.insert(spot);
        }
        is_left
    }

    /// Gives up the innermost variant of the refused sample.
    fn give_up_a_variant(&mut self) -> bool {
        let inside = self.run.failed.take().unwrap_or_default();
        let is_enum = |(index, _): &&(usize, usize)| self.explored.contains_key(index);
        let Some(&(index, variant)) = inside.iter().rev().find(is_enum) else {
            return false;
        };
        self.reset(Some((index, variant)));
        true
    }

    /// Resets the variants of an unfinished value, except the failed one.
    fn reset(&mut self, failed: Option<(usize, usize)>) {
        for (index, explored) in &mut self.explored {
            for (variant, progress) in explored.progress.iter_mut().enumerate() {
                if failed == Some((*index, variant)) {
                    *progress = VariantProgress::Failed;
                } else if *progress == VariantProgress::Begun {
                    *progress = VariantProgress::New;
                }
            }
        }
    }

    /// Counts a part that is read.
    pub(super) fn part(&mut self) -> Result<(), TraceError> {
        self.parts = self.parts.checked_sub(1).ok_or(TraceError::TooLarge)?;
        self.depth.check().map_err(|_| TraceError::TooLarge)
    }

    /// Adds the bytes of a sample.
    pub(super) fn give<T: Serialize>(&mut self, value: &T) {
        let given = postcard::to_extend(value, std::mem::take(&mut self.run.given));
        self.run.given = given.unwrap_or_default();
    }

    /// Returns the current candidate, which is the first one until it is refused.
    pub(super) fn sample<T: Copy + Serialize>(&mut self, zero: T, candidates: &[T]) -> T {
        let spot = self.run.spot;
        self.run.spot.nth += 1;
        self.run.last = Some((spot, candidates.len()));
        let candidate = self.samples.get(&spot).and_then(|number| candidates.get(*number));
        let sample = match (self.plan, candidate) {
            (SamplePlan::Zero, None) => zero,
            (_, candidate) => candidate.or_else(|| candidates.first()).copied().unwrap_or(zero),
        };
        self.give(&sample);
        sample
    }

    /// Returns true if an optional part should be there.
    pub(super) fn is_there(&self) -> bool {
        self.plan == SamplePlan::Full && !self.is_inside_itself(1)
    }

    /// Returns true if a type that is being read contains itself at least `times` times.
    fn is_inside_itself(&self, times: usize) -> bool {
        let inside = &self.run.inside;
        let count = |index| inside.iter().filter(|(one, _)| *one == index).count();
        inside.iter().any(|(index, _)| count(*index) > times)
    }

    /// Returns the index of a type, and adds it if it is new.
    pub(super) fn define(&mut self, key: TypeKey, body: impl FnOnce() -> TypeBody) -> usize {
        let types = &mut self.types;
        *self.known.entry(key).or_insert_with(|| {
            types.push(NamedType { name: Cow::Borrowed(key.1), body: body() });
            types.len() - 1
        })
    }

    /// Reads the contents of a type or variant.
    pub(super) fn inside<T>(
        &mut self,
        index: usize,
        variant: usize,
        read: impl FnOnce(&mut Self) -> Result<T, TraceError>,
    ) -> Result<T, TraceError> {
        self.run.inside.push((index, variant));
        let outcome = read(self);
        if outcome.is_err() && self.run.failed.is_none() {
            self.run.failed = Some(self.run.inside.clone());
        }
        self.run.inside.pop();
        if let Some(explored) = self.explored.get_mut(&index)
            && matches!(outcome, Ok(_) | Err(TraceError::Never))
        {
            explored.progress[variant] = VariantProgress::Done;
        }
        outcome
    }

    /// Reads a field of a type, and stores its kind.
    pub(super) fn field<T>(
        &mut self,
        (index, variant, field): (usize, usize, usize),
        read: impl FnOnce(&mut Self, &mut ValueKind) -> Result<T, TraceError>,
    ) -> Result<T, TraceError> {
        let before = self.run.spot;
        self.run.spot = Spot { owner: Some((index, variant, field)), nth: 0 };
        let mut kind = ValueKind::Unknown;
        let outcome = read(self, &mut kind);
        self.run.spot = before;
        let known = self.slot(index, variant, field).map(std::mem::take);
        if let Some(mut known) = known {
            self.merge(&mut known, kind);
            if let Some(slot) = self.slot(index, variant, field) {
                *slot = known;
            }
        }
        outcome
    }

    fn fields(&mut self) -> impl Iterator<Item = &mut Field> {
        self.types.iter_mut().flat_map(|named| {
            let (fields, variants) = match &mut named.body {
                TypeBody::Struct(fields) => (Some(fields), None),
                TypeBody::Enum(variants) => (None, Some(variants)),
            };
            let variants = variants.into_iter().flatten();
            fields.into_iter().chain(variants.filter_map(|one| one.fields.as_mut())).flatten()
        })
    }

    fn slot(&mut self, index: usize, variant: usize, field: usize) -> Option<&mut ValueKind> {
        let fields = match &mut self.types.get_mut(index)?.body {
            TypeBody::Struct(fields) => fields,
            TypeBody::Enum(variants) => variants.get_mut(variant)?.fields.as_mut()?,
        };
        fields.get_mut(field).map(|field| &mut field.kind)
    }

    /// Merges the kind that one value has shown into the known kind.
    pub(super) fn merge(&mut self, known: &mut ValueKind, found: ValueKind) {
        match (known, found) {
            (_, ValueKind::Unknown) => {}
            (known @ ValueKind::Unknown, found) => *known = found,
            (ValueKind::Option(known), ValueKind::Option(found))
            | (ValueKind::Sequence(known), ValueKind::Sequence(found)) => self.merge(known, *found),
            (ValueKind::Map(known), ValueKind::Map(found)) => {
                self.merge(&mut known.0, found.0);
                self.merge(&mut known.1, found.1);
            }
            (ValueKind::Tuple(known), ValueKind::Tuple(found)) if known.len() == found.len() => {
                known.iter_mut().zip(found).for_each(|(known, found)| self.merge(known, found));
            }
            (known, found) if *known != found => {
                *known = ValueKind::Unknown;
                self.gap.get_or_insert_with(|| "a type is read in more than one way".to_owned());
            }
            _ => {}
        }
    }

    /// Sets the names of the fields of a variant.
    pub(super) fn set_fields(
        &mut self,
        index: usize,
        variant: usize,
        names: Vec<Cow<'static, str>>,
    ) {
        if let TypeBody::Enum(variants) = &mut self.types[index].body
            && let Some(Variant { fields: fields @ None, .. }) = variants.get_mut(variant)
        {
            *fields = Some(fields_of(names));
        }
    }

    /// Chooses the variant of an enum for this value.
    pub(super) fn choose(&mut self, index: usize, count: usize) -> Result<usize, TraceError> {
        if count == 0 {
            return Err(TraceError::Never);
        }
        let explored = self.explored.entry(index).or_insert_with(|| Exploration {
            progress: vec![VariantProgress::New; count],
            exhausted: HashSet::new(),
        });
        let first = |wanted| explored.progress.iter().position(|one| *one == wanted);
        let (new, begun) = (first(VariantProgress::New), first(VariantProgress::Begun));
        let has_value = explored.progress.contains(&VariantProgress::Done);
        let may_explore = !self.is_inside_itself(INSIDE_ITSELF);
        if let Some(variant) = new.filter(|_| may_explore || !has_value) {
            if let Some(explored) = self.explored.get_mut(&index) {
                explored.progress[variant] = VariantProgress::Begun;
            }
            self.run.has_news = true;
            return Ok(variant);
        }
        if may_explore
            && let Some(variant) = (0..count).find(|one| self.leads_to_unseen(index, *one))
        {
            self.run.detours.push((index, variant));
            return Ok(variant);
        }
        let smallest = (0..count).filter(|one| self.is_done(index, *one)).min_by_key(|variant| {
            let mut seen = HashSet::new();
            (self.contains_itself(index, *variant, &mut seen), *variant)
        });
        smallest.or(begun).ok_or_else(|| {
            self.run.last = None;
            TraceError::Invalid("it takes none of the samples".to_owned())
        })
    }

    fn is_done(&self, index: usize, variant: usize) -> bool {
        self.explored.get(&index).is_some_and(|one| one.progress[variant] == VariantProgress::Done)
    }

    /// Returns the types of the fields of a variant or a struct.
    fn contents(&self, index: usize, variant: Option<usize>) -> Vec<usize> {
        let mut found = Vec::new();
        let mut look = |fields: &[Field]| {
            fields.iter().for_each(|field| named_in(&field.kind, &mut found));
        };
        match (&self.types[index].body, variant) {
            (TypeBody::Struct(fields), _) => look(fields),
            (TypeBody::Enum(all), Some(one)) => {
                look(all[one].fields.as_deref().unwrap_or_default())
            }
            (TypeBody::Enum(all), None) => {
                all.iter().for_each(|one| look(one.fields.as_deref().unwrap_or_default()));
            }
        }
        found
    }

    /// Collects all types in a variant.
    fn all_contents(&self, index: usize, variant: usize, seen: &mut HashSet<usize>) {
        let mut ahead = self.contents(index, Some(variant));
        while let Some(next) = ahead.pop() {
            if seen.insert(next) {
                ahead.extend(self.contents(next, None));
            }
        }
    }

    fn contains_itself(&self, index: usize, variant: usize, seen: &mut HashSet<usize>) -> bool {
        self.all_contents(index, variant, seen);
        seen.contains(&index)
    }

    /// Returns true if a variant contains an enum with unseen variants.
    fn leads_to_unseen(&self, index: usize, variant: usize) -> bool {
        let is_over = |one: &Exploration| {
            one.exhausted.contains(&variant) || one.progress[variant] == VariantProgress::Failed
        };
        if self.explored.get(&index).is_none_or(is_over) {
            return false;
        }
        let mut seen = HashSet::new();
        self.all_contents(index, variant, &mut seen);
        seen.iter().any(|one| match &self.types[*one].body {
            TypeBody::Struct(_) => false,
            TypeBody::Enum(variants) => self
                .explored
                .get(one)
                .map_or(!variants.is_empty(), |one| one.progress.contains(&VariantProgress::New)),
        })
    }
}

pub(super) fn fields_of(names: Vec<Cow<'static, str>>) -> Vec<Field> {
    names.into_iter().map(|name| Field { name, kind: ValueKind::Unknown }).collect()
}

fn named_in(kind: &ValueKind, found: &mut Vec<usize>) {
    match kind {
        ValueKind::Unknown | ValueKind::Plain(_) => {}
        ValueKind::Option(inner) | ValueKind::Sequence(inner) | ValueKind::Array(_, inner) => {
            named_in(inner, found);
        }
        ValueKind::Map(inner) => {
            named_in(&inner.0, found);
            named_in(&inner.1, found);
        }
        ValueKind::Tuple(parts) => parts.iter().for_each(|part| named_in(part, found)),
        ValueKind::Named(index) => found.push(*index),
    }
}
