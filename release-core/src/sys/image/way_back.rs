//! The rollback from a new image of this process, for any failure before it is the master. It is
//! armed before `main` begins, and needs neither memory nor a lock.

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::unseal;
use crate::sys::beginning;
use crate::sys::fds::copy_left;
use crate::sys::process::thread_count;
use crate::sys::signal;

/// The variable that describes the role of an image of this process: a word, and descriptor
/// numbers, separated by colons.
pub(crate) const VARIABLE: &CStr = c"RELEASE_UPGRADE";

/// The new version on trial. The descriptors are the state, and the socket for the answer.
pub(crate) const TRIAL: &str = "trial";
/// The new version. The descriptors are the state, and the [`WayBack`].
pub(crate) const SUCCEED: &str = "succeed";
/// The old version again. The descriptors are the state, the [`WayBack`], and the reason.
pub(crate) const RETURN: &str = "return";

/// Format marker of a rollback. An image that does not know it has none, and its trial reports
/// that.
pub(crate) const FORMAT: &str = "release-way-back 1";

/// Time limit for the new image to become the master.
pub(crate) const TIME: u32 = 10;

/// Signals that would end this process, through its own fault or not.
const FATAL: [(c_int, &str); 8] = [
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGSYS, "SIGSYS"),
    (libc::SIGTRAP, "SIGTRAP"),
    (libc::SIGALRM, "SIGALRM"),
];

/// Stack for the signal handlers, which run even after a stack overflow.
const STACK: usize = 64 << 10;

/// How to run the previous version again. Written by that version.
#[derive(Debug)]
pub(crate) struct WayBack<'a> {
    /// The executable of the previous version.
    pub(crate) image: BorrowedFd<'a>,
    /// The file for the reason.
    pub(crate) word: BorrowedFd<'a>,
    /// The directory in which it was started.
    pub(crate) directory: BorrowedFd<'a>,
    /// Its other inherited descriptors.
    pub(crate) kept: Vec<RawFd>,
    pub(crate) arguments: &'a [CString],
    pub(crate) environment: Vec<CString>,
}

impl WayBack<'_> {
    /// Strings for [`seal`](super::seal), each ending with a NUL; the first ones contain numbers.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (image, word) = (self.image.as_raw_fd(), self.word.as_raw_fd());
        let mut numbers = format!("{image} {word} {}", self.directory.as_raw_fd());
        for number in &self.kept {
            let _ = write!(numbers, " {number}");
        }
        let mut bytes = Vec::new();
        let head = [FORMAT.to_owned(), numbers, self.arguments.len().to_string()];
        for text in head {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        for text in self.arguments.iter().chain(&self.environment) {
            bytes.extend_from_slice(text.as_bytes_with_nul());
        }
        bytes
    }
}

/// Creates a file in memory for the reason of a rollback.
pub(crate) fn word() -> io::Result<OwnedFd> {
    Ok(memfd_create(c"release-return", MFdFlags::MFD_CLOEXEC)?)
}

/// Reads it: the numbers of signals on the first line, then the reason.
pub(crate) fn read_word(word: &OwnedFd) -> (Vec<i32>, String) {
    let mut bytes = vec![0; MOST_WORDS];
    let file = word.try_clone().map(File::from);
    let length = file.and_then(|file| file.read_at(&mut bytes, 0)).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
    let (signals, reason) = text.split_once('\n').unwrap_or(("", &text));
    let signals = signals.split(' ').filter_map(|number| number.parse().ok()).collect();
    (signals, reason.to_owned())
}

/// Maximum length of the reason.
const MOST_WORDS: usize = 16 << 10;

/// A [`WayBack`] that is ready to run: its strings, and pointers to them.
#[derive(Debug)]
struct Armed {
    pid: i32,
    image: RawFd,
    word: RawFd,
    directory: RawFd,
    /// Executes with these three.
    all: Vec<RawFd>,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    _strings: Vec<CString>,
    before: Vec<(c_int, libc::sigaction)>,
    /// Limits of this process before `main`. Under a lower one of the new version's own, such as that
    /// of the address space, the kernel could not run the previous version.
    limits: [Option<libc::rlimit>; LIMITS],
}

/// Number of resources that the kernel limits.
const LIMITS: usize = 16;

#[cfg(target_env = "gnu")]
type ResourceNumber = libc::__rlimit_resource_t;
// Also named so: the same for other C libraries.
#[cfg(not(target_env = "gnu"))]
type ResourceNumber = c_int;

/// Set as long as the previous version would be run again.
static READY: AtomicPtr<Armed> = AtomicPtr::new(std::ptr::null_mut());

/// Whether another thread has asked the main thread to roll back.
static ASKED: AtomicBool = AtomicBool::new(false);

/// The reason why `main` has ended, as far as it was reported.
static WHY: Mutex<Option<String>> = Mutex::new(None);

/// All descriptors left open by the previous image.
static LEFT: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

static VALUE: OnceLock<OsString> = OnceLock::new();

/// The working directory at the start of this process, in a trial.
static DIRECTORY: OnceLock<OwnedFd> = OnceLock::new();

/// Called by the loader before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

/// Marks the master's descriptors close-on-exec before any other code runs, and arms the rollback.
extern "C" fn before_main() {
    // SAFETY: the name is NUL-ended; the result of the call is not used after the environment changes.
    let value = unsafe { libc::getenv(VARIABLE.as_ptr()) };
    if value.is_null() {
        return;
    }
    // SAFETY: not null, hence a NUL-ended string.
    let value = unsafe { CStr::from_ptr(value) }.to_bytes().to_vec();
    if thread_count().is_ok_and(|threads| threads == 1) {
        // SAFETY: no other thread reads or writes the environment: there is none.
        unsafe { libc::unsetenv(VARIABLE.as_ptr()) };
    }
    let value = OsString::from_vec(value);
    let text = value.to_string_lossy().into_owned();
    let mut parts = text.split(':');
    let word = parts.next().unwrap_or_default();
    let numbers: Vec<RawFd> = parts.filter_map(|number| number.parse().ok()).collect();
    let is_open = numbers.iter().all(|number| close_on_exec(*number).is_ok());
    let _ = VALUE.set(value);
    match (word, numbers.as_slice()) {
        (TRIAL, _) => {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            if let Ok(here) = nix::fcntl::open(c".", flags, nix::sys::stat::Mode::empty()) {
                let _ = DIRECTORY.set(here);
            }
        }
        (SUCCEED, [_, back]) | (RETURN, [_, back, _]) if is_open => {
            let Some(ready) = Armed::read(*back) else { return };
            for number in &ready.all {
                let _ = close_on_exec(*number);
            }
            *left() = ready.all.clone();
            // There is no rollback from there.
            if word == SUCCEED {
                ready.arm();
            } else {
                disarm();
            }
        }
        _ => {}
    }
}

/// Ends the time limit of the new version, which survives an exec, as does a signal that is pending.
fn disarm() {
    // SAFETY: takes an integer.
    unsafe { libc::alarm(0) };
    for action in [libc::SIG_IGN, libc::SIG_DFL] {
        // SAFETY: takes integers; an ignored signal is no longer pending.
        unsafe { libc::signal(libc::SIGALRM, action) };
    }
}

/// Returns the role assigned by a master, or `None` if the process was started normally.
pub(crate) fn value() -> Option<&'static OsString> {
    VALUE.get()
}

/// Returns the working directory at the start, in a trial.
pub(crate) fn directory() -> Option<&'static OwnedFd> {
    DIRECTORY.get()
}

/// Records the reason for the case that `main` ends.
pub(crate) fn say(why: &str) {
    if is_set() {
        *WHY.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }
}

/// Runs the previous version again, with this reason and the signals that have arrived. Returns if
/// there is none, or if it cannot be run. Must be called on the main thread, see
/// [`Image::become_it`](super::Image::become_it).
pub(crate) fn walk(why: &str, signals: &[i32]) -> Option<io::Error> {
    let numbers: Vec<_> = signals.iter().map(i32::to_string).collect();
    let why = beginning(why, MOST_WORDS / 2);
    go(format!("{}\n{why}", numbers.join(" ")).as_bytes())
}

/// Takes a descriptor left by the previous image, or a duplicate as long as a rollback is possible.
pub(crate) fn take(number: RawFd) -> io::Result<OwnedFd> {
    if is_set() {
        return copy_left(number);
    }
    let mut left = left();
    let at = left.iter().position(|its| *its == number);
    let at = at.ok_or_else(|| io::Error::from(Errno::EBADF))?;
    // SAFETY: left open by the previous image for this one, and taken out of the list once.
    Ok(unsafe { OwnedFd::from_raw_fd(left.swap_remove(at)) })
}

/// Returns whether the previous version would be run again.
pub(crate) fn is_set() -> bool {
    !READY.load(Ordering::SeqCst).is_null()
}

/// Ends the possibility of a rollback. Descriptors left by the previous image are closed.
pub(crate) fn close() {
    let ready = READY.swap(std::ptr::null_mut(), Ordering::SeqCst);
    if !ready.is_null() {
        // SAFETY: created by `Box::into_raw` in `arm`. It stays for ever, once in a process image: another
        // thread may be in `go` with it.
        let ready = unsafe { &*ready };
        // SAFETY: takes an integer.
        unsafe { libc::alarm(0) };
        for (signal, action) in &ready.before {
            // SAFETY: the previous action, as returned by the system.
            unsafe { libc::sigaction(*signal, action, std::ptr::null_mut()) };
        }
    }
    for number in std::mem::take(&mut *left()) {
        // SAFETY: left open by the previous image; users of such a descriptor have a duplicate.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
}

fn left() -> MutexGuard<'static, Vec<RawFd>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn close_on_exec(number: RawFd) -> Result<c_int, Errno> {
    if number < 3 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: only sets a flag; a number that is not open gives EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
}

impl Armed {
    fn read(back: RawFd) -> Option<Self> {
        // SAFETY: open, see the caller; the borrow ends with the call.
        let file = unsafe { BorrowedFd::borrow_raw(back) }.try_clone_to_owned().ok()?;
        let bytes = unseal(&file).ok()?;
        let mut strings = bytes.split_inclusive(|byte| *byte == 0);
        let mut next = || CStr::from_bytes_with_nul(strings.next()?).ok()?.to_str().ok();
        if next()? != FORMAT {
            return None;
        }
        let mut all = next()?.split(' ').map(str::parse).collect::<Result<Vec<RawFd>, _>>().ok()?;
        let count: usize = next()?.parse().ok()?;
        let [image, word, directory] = *all.first_chunk()?;
        all.push(back);
        let strings = strings.map(|it| CStr::from_bytes_with_nul(it).map(CStr::to_owned));
        let strings = strings.collect::<Result<Vec<_>, _>>().ok()?;
        let (arguments, environment) = strings.split_at_checked(count)?;
        let pointers = |strings: &[CString]| {
            let strings = strings.iter().map(|string| string.as_ptr());
            strings.chain([std::ptr::null()]).collect()
        };
        Some(Self {
            pid: nix::unistd::getpid().as_raw(),
            image,
            word,
            directory,
            all,
            argv: pointers(arguments),
            envp: pointers(environment),
            _strings: strings,
            before: Vec::new(),
            limits: limits(),
        })
    }

    fn arm(mut self) {
        let stack = libc::stack_t {
            ss_sp: Box::leak(vec![0_u8; STACK].into_boxed_slice()).as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: STACK,
        };
        // SAFETY: memory of that size, which is never freed.
        unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
        let mut unblocked = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: initialises the set.
        unsafe { libc::sigemptyset(unblocked.as_mut_ptr()) };
        for (signal, _) in FATAL {
            // SAFETY: initialised above; the signal exists.
            unsafe { libc::sigaddset(unblocked.as_mut_ptr(), signal) };
            self.before.extend(catch(signal));
        }
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            say(&panic.to_string().replace('\n', " "));
            hook(panic);
        }));
        READY.store(Box::into_raw(Box::new(self)), Ordering::SeqCst);
        // SAFETY: takes a function that does not unwind.
        unsafe { libc::atexit(at_exit) };
        // SAFETY: an initialised set.
        unsafe {
            libc::sigprocmask(libc::SIG_UNBLOCK, unblocked.as_ptr(), std::ptr::null_mut());
        };
        // SAFETY: takes an integer.
        unsafe { libc::alarm(TIME) };
    }
}

fn limits() -> [Option<libc::rlimit>; LIMITS] {
    let mut limits = [None; LIMITS];
    for (resource, limit) in (0..).zip(&mut limits) {
        *limit = limit_of(resource);
    }
    limits
}

fn limit_of(resource: ResourceNumber) -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills one structure in; an unknown resource is an error.
    let done = unsafe { libc::getrlimit(resource, &raw mut limit) };
    (done == 0).then_some(limit)
}

/// Restores a limit. Without root, a hard limit that was lowered stays, and bounds the soft one.
fn restore(resource: ResourceNumber, limit: libc::rlimit) {
    // SAFETY: reads one structure.
    let done = unsafe { libc::setrlimit(resource, &raw const limit) };
    if let (-1, Some(now)) = (done, limit_of(resource)) {
        let nearest = libc::rlimit { rlim_cur: limit.rlim_cur.min(now.rlim_max), ..now };
        // SAFETY: as above.
        unsafe { libc::setrlimit(resource, &raw const nearest) };
    }
}

/// Makes a signal trigger the rollback. Returns its previous action.
fn catch(signal: c_int) -> Option<(c_int, libc::sigaction)> {
    // SAFETY: a plain C structure, for which all zeros is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_ONSTACK;
    let mut before = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the handler makes only calls that are allowed in a handler, see `go`.
    let done = unsafe { libc::sigaction(signal, &raw const action, before.as_mut_ptr()) };
    // SAFETY: the call has succeeded and filled it in.
    (done == 0).then(|| (signal, unsafe { before.assume_init() }))
}

/// Runs when `main` has returned or panicked, or the program has called `exit`.
extern "C" fn at_exit() {
    let why = WHY.try_lock().ok().and_then(|mut why| why.take());
    let why = why.unwrap_or_else(|| {
        "it ended before it was the master; what it wrote to standard error says why".to_owned()
    });
    let _ = walk(&why, &[]);
}

extern "C" fn on_signal(signal: c_int) {
    let mut word = [0; 96];
    let mut rest = &mut word[..];
    let name = FATAL.iter().find(|(number, _)| *number == signal).map_or("", |(_, name)| *name);
    let _ = match (ASKED.swap(false, Ordering::SeqCst), signal) {
        // Another thread has written it.
        (true, _) => Ok(()),
        (false, libc::SIGALRM) => rest.write_all(b"\nit hung: it was not the master in time"),
        (false, _) => {
            [b"\nit was ended by ", name.as_bytes()].iter().try_for_each(|it| rest.write_all(it))
        }
    };
    let left = rest.len();
    let length = word.len() - left;
    let _ = go(&word[..length]);
    if signal != libc::SIGALRM {
        // SAFETY: the default action runs no code of ours, and ends this process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        // SAFETY: takes an integer.
        unsafe { libc::raise(signal) };
    }
}

/// Performs the rollback with this reason; without one, it is already written. Uses only system
/// calls, like a signal handler.
fn go(word: &[u8]) -> Option<io::Error> {
    // SAFETY: null, or a value that `arm` has created and nobody frees.
    let ready = unsafe { READY.load(Ordering::SeqCst).as_ref() }?;
    // A process forked by this one is not the next version of any.
    if nix::unistd::getpid().as_raw() != ready.pid {
        return None;
    }
    if !word.is_empty() {
        // SAFETY: writes from a slice of that length.
        unsafe { libc::pwrite(ready.word, word.as_ptr().cast::<c_void>(), word.len(), 0) };
    }
    if nix::unistd::gettid().as_raw() != ready.pid {
        // Workers die with the thread that started them: only the main thread may execute another
        // program.
        ASKED.store(true, Ordering::SeqCst);
        // SAFETY: takes integers.
        unsafe { libc::syscall(libc::SYS_tgkill, ready.pid, ready.pid, libc::SIGALRM) };
        loop {
            // SAFETY: waits, and has no preconditions.
            unsafe { libc::pause() };
        }
    }
    let before = signal::block_all();
    for (resource, limit) in (0..).zip(ready.limits) {
        if let Some(limit) = limit {
            restore(resource, limit);
        }
    }
    // SAFETY: takes an integer.
    unsafe { libc::alarm(0) };
    // At worst it has been removed, and the previous version still exists.
    // SAFETY: takes an integer.
    unsafe { libc::fchdir(ready.directory) };
    set_flags(ready, 0);
    let (image, argv, envp) = (ready.image, ready.argv.as_ptr(), ready.envp.as_ptr());
    // SAFETY: NUL-ended strings, and NULL-ended arrays of them, which live as long as `ready`.
    unsafe {
        libc::syscall(libc::SYS_execveat, image, c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH)
    };
    let error = io::Error::last_os_error();
    set_flags(ready, libc::FD_CLOEXEC);
    if let Ok(before) = before {
        signal::block_only(&before);
    }
    Some(error)
}

fn set_flags(ready: &Armed, flags: c_int) {
    for number in &ready.all {
        // SAFETY: takes integers.
        unsafe { libc::fcntl(*number, libc::F_SETFD, flags) };
    }
}
