//! Resources of a new process: processors, priority, limits.

use std::io;
use std::sync::OnceLock;

use nix::fcntl::{OFlag, open};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, read, write};

use super::{Failed, check};

/// Differences from the process that starts it; none by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resources {
    pub(crate) processors: Option<CpuSet>,
    pub(crate) nice: Option<i32>,
    pub(crate) limits: Vec<Limit>,
}

/// A soft and a hard limit, in the unit of the resource.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// Name of the limit in an error.
    pub(crate) call: &'static str,
    pub(crate) resource: Resource,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// The master's original soft limit of descriptors, once it has raised its own.
static STARTED_WITH: OnceLock<Limit> = OnceLock::new();

/// Name of the limit of descriptors in an error.
pub(crate) const OPEN_FILES: &str = "setrlimit(RLIMIT_NOFILE)";

/// Converts a limit of the kernel, whose numbers are smaller on some machines.
#[allow(clippy::useless_conversion)]
fn of_kernel(limit: rlim_t) -> u64 {
    if limit == RLIM_INFINITY { u64::MAX } else { limit.into() }
}

/// Returns the descriptor limit of this process.
pub(crate) fn open_files() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| of_kernel(soft))
}

/// Raises the descriptor limit of this process to its maximum. Processes started from here on get
/// the previous limit, or that of the earlier image of this process.
///
/// A shell's limit is low because select(2) supports no higher numbers. The master does not use it,
/// but its workers may.
pub(crate) fn raise_open_files(earlier: Option<u64>) {
    let resource = Resource::RLIMIT_NOFILE;
    let Ok((soft, most)) = getrlimit(resource) else { return };
    let hard = of_kernel(most);
    let soft = earlier.unwrap_or_else(|| of_kernel(soft)).min(hard);
    if soft < hard && setrlimit(resource, most, most).is_ok() {
        let _ = STARTED_WITH.set(Limit { call: OPEN_FILES, resource, soft, hard });
    }
}

/// Returns the soft descriptor limit for processes started by this one.
pub(crate) fn open_files_before() -> Option<u64> {
    STARTED_WITH.get().map(|limit| limit.soft)
}

/// The error of [`Resources::apply`] if the kernel accepted only some of the processors.
pub(crate) const FORBIDDEN_PROCESSOR: &str = "sched_setaffinity (a processor is forbidden here)";

impl Resources {
    /// Applies the settings to this process, which has one thread. Only root can exceed its current
    /// limits: call this before dropping root. Allocates nothing, so it may run between fork and
    /// exec.
    pub(crate) fn apply(&self) -> Result<(), Failed> {
        leave_protection();
        if let Some(processors) = &self.processors {
            run_on(processors)?;
        }
        if let Some(nice) = self.nice {
            // SAFETY: takes integers; 0 is the calling process.
            let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
            check("setpriority", done.into())?;
        }
        // Before the process's own limits: one of them may be this limit.
        STARTED_WITH.get().into_iter().chain(&self.limits).try_for_each(|limit| {
            let failed = |errno| Failed { call: limit.call, errno: errno as i32 };
            let [soft, hard] = [limit.soft, limit.hard].map(in_kernel);
            setrlimit(limit.resource, soft, hard).map_err(failed)
        })
    }
}

/// Returns a limit as the system call takes it. A number that does not fit means no limit.
#[allow(clippy::useless_conversion, reason = "the type has 32 bits on some machines")]
fn in_kernel(limit: u64) -> rlim_t {
    limit.try_into().unwrap_or(RLIM_INFINITY)
}

/// Removes an inherited protection from the out-of-memory killer. The master may be protected, but
/// its workers usually cause the shortage: if they were protected too, no process would be left to
/// kill.
///
/// Without /proc the protection is kept, which is no reason to stop.
fn leave_protection() {
    let Ok(file) =
        open(c"/proc/self/oom_score_adj", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
    else {
        return;
    };
    let mut sign = [0];
    if read(&file, &mut sign) == Ok(1) && sign == *b"-" {
        let _ = write(&file, b"0");
    }
}

/// Sets the processors, and reads the result back: if at least one is allowed, the kernel
/// silently drops the others.
fn run_on(processors: &CpuSet) -> Result<(), Failed> {
    let this = Pid::from_raw(0);
    let failed = |call| move |errno| Failed { call, errno: errno as i32 };
    sched_setaffinity(this, processors).map_err(failed("sched_setaffinity"))?;
    let used = sched_getaffinity(this).map_err(failed("sched_getaffinity"))?;
    if used == *processors {
        Ok(())
    } else {
        Err(Failed { call: FORBIDDEN_PROCESSOR, errno: libc::EINVAL })
    }
}

/// Returns the numbers of the online processors, such as `0-3,8`, as the kernel lists them.
pub(crate) fn processors_online() -> io::Result<String> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    Ok(list.trim().to_owned())
}

/// Describes a failed system call. If descriptors are short, adds their limit and how to raise it.
pub(crate) fn in_words(error: &io::Error) -> String {
    match (error.raw_os_error(), open_files()) {
        (Some(libc::EMFILE), Some(limit)) => format!(
            "{error}: this process may have {limit}, which `ulimit -Hn` or LimitNOFILE= raises"
        ),
        _ => error.to_string(),
    }
}
