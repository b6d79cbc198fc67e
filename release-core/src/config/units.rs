//! Units of time and size, and numbers written with them.

use std::fmt;
use std::time::Duration;

/// Units of time in nanoseconds, largest first.
pub(super) const TIMES: [(&str, u64); 5] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];

/// Units of size in bytes. The first seven, from the largest, are used for output.
pub(super) const SIZES: [(&str, u64); 14] = [
    ("EiB", 1 << 60),
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("EB", 1_000_000_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("kB", 1000),
];
const WRITTEN_SIZES: usize = 7;

/// Formats in the largest unit that gives an integer; below a millisecond as a fraction of a
/// second.
pub(super) fn write_duration(f: &mut fmt::Formatter<'_>, duration: Duration) -> fmt::Result {
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return f.write_str("0s");
    }
    match TIMES.iter().find(|(_, unit)| nanoseconds.is_multiple_of((*unit).into())) {
        Some((name, unit)) => write!(f, "{}{name}", nanoseconds / u128::from(*unit)),
        None => {
            let fraction = format!("{:09}", duration.subsec_nanos());
            write!(f, "{}.{}s", duration.as_secs(), fraction.trim_end_matches('0'))
        }
    }
}

pub(super) fn write_size(f: &mut fmt::Formatter<'_>, bytes: u64) -> fmt::Result {
    match SIZES[..WRITTEN_SIZES].iter().find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit))
    {
        Some((name, unit)) => write!(f, "{}{name}", bytes / unit),
        None => write!(f, "{bytes}B"),
    }
}
