//! Options of one worker: arguments, environment, processors, priority and limits.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};

use nix::sched::CpuSet;
use nix::sys::resource::Resource as KernelResource;

use super::environment::entry;
use crate::kept;
use crate::path::c_string;
use crate::sys::resources::{Limit, OPEN_FILES, Resources, processors_online};
use crate::{Error, ErrorKind};

/// Options of one worker, in addition to the options of its group: see
/// [`Workers::worker_options`](crate::Workers::worker_options).
///
/// The kernel applies processors, priority and limits in the new process, before it drops root and
/// runs its program: a master that runs as root can raise values that its unprivileged workers can
/// only lower. If the kernel refuses a value, the start fails with a reason that names the call,
/// such as `setpriority: Permission denied`.
///
/// # Errors
///
/// Options are checked when the master starts, before it daemonizes. The error has
/// [`ErrorKind::Usage`] if an argument or a variable contains a NUL byte, if the name of a variable
/// is empty or contains `=`, if there is no processor or a missing one, if the priority is not in
/// -20 to 19, or if a soft limit is above the hard limit.
///
/// # Examples
///
/// ```
/// use release_core::{Resource, WorkerOptions};
///
/// let options = WorkerOptions::default()
///     .argument("--verbose")
///     .variable("PORT", "8001")
///     .processors([0, 1])
///     .nice(-5)
///     .limit(Resource::CoreSize, 0, 0);
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default)]
#[doc(alias = "rtsOptions")]
pub struct WorkerOptions {
    arguments: Vec<OsString>,
    variables: BTreeMap<OsString, OsString>,
    processors: Option<Vec<u32>>,
    nice: Option<i32>,
    limits: BTreeMap<Resource, (u64, u64)>,
}

impl From<WorkerOptions> for kept::Options {
    fn from(options: WorkerOptions) -> Self {
        let WorkerOptions { arguments, variables, processors, nice, limits } = options;
        let limits = limits.into_iter().map(|(resource, limit)| (resource.into(), limit));
        Self {
            arguments,
            variables: variables.into_iter().collect(),
            processors,
            nice,
            limits: limits.collect(),
        }
    }
}

impl From<kept::Options> for WorkerOptions {
    fn from(kept: kept::Options) -> Self {
        let kept::Options { arguments, variables, processors, nice, limits } = kept;
        let limits = limits.into_iter().map(|(resource, limit)| (resource.into(), limit));
        Self {
            arguments,
            variables: variables.into_iter().collect(),
            processors,
            nice,
            limits: limits.collect(),
        }
    }
}

impl From<Resource> for kept::Resource {
    fn from(resource: Resource) -> Self {
        match resource {
            Resource::OpenFiles => Self::OpenFiles,
            Resource::CoreSize => Self::CoreSize,
            Resource::AddressSpace => Self::AddressSpace,
            Resource::Processes => Self::Processes,
            Resource::FileSize => Self::FileSize,
        }
    }
}

impl From<kept::Resource> for Resource {
    fn from(kept: kept::Resource) -> Self {
        match kept {
            kept::Resource::OpenFiles => Self::OpenFiles,
            kept::Resource::CoreSize => Self::CoreSize,
            kept::Resource::AddressSpace => Self::AddressSpace,
            kept::Resource::Processes => Self::Processes,
            kept::Resource::FileSize => Self::FileSize,
        }
    }
}

/// The resource that [`WorkerOptions::limit`] limits.
///
/// # Examples
///
/// ```
/// use release_core::{Resource, WorkerOptions};
///
/// // Workers leave no core files, and each may open up to 4096 files.
/// let options = WorkerOptions::default()
///     .limit(Resource::CoreSize, 0, 0)
///     .limit(Resource::OpenFiles, 4096, 4096);
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// The number of open descriptors of a process; more precisely, an upper bound of their
    /// numbers.
    #[doc(alias = "RLIMIT_NOFILE")]
    OpenFiles,
    /// The size of the core file after a crash, in bytes; 0 for none.
    #[doc(alias = "RLIMIT_CORE")]
    CoreSize,
    /// The address space of a process, in bytes, used or only reserved. Async runtimes reserve a
    /// lot.
    #[doc(alias = "RLIMIT_AS")]
    AddressSpace,
    /// The number of all processes and threads of the user, including other programs.
    #[doc(alias = "RLIMIT_NPROC")]
    Processes,
    /// The maximum size of files written by a process, in bytes. A process that exceeds it receives
    /// `SIGXFSZ`.
    #[doc(alias = "RLIMIT_FSIZE")]
    FileSize,
}

impl Resource {
    /// The value for no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Resource, WorkerOptions};
    ///
    /// let options = WorkerOptions::default().limit(Resource::FileSize, 1 << 30, Resource::UNLIMITED);
    /// # let _ = options;
    /// ```
    pub const UNLIMITED: u64 = u64::MAX;

    /// Returns the name of the call for error messages, and the kernel's name of the resource.
    fn in_kernel(self) -> (&'static str, KernelResource) {
        match self {
            Self::OpenFiles => (OPEN_FILES, KernelResource::RLIMIT_NOFILE),
            Self::CoreSize => ("setrlimit(RLIMIT_CORE)", KernelResource::RLIMIT_CORE),
            Self::AddressSpace => ("setrlimit(RLIMIT_AS)", KernelResource::RLIMIT_AS),
            Self::Processes => ("setrlimit(RLIMIT_NPROC)", KernelResource::RLIMIT_NPROC),
            Self::FileSize => ("setrlimit(RLIMIT_FSIZE)", KernelResource::RLIMIT_FSIZE),
        }
    }
}

impl WorkerOptions {
    /// Adds an argument after the group's arguments. A worker of the same executable finds it in
    /// [`std::env::args_os`], after the name that identifies the worker in `ps`.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{WorkerOptions, Workers};
    ///
    /// let workers = Workers::command("web", 4, "/usr/bin/server", ["--quiet"])
    ///     .worker_options(|id| WorkerOptions::default().argument(format!("--shard={id}")));
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable, in preference to the group's
    /// [`Environment`](crate::Environment).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{WorkerOptions, Workers};
    ///
    /// let workers = Workers::command("web", 4, "/usr/bin/server", [""; 0])
    ///     .worker_options(|id| WorkerOptions::default().variable("PORT", (8000 + id).to_string()));
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Sets the processors on which the worker runs, by their numbers in the kernel. The default is
    /// the processors of the master.
    ///
    /// If a processor exists but is not available in the master's container, the start fails.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{WorkerOptions, Workers};
    ///
    /// // One worker for each processor.
    /// let workers = Workers::same_executable("http", 4)
    ///     .worker_options(|id| WorkerOptions::default().processors([id]));
    /// # let _ = workers;
    /// ```
    #[must_use]
    #[doc(alias = "affinity")]
    pub fn processors(mut self, numbers: impl IntoIterator<Item = u32>) -> Self {
        self.processors = Some(numbers.into_iter().collect());
        self
    }

    /// Sets the priority, from -20 (highest) to 19; not relative to the master's, which is the
    /// default. A priority above the master's requires root.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{WorkerOptions, Workers};
    ///
    /// let workers = Workers::same_executable("batch", 2)
    ///     .worker_options(|_| WorkerOptions::default().nice(10));
    /// # let _ = workers;
    /// ```
    #[must_use]
    #[doc(alias = "priority")]
    pub fn nice(mut self, nice: i32) -> Self {
        self.nice = Some(nice);
        self
    }

    /// Sets the soft limit, which the kernel enforces, and the hard limit, up to which the worker
    /// can raise it. The default is the limits with which the master was started. A hard limit
    /// above the master's requires root.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Resource, WorkerOptions, Workers};
    ///
    /// let workers = Workers::same_executable("http", 4)
    ///     .worker_options(|_| WorkerOptions::default().limit(Resource::OpenFiles, 1024, 65_536));
    /// # let _ = workers;
    /// ```
    #[must_use]
    #[doc(alias = "rlimit")]
    pub fn limit(mut self, resource: Resource, soft: u64, hard: u64) -> Self {
        self.limits.insert(resource, (soft, hard));
        self
    }

    pub(crate) fn check(self) -> Result<CheckedOptions, Error> {
        let arguments = self.arguments.into_iter().map(c_string).collect::<Result<_, _>>()?;
        let variables = self.variables.into_iter().map(|(name, value)| entry(&name, value));
        let limits = self.limits.into_iter().map(|(resource, (soft, hard))| {
            if soft > hard {
                let message =
                    format!("{resource:?}: the soft limit {soft} is above the hard {hard}");
                return Err(Error::new(ErrorKind::Usage, message));
            }
            let (call, resource) = resource.in_kernel();
            Ok(Limit { call, resource, soft, hard })
        });
        let resources = Resources {
            processors: self.processors.as_deref().map(processor_set).transpose()?,
            nice: self.nice.map(check_nice).transpose()?,
            limits: limits.collect::<Result<_, _>>()?,
        };
        Ok(CheckedOptions { arguments, variables: variables.collect::<Result<_, _>>()?, resources })
    }
}

fn check_nice(nice: i32) -> Result<i32, Error> {
    // The kernel would silently use the nearest valid priority.
    if (-20..=19).contains(&nice) {
        Ok(nice)
    } else {
        let message = format!("priority {nice} does not exist; they go from -20 to 19");
        Err(Error::new(ErrorKind::Usage, message))
    }
}

fn processor_set(numbers: &[u32]) -> Result<CpuSet, Error> {
    let refuse = |message: String| Err(Error::new(ErrorKind::Usage, message));
    if numbers.is_empty() {
        return refuse("no processor to run on".to_owned());
    }
    // Without the list, the kernel's answer to the worker must suffice.
    let online = processors_online().ok();
    let mut set = CpuSet::new();
    for number in numbers {
        let exists = online.as_deref().is_none_or(|online| lists(online, *number));
        let placed = usize::try_from(*number).is_ok_and(|number| set.set(number).is_ok());
        if !exists || !placed {
            let online = online.unwrap_or_else(|| format!("0-{}", CpuSet::count() - 1));
            return refuse(format!("processor {number} does not exist; there are {online}"));
        }
    }
    Ok(set)
}

/// Returns whether a list such as `0-3,8` contains this number.
fn lists(list: &str, number: u32) -> bool {
    list.split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let bounds = (first.parse::<u32>(), last.parse::<u32>());
        matches!(bounds, (Ok(first), Ok(last)) if (first..=last).contains(&number))
    })
}

/// The valid options of one worker, in the form for its start.
#[derive(Clone, Debug, Default)]
pub(crate) struct CheckedOptions {
    pub(crate) arguments: Vec<CString>,
    variables: Vec<CString>,
    pub(crate) resources: Resources,
}

impl CheckedOptions {
    /// Returns the group's environment, in which this worker's variables replace variables of the
    /// same name.
    pub(crate) fn environment(&self, group: &[CString]) -> Vec<CString> {
        let is_replaced =
            |entry: &&CString| self.variables.iter().any(|own| name(own) == name(entry));
        let kept = group.iter().filter(|entry| !is_replaced(entry));
        kept.chain(&self.variables).cloned().collect()
    }
}

fn name(entry: &CString) -> Option<&[u8]> {
    entry.as_bytes().split(|byte| *byte == b'=').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(options: WorkerOptions) -> String {
        options.check().unwrap_err().report()
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let options = WorkerOptions::default;
        assert_eq!(why(options().processors([])), "no processor to run on");
        for number in [1023, 1024, u32::MAX] {
            let why = why(options().processors([0, number]));
            assert!(why.starts_with(&format!("processor {number} does not exist; ")), "{why}");
        }
        for nice in [-21, 20] {
            assert!(why(options().nice(nice)).starts_with(&format!("priority {nice} does not")));
        }
        let crossed = options().limit(Resource::FileSize, 2, 1);
        assert_eq!(why(crossed), "FileSize: the soft limit 2 is above the hard 1");
        assert!(why(options().argument("a\0b")).contains("NUL"));
        assert!(why(options().variable("A=B", "")).contains("`A=B`"));
    }

    #[test]
    fn what_can_be_is_taken() {
        let limits = [Resource::UNLIMITED, 0];
        let options = WorkerOptions::default().nice(-20).nice(19).processors([0, 0]);
        let options =
            limits.iter().fold(options, |options, max| options.limit(Resource::OpenFiles, 0, *max));
        let checked = options.check().unwrap();
        assert_eq!(checked.resources.nice, Some(19));
        let [limit] = checked.resources.limits[..] else { panic!("the last one alone") };
        assert_eq!((limit.soft, limit.hard), (0, 0));
    }

    #[test]
    fn a_list_of_processors_is_understood() {
        let listed = |list| (0..12).filter(|number| lists(list, *number)).collect::<Vec<_>>();
        assert_eq!(listed("0"), [0]);
        assert_eq!(listed("0-2,8,10-11"), [0, 1, 2, 8, 10, 11]);
        assert_eq!(listed(""), [0_u32; 0]);
    }

    #[test]
    fn a_variable_takes_the_place_of_the_group_s() {
        let block = ["A=1", "AB=2", "C=3"].map(|entry| CString::new(entry).unwrap());
        let checked = WorkerOptions::default().variable("A", "x=y").variable("D", "").check();
        let own = checked.unwrap().environment(&block);
        assert_eq!(own, ["AB=2", "C=3", "A=x=y", "D="].map(|entry| CString::new(entry).unwrap()));
    }
}
