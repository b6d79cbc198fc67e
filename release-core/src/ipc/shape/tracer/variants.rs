//! Which variant is made next, so that all of them are, and an end is found.

use std::collections::HashSet;

use super::{Exploration, INSIDE_ITSELF, Progress, Stop, Tracer};
use crate::ipc::shape::{Body, Field, Kind};

impl Tracer {
    /// Which variant of an enum is made next.
    pub(in crate::ipc::shape) fn choose(
        &mut self,
        index: usize,
        count: usize,
    ) -> Result<usize, Stop> {
        if count == 0 {
            return Err(Stop::Never);
        }
        let explored = self.explored.entry(index).or_insert_with(|| Exploration {
            progress: vec![Progress::New; count],
            exhausted: HashSet::new(),
        });
        let first = |wanted| explored.progress.iter().position(|one| *one == wanted);
        let (new, begun) = (first(Progress::New), first(Progress::Begun));
        let has_value = explored.progress.contains(&Progress::Done);
        let may_explore = !self.is_inside_itself(INSIDE_ITSELF);
        if let Some(variant) = new.filter(|_| may_explore || !has_value) {
            if let Some(explored) = self.explored.get_mut(&index) {
                explored.progress[variant] = Progress::Begun;
            }
            self.run.has_news = true;
            return Ok(variant);
        }
        if may_explore && let Some(variant) = (0..count).find(|one| self.leads_on(index, *one)) {
            self.run.detours.push((index, variant));
            return Ok(variant);
        }
        let smallest = (0..count).filter(|one| self.is_done(index, *one)).min_by_key(|variant| {
            let mut seen = HashSet::new();
            (self.contains_itself(index, *variant, &mut seen), *variant)
        });
        smallest.or(begun).ok_or_else(|| {
            self.run.last = None;
            Stop::Invalid("it takes none of the samples".to_owned())
        })
    }

    fn is_done(&self, index: usize, variant: usize) -> bool {
        self.explored.get(&index).is_some_and(|one| one.progress[variant] == Progress::Done)
    }

    /// The types of a variant's fields, or of a struct's.
    fn contents(&self, index: usize, variant: Option<usize>) -> Vec<usize> {
        let mut found = Vec::new();
        let mut look = |fields: &[Field]| {
            fields.iter().for_each(|field| named_in(&field.kind, &mut found));
        };
        match (&self.types[index].body, variant) {
            (Body::Struct(fields), _) => look(fields),
            (Body::Enum(all), Some(one)) => look(all[one].fields.as_deref().unwrap_or_default()),
            (Body::Enum(all), None) => {
                all.iter().for_each(|one| look(one.fields.as_deref().unwrap_or_default()));
            }
        }
        found
    }

    /// All types inside of a variant.
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

    /// Whether a variant has an enum in it of which not all has been seen.
    fn leads_on(&self, index: usize, variant: usize) -> bool {
        let is_over = |one: &Exploration| {
            one.exhausted.contains(&variant) || one.progress[variant] == Progress::Failed
        };
        if self.explored.get(&index).is_none_or(is_over) {
            return false;
        }
        let mut seen = HashSet::new();
        self.all_contents(index, variant, &mut seen);
        seen.iter().any(|one| match &self.types[*one].body {
            Body::Struct(_) => false,
            Body::Enum(variants) => self
                .explored
                .get(one)
                .map_or(!variants.is_empty(), |one| one.progress.contains(&Progress::New)),
        })
    }
}

fn named_in(kind: &Kind, found: &mut Vec<usize>) {
    match kind {
        Kind::Unknown | Kind::Plain(_) => {}
        Kind::Option(inner) | Kind::Sequence(inner) | Kind::Array(_, inner) => {
            named_in(inner, found);
        }
        Kind::Map(inner) => {
            named_in(&inner.0, found);
            named_in(&inner.1, found);
        }
        Kind::Tuple(parts) => parts.iter().for_each(|part| named_in(part, found)),
        Kind::Named(index) => found.push(*index),
    }
}
