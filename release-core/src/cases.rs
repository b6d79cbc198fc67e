//! With how many cases a property is tried.

use proptest::prelude::ProptestConfig;

/// So many where `RELEASE_HISTORIES` asks for long runs, as CI does, and a quarter of them for somebody who
/// waits.
pub(crate) fn cases(long: u32) -> ProptestConfig {
    let is_long = std::env::var_os("RELEASE_HISTORIES").is_some();
    ProptestConfig {
        cases: if is_long { long } else { long / 4 },
        // In milliseconds: a case that fails by a deadline may take as long again with each attempt.
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    }
}
