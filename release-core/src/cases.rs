//! Number of cases of a property test.

use proptest::prelude::ProptestConfig;

/// Sets the number of cases: `long` if `RELEASE_HISTORIES` requests long runs, as in CI, and a
/// quarter of it otherwise.
pub(crate) fn cases(long: u32) -> ProptestConfig {
    let is_long = std::env::var_os("RELEASE_HISTORIES").is_some();
    ProptestConfig {
        cases: if is_long { long } else { long / 4 },
        // In milliseconds: a case that fails by a deadline may take as long again with each
        // attempt.
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    }
}
