//! What a new process may use: processors, priority, limits.

use std::io;
use std::sync::OnceLock;

use nix::fcntl::{OFlag, open};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, read, write};

use super::{Failed, check};

/// What differs from the process that starts it; by default nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resources {
    pub(crate) processors: Option<CpuSet>,
    pub(crate) nice: Option<i32>,
    pub(crate) limits: Vec<Limit>,
}

/// A soft and a hard limit, in the unit of the resource.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// What a failure is reported as.
    pub(crate) call: &'static str,
    pub(crate) resource: Resource,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// The soft limit of descriptors that the master was started with, once it has raised its own.
static STARTED_WITH: OnceLock<Limit> = OnceLock::new();

/// What a failure to set it is reported as.
pub(crate) const OPEN_FILES: &str = "setrlimit(RLIMIT_NOFILE)";

/// A limit of the kernel, whose numbers are smaller on some machines.
#[allow(clippy::useless_conversion)]
fn of_kernel(limit: rlim_t) -> u64 {
    if limit == RLIM_INFINITY { u64::MAX } else { limit.into() }
}

/// How many descriptors this process may have.
pub(crate) fn open_files() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| of_kernel(soft))
}

/// Lets this process have as many descriptors as it may; from here on the processes that it starts
/// get the limit back that it had before, or that its earlier image had.
///
/// The limit of a shell is low because select(2) knows no higher numbers, which the master does not
/// use; but its workers may.
pub(crate) fn raise_open_files(earlier: Option<u64>) {
    let resource = Resource::RLIMIT_NOFILE;
    let Ok((soft, most)) = getrlimit(resource) else { return };
    let hard = of_kernel(most);
    let soft = earlier.unwrap_or_else(|| of_kernel(soft)).min(hard);
    if soft < hard && setrlimit(resource, most, most).is_ok() {
        let _ = STARTED_WITH.set(Limit { call: OPEN_FILES, resource, soft, hard });
    }
}

/// The soft limit of descriptors that the processes get which this one starts.
pub(crate) fn open_files_before() -> Option<u64> {
    STARTED_WITH.get().map(|limit| limit.soft)
}

/// What [`Resources::apply`] says when the kernel took only some of the processors.
pub(crate) const FORBIDDEN_PROCESSOR: &str = "sched_setaffinity (a processor is forbidden here)";

impl Resources {
    /// Takes effect for this process, which has one thread. Only root can go beyond what it has:
    /// call it before root is given up. Allocates nothing, so it may run between fork and exec.
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
        // Before the limits of its own: one of them may be this one.
        STARTED_WITH.get().into_iter().chain(&self.limits).try_for_each(|limit| {
            let failed = |errno| Failed { call: limit.call, errno: errno as i32 };
            let [soft, hard] = [limit.soft, limit.hard].map(in_kernel);
            setrlimit(limit.resource, soft, hard).map_err(failed)
        })
    }
}

/// A limit as the system call takes it. What does not fit there is none.
#[allow(clippy::useless_conversion, reason = "the type has 32 bits on some machines")]
fn in_kernel(limit: u64) -> rlim_t {
    limit.try_into().unwrap_or(RLIM_INFINITY)
}

/// A master may be kept from being killed when memory runs out. That it does is mostly its workers'
/// doing, and where they are kept from it too, nobody is left to be killed.
///
/// Without /proc they are what they are: that is no reason not to run.
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

/// The kernel is content with one processor that may be used, and drops the others silently: what
/// it did is read back.
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

/// The numbers of the processors that run, such as `0-3,8`, as the kernel lists them.
pub(crate) fn processors_online() -> io::Result<String> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    Ok(list.trim().to_owned())
}

/// A refused system call. Where descriptors are short, with their limit and how it is raised.
pub(crate) fn in_words(error: &io::Error) -> String {
    match (error.raw_os_error(), open_files()) {
        (Some(libc::EMFILE), Some(limit)) => format!(
            "{error}: this process may have {limit}, which `ulimit -Hn` or LimitNOFILE= raises"
        ),
        _ => error.to_string(),
    }
}
