//! Suggests a known name for a misspelt one.

/// Longer names are not compared, to save time.
const LONGEST: usize = 64;

/// Returns the nearest known name, if it is near: up to a third of it may differ. Case and the two
/// kinds of dashes do not count.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > LONGEST {
        return None;
    }
    let name = folded(name);
    let near = known.filter_map(|known| {
        let distance = strsim::osa_distance(&name, &folded(known));
        let longest = known.chars().count().max(name.chars().count());
        let allowed = (longest / 3).clamp(1, 3).min(longest.saturating_sub(1));
        (distance <= allowed).then_some((distance, known))
    });
    near.min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

fn folded(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}
