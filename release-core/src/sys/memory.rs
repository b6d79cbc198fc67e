//! What a process that lives for years gives back of its memory.

use std::fs;
use std::ops::Range;

/// Has the C library's allocator give large blocks back to the system as soon as they are freed.
///
/// By default it keeps as much as the largest block that ever was, up to 64 MiB: one large message
/// would make a process that lives for years that much larger. Programs with another allocator are
/// not concerned.
pub(crate) fn keep_little_free_memory() {
    // Messages of a megabyte are still allocated without a system call.
    #[cfg(target_env = "gnu")]
    for (setting, mebibytes) in [(libc::M_MMAP_THRESHOLD, 2), (libc::M_TRIM_THRESHOLD, 4)] {
        // SAFETY: takes integers; the process has one thread.
        unsafe { libc::mallopt(setting, mebibytes << 20) };
    }
}

/// Has the allocator give back what lies free between blocks in use: after the last of many
/// connections, a process that lives for years is as small as before the first.
pub(crate) fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer; the allocator takes its own locks.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Takes the program's own code and constants out of this process's memory; what is used of them
/// again comes back from the kernel's cache of the file.
///
/// Most of a program runs only while it starts, and would be resident for years. Libraries stay:
/// other processes have them in memory anyhow.
pub(crate) fn unload_program() {
    let (Ok(program), Ok(smaps)) =
        (fs::read_link("/proc/self/exe"), fs::read_to_string("/proc/self/smaps"))
    else {
        return;
    };
    for addresses in as_in_the_file(&smaps, &program.to_string_lossy()) {
        let begin = addresses.start as *mut libc::c_void;
        // SAFETY: nobody may write there, nor has: the kernel reads the same from the file again.
        unsafe { libc::madvise(begin, addresses.len(), libc::MADV_DONTNEED) };
    }
}

/// Where the bytes of a program are that cannot be written to, and are none but those of its file. In
/// others are what the loader, a debugger or an unpacker has put there.
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

    /// The addresses of this program's code, and how many KiB of it are in this process's memory.
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
        // The other tests use the program's code meanwhile: it is looked at in a process of its own.
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
        // SAFETY: only reads what is there to be read.
        unsafe { libc::madvise(begin, addresses.len(), libc::MADV_POPULATE_READ) };
        let (_, before) = code();
        unload_program();
        let (_, after) = code();
        assert!(after < before / 2, "{before} KiB before, {after} KiB after");
    }
}
