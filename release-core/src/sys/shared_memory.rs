//! Memory that two processes share: a file without a name and of a fixed size, which both map.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, rlim_t};
use nix::sys::stat::fstat;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::ftruncate;

/// The size stays, and with it the pages: no access can fail. Nobody can change this.
const SEALS: SealFlag =
    SealFlag::F_SEAL_SEAL.union(SealFlag::F_SEAL_SHRINK).union(SealFlag::F_SEAL_GROW);

/// Mapped memory of whole words. The other process may change each of them at any time.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    words: NonNull<AtomicU64>,
    count: usize,
    file: OwnedFd,
}

// SAFETY: the memory is mapped until this is dropped, and all access to it is atomic.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

/// Why a file of another process is not mapped.
#[derive(Debug)]
pub(crate) enum Unmapped {
    /// It is not what was agreed on.
    Refused(&'static str),
    /// This process has no room for it.
    Failed(io::Error),
}

impl SharedMemory {
    /// Creates zeroed memory of `count` words. All of it is allocated here, for this process.
    ///
    /// # Errors
    ///
    /// Returns the errors of memfd_create, fallocate and mmap.
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        Self::make(c"release-ring", count, true)
    }

    /// Creates zeroed memory of `count` words. Each page is allocated for the process that first uses it.
    ///
    /// # Errors
    ///
    /// Returns the errors of memfd_create, ftruncate and mmap.
    pub(crate) fn sparse(count: usize) -> io::Result<Self> {
        Self::make(c"release-metrics", count, false)
    }

    fn make(name: &CStr, count: usize, is_allocated: bool) -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create(name, flags)?;
        let bytes = libc::off_t::try_from(count * size_of::<u64>()).map_err(io::Error::other)?;
        // Beyond the limit of files, the kernel would also send a signal that ends the process.
        let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
        if rlim_t::try_from(bytes).is_ok_and(|bytes| bytes > limit) {
            return Err(Errno::EFBIG.into());
        }
        match is_allocated {
            true => fallocate(&file, FallocateFlags::empty(), 0, bytes)?,
            false => ftruncate(&file, bytes)?,
        }
        fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
        Self::map(file, count)
    }

    /// Maps a file of another process, which must have been made as [`new`](Self::new) makes it.
    pub(crate) fn of_peer(file: impl AsFd + Into<OwnedFd>, count: usize) -> Result<Self, Unmapped> {
        // Only memory has seals. Therefore the first question involves no other file system, and
        // the next ones never wait for one.
        let Ok(seals) = fcntl(&file, FcntlArg::F_GET_SEALS) else {
            return Err(Unmapped::Refused("its file is not a memfd"));
        };
        if !SealFlag::from_bits_retain(seals).contains(SEALS) {
            return Err(Unmapped::Refused("its memory is not sealed, so it could be truncated"));
        }
        // Access to huge pages fails when there are none left.
        if !fstatfs(&file).is_ok_and(|about| about.filesystem_type() == TMPFS_MAGIC) {
            return Err(Unmapped::Refused("its memory is of another kind"));
        }
        let size = fstat(&file).ok().and_then(|about| usize::try_from(about.st_size).ok());
        if size != Some(count * size_of::<u64>()) {
            return Err(Unmapped::Refused("its memory has another size than agreed"));
        }
        Self::map(file.into(), count).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Unmapped::Refused("its memory cannot be written"),
            _ => Unmapped::Failed(error),
        })
    }

    fn map(file: OwnedFd, count: usize) -> io::Result<Self> {
        let (bytes, number) = (count * size_of::<u64>(), file.as_raw_fd());
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let begin =
            unsafe { libc::mmap(ptr::null_mut(), bytes, access, libc::MAP_SHARED, number, 0) };
        if begin == libc::MAP_FAILED {
            return Err(Errno::last().into());
        }
        let words = NonNull::new(begin.cast()).ok_or_else(|| io::Error::from(Errno::EFAULT))?;
        Ok(Self { words, count, file })
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped for reading and writing until `self` is dropped, aligned to a page, and of
        // this size: the file is sealed. Every pattern of bits is a value of an atomic integer,
        // which may change while it is borrowed.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size, and no borrow of the words is left.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.count * size_of::<u64>()) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::pipe;
    use std::process::{Command, Stdio};
    use std::sync::atomic::Ordering;

    use super::*;

    const COUNT: usize = 1024;

    fn memfd(flags: MFdFlags, words: u64, seals: SealFlag) -> OwnedFd {
        let file = memfd_create(c"test", flags | MFdFlags::MFD_CLOEXEC).unwrap();
        File::from(file.try_clone().unwrap()).set_len(words * 8).unwrap();
        if !seals.is_empty() {
            fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        }
        file
    }

    fn refused(file: OwnedFd) -> &'static str {
        match SharedMemory::of_peer(file, COUNT) {
            Err(Unmapped::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_side_sees_what_the_other_writes_and_neither_can_change_the_size() {
        sees_what_the_other_writes(&SharedMemory::new(COUNT).unwrap());
        sees_what_the_other_writes(&SharedMemory::sparse(COUNT).unwrap());
    }

    fn sees_what_the_other_writes(here: &SharedMemory) {
        let there =
            SharedMemory::of_peer(here.as_fd().try_clone_to_owned().unwrap(), COUNT).unwrap();
        here.words()[COUNT - 1].store(7, Ordering::SeqCst);
        assert_eq!(there.words()[COUNT - 1].load(Ordering::SeqCst), 7);
        let file = File::from(there.as_fd().try_clone_to_owned().unwrap());
        assert!(file.set_len(0).is_err() && file.set_len(1 << 20).is_err());
        assert!(fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).is_err());
        assert!(there.words()[0].load(Ordering::SeqCst) == 0);
    }

    #[test]
    fn other_files_are_refused_with_the_reason() {
        let sealing = MFdFlags::MFD_ALLOW_SEALING;
        let (reader, _writer) = pipe().unwrap();
        assert!(refused(reader.into()).contains("not a memfd"));
        assert!(refused(tempfile::tempfile().unwrap().into()).contains("not "));
        assert!(refused(memfd(sealing, 1024, SealFlag::empty())).contains("not sealed"));
        assert!(refused(memfd(MFdFlags::empty(), 1024, SealFlag::empty())).contains("not sealed"));
        let unsealed = SEALS - SealFlag::F_SEAL_SHRINK;
        assert!(refused(memfd(sealing, 1024, unsealed)).contains("not sealed"));
        let unsealed = SEALS - SealFlag::F_SEAL_SEAL;
        assert!(refused(memfd(sealing, 1024, unsealed)).contains("not sealed"));
        for size in [0, 1023, 1025, 1 << 30] {
            assert!(refused(memfd(sealing, size, SEALS)).contains("another size"));
        }
        let unwritable = SEALS | SealFlag::F_SEAL_WRITE;
        assert!(refused(memfd(sealing, 1024, unwritable)).contains("cannot be written"));
        // Where the machine has huge pages at all.
        let huge = MFdFlags::MFD_HUGETLB | sealing | MFdFlags::MFD_CLOEXEC;
        if let Ok(file) = memfd_create(c"test", huge)
            && fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS)).is_ok()
        {
            assert!(refused(file).contains("of another kind"));
        }
    }

    #[test]
    fn a_process_whose_files_are_limited_gets_an_error_and_no_signal() {
        // The other tests write files meanwhile, so the limit is set in a separate process.
        const ALONE: &str = "RELEASE_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = format!(
                "{}::a_process_whose_files_are_limited_gets_an_error_and_no_signal",
                module_path!()
            );
            let (_, name) = name.split_once("::").unwrap();
            let mut alone = Command::new(std::env::current_exe().unwrap());
            // Its own output may go to a file.
            let alone = alone.args(["--exact", name]).env(ALONE, "1");
            let status = alone.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
            assert!(status.success(), "{status}");
            return;
        }
        nix::sys::resource::setrlimit(Resource::RLIMIT_FSIZE, 4096, 4096).unwrap();
        let error = SharedMemory::new(COUNT).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
        SharedMemory::new(512).unwrap();
    }

    #[test]
    fn memory_that_is_taken_away_reads_as_zeros() {
        let here = SharedMemory::new(COUNT).unwrap();
        here.words()[5].store(7, Ordering::SeqCst);
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&here, hole, 0, 8192).unwrap();
        assert_eq!(here.words()[5].load(Ordering::SeqCst), 0);
    }
}
