//! Memory that a long-lived process returns to the system.

use std::fs;
use std::ops::Range;

/// Makes the C library's allocator return large blocks to the system as soon as they are freed.
///
/// By default it keeps as much as the largest block ever allocated, up to 64 MiB: a single large
/// message would enlarge a long-lived process by that much. Programs with another allocator are not
/// affected.
pub(crate) fn keep_little_free_memory() {
    // Messages of a megabyte are still allocated without a system call.
    #[cfg(target_env = "gnu")]
    for (setting, mebibytes) in [(libc::M_MMAP_THRESHOLD, 2), (libc::M_TRIM_THRESHOLD, 4)] {
        // SAFETY: takes integers; the process has one thread.
        unsafe { libc::mallopt(setting, mebibytes << 20) };
    }
}

/// Makes the allocator return free memory between used blocks. After the last of many connections,
/// a long-lived process is as small as before the first.
pub(crate) fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer; the allocator takes its own locks.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Removes the program's own code and constants from this process's memory. Pages used again are
/// restored from the kernel's cache of the file.
///
/// Most of a program runs only while it starts, and would stay resident for years. Libraries stay:
/// other processes keep them in memory anyhow.
pub(crate) fn unload_program() {
    let (Ok(program), Ok(smaps)) =
        (fs::read_link("/proc/self/exe"), fs::read_to_string("/proc/self/smaps"))
    else {
        return;
    };
    for addresses in as_in_the_file(&smaps, &program.to_string_lossy()) {
        let begin = addresses.start as *mut libc::c_void;
        // SAFETY: the range is read-only and unmodified: the kernel reads the same bytes from the file again.
        unsafe { libc::madvise(begin, addresses.len(), libc::MADV_DONTNEED) };
    }
}

/// Returns the address ranges of a program that are read-only and contain only bytes of its file.
/// Other ranges contain data of the loader, a debugger or an unpacker.
fn as_in_the_file(smaps: &str, program: &str) -> Vec<Range<usize>> {
    let path = format!(" {program}");
    let mut found = Vec::new();
    let mut mapping = None;
    for line in smaps.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["Anonymous:" | "Swap:", kibibytes, _] if kibibytes != "0" => mapping = None,
            ["VmFlags:", ..] => found.extend(mapping.take()),
            [addresses, "r-xp" | "r--p", ..] if line.ends_with(&path) => mapping = range(addresses),
            _ => {}
        }
    }
    found
}

fn range(addresses: &str) -> Option<Range<usize>> {
    let (start, end) = addresses.split_once('-')?;
    let [start, end] = [start, end].map(|address| usize::from_str_radix(address, 16).ok());
    Some(start?..end?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_what_is_as_in_the_file_is_taken_for_that() {
        let mapping = |line: &str, anonymous: u32, swap: u32| {
            format!(
                "{line}\nSize: 8 kB\nAnonymous: {anonymous} kB\nSwap: {swap} kB\nVmFlags: rd ex\n"
            )
        };
        let smaps = [
            mapping("1000-2000 r--p 00000000 fd:00 42    /srv/a daemon", 0, 0),
            mapping("2000-4000 r-xp 00001000 fd:00 42    /srv/a daemon", 0, 0),
            // With a breakpoint, without a file, relocated, to be written to, another file's.
            mapping("4000-5000 r-xp 00001000 fd:00 42    /srv/a daemon", 4, 0),
            mapping("5000-6000 r-xp 00001000 fd:00 42    /srv/a daemon", 0, 4),
            mapping("6000-7000 r-xp 00000000 00:00 0 ", 0, 0),
            mapping("7000-8000 r--p 00005000 fd:00 42    /srv/a daemon", 4, 0),
            mapping("8000-9000 rw-p 00006000 fd:00 42    /srv/a daemon", 0, 0),
            mapping("9000-a000 r-xp 00000000 fd:00 43    /lib/libc.so.6", 0, 0),
            mapping("a000-b000 r-xp 00000000 fd:00 44    /old/srv/a daemon", 0, 0),
        ];
        assert_eq!(
            as_in_the_file(&smaps.concat(), "/srv/a daemon"),
            [0x1000..0x2000, 0x2000..0x4000]
        );
    }

    /// Returns the addresses of this program's code, and its resident size in KiB.
    fn code() -> (Range<usize>, u32) {
        let program = std::env::current_exe().unwrap().display().to_string();
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let is_code = |line: &&str| line.contains(" r-xp ") && line.ends_with(&program);
        let mut lines = smaps.lines().skip_while(|line| !is_code(line));
        let addresses = lines.next().unwrap().split_once(' ').unwrap().0;
        let resident = lines.find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix(" kB"));
        (range(addresses).unwrap(), resident.unwrap().parse().unwrap())
    }

    #[test]
    fn code_that_does_not_run_is_not_in_memory() {
        // The other tests use the program's code meanwhile, so it is examined in a separate process.
        const ALONE: &str = "RELEASE_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = format!("{}::code_that_does_not_run_is_not_in_memory", module_path!());
            let (_, name) = name.split_once("::").unwrap();
            let mut alone = Command::new(std::env::current_exe().unwrap());
            assert!(alone.args(["--exact", name]).env(ALONE, "1").status().unwrap().success());
            return;
        }
        let (addresses, _) = code();
        let begin = addresses.start as *mut libc::c_void;
        // SAFETY: only reads pages that are mapped for reading.
        unsafe { libc::madvise(begin, addresses.len(), libc::MADV_POPULATE_READ) };
        let (_, before) = code();
        unload_program();
        let (_, after) = code();
        assert!(after < before / 2, "{before} KiB before, {after} KiB after");
    }
}
