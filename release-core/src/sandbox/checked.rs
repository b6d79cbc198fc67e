//! A sandbox whose parts are checked against the kernel and the files.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::calls::{CallSet, Forbidden};
use super::kernel::{Enforceable, Part};
use super::{Access, Sandbox, capability};
use crate::path::{absolute, c_string};
use crate::start_files::looked_up;
use crate::sys::confinement::{Confinement, InForce};
use crate::sys::landlock::{self, BIND_TCP, CONNECT_TCP, Decided, LandlockRules, PathRule, files};
use crate::sys::mounts;
use crate::{Error, ErrorKind};

/// Programs that load others, which run with the programs' own rights.
const LOADERS: [&str; 5] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
    "/usr/lib/ld-linux-aarch64.so.1",
];

/// Files that programs and their libraries read on any system, and that hold no secrets.
const SYSTEM: [&str; 29] = [
    "/usr",
    "/lib",
    "/lib64",
    "/lib32",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/locale.alias",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/mime.types",
    "/etc/passwd",
    "/etc/group",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust",
    "/etc/ca-certificates",
    "/run/systemd/resolve/stub-resolv.conf",
    // The files of other processes in it are protected by other rules.
    "/proc",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/dev/urandom",
];

/// Devices without effect.
const DEVICES: [&str; 3] = ["/dev/null", "/dev/zero", "/dev/full"];

/// Directories that all processes write to, and that a process can have for itself.
const PRIVATE: [&str; 2] = ["tmp", "var/tmp"];

const READ: u64 = files::READ_FILE | files::READ_DIRECTORY;
const WRITE: u64 =
    READ | files::WRITE_FILE | files::CHANGE_DIRECTORY | files::REFER | files::TRUNCATE;

/// The directories in which a worker finds its files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    /// Start of relative paths, as the worker sees it.
    pub(crate) start: &'a Path,
    /// Another root directory.
    pub(crate) root: Option<&'a Path>,
    /// The program enters that directory itself.
    pub(crate) enters_root: bool,
}

/// A sandbox that this kernel can enforce.
#[derive(Debug)]
pub(crate) struct CheckedSandbox {
    confinement: Confinement,
    /// The parts in force, and those that this kernel cannot enforce.
    parts: Vec<Part>,
    missing: Vec<Part>,
    private: PrivateTmp,
}

impl Sandbox {
    /// Checks the sandbox against this kernel and the files.
    pub(crate) fn checked(self, surroundings: Surroundings<'_>) -> Result<CheckedSandbox, Error> {
        self.check_for(&Enforceable::here(), surroundings)
    }

    pub(super) fn check_for(
        self,
        kernel: &Enforceable,
        surroundings: Surroundings<'_>,
    ) -> Result<CheckedSandbox, Error> {
        let (parts, missing): (Vec<_>, Vec<_>) =
            self.parts().into_iter().partition(|part| kernel.has(*part));
        if let (Some(part), false) = (missing.first(), self.best_effort) {
            return Err(kernel.lacks(*part));
        }
        if self.kills && self.calls == CallSet::None {
            let message = "a sandbox that forbids no system call cannot kill for one: begin with \
                           `Sandbox::basic()` or `Sandbox::strict()` (`--sandbox basic` or `strict`)";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let capabilities = self.capability_bits()?;
        if capabilities != 0 && surroundings.enters_root {
            let message = "a worker that enters its root directory itself drops all capabilities: \
                           leave `chroot` or `keep_capability` out";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let has = |part| parts.contains(&part);
        let decided = Decided {
            files: if has(Part::Files) { files::ALL } else { 0 },
            ports: if has(Part::Ports) { self.decided_ports() } else { 0 },
            reach: if has(Part::Isolation) { landlock::ISOLATED } else { 0 },
        };
        let private = PrivateTmp::of(has(Part::PrivateTmp), surroundings)?;
        let paths = match has(Part::Files) {
            true => self.path_rules(surroundings, &private)?,
            false => Vec::new(),
        };
        let ports = if has(Part::Ports) { self.port_rules() } else { Vec::new() };
        let set = if has(Part::Calls) { self.calls } else { CallSet::None };
        let forbidden = Forbidden {
            set,
            kills: self.kills,
            enters_root: surroundings.enters_root,
            ports: decided.ports != 0,
        };
        let rules =
            (decided != Decided::default()).then_some(LandlockRules { decided, paths, ports });
        let (filter, covered) = (forbidden.filter(), private.covered()?);
        let confinement = Confinement { capabilities, rules, filter, covered };
        Ok(CheckedSandbox { confinement, parts, missing, private })
    }

    /// Returns the parts that depend on the kernel.
    fn parts(&self) -> Vec<Part> {
        let parts = [
            (Part::Files, self.files.is_some()),
            (Part::Ports, self.decided_ports() != 0),
            (Part::Isolation, self.is_isolated),
            (Part::Calls, self.calls != CallSet::None),
            (Part::PrivateTmp, self.has_private_tmp),
        ];
        parts.into_iter().filter(|(_, has)| *has).map(|(part, _)| part).collect()
    }

    /// Returns the capabilities as bits. This process must have them.
    fn capability_bits(&self) -> Result<u64, Error> {
        let mut bits = 0;
        for name in &self.capabilities {
            bits |= capability::bit(name)?;
        }
        let own = InForce::here();
        let lacking = own.map_or(0, |own| bits & !own.capabilities);
        if lacking != 0 {
            let names = capability::names(lacking);
            let message = format!(
                "workers cannot keep what the master does not have: {names}; start the master with \
                 it (`--cap-add=`, `AmbientCapabilities=`), or leave `keep_capability` out"
            );
            return Err(Error::new(ErrorKind::Privileges, message));
        }
        Ok(bits)
    }

    fn decided_ports(&self) -> u64 {
        let access = |ports: &Option<_>, access| if ports.is_some() { access } else { 0 };
        access(&self.bind, BIND_TCP) | access(&self.connect, CONNECT_TCP)
    }

    fn port_rules(&self) -> Vec<(u16, u64)> {
        let bind = self.bind.iter().flatten().map(|port| (*port, BIND_TCP));
        let connect = self.connect.iter().flatten().map(|port| (*port, CONNECT_TCP));
        bind.chain(connect).collect()
    }

    fn path_rules(
        &self,
        surroundings: Surroundings<'_>,
        private: &PrivateTmp,
    ) -> Result<Vec<PathRule>, Error> {
        let rule = |path: &Path, allowed, is_optional| {
            let path = c_string(path.as_os_str().to_owned())?;
            Ok(PathRule { path, allowed, is_optional })
        };
        let system = |paths: &'static [&str], allowed| {
            paths.iter().map(move |path| rule(path.as_ref(), allowed, true))
        };
        let mut rules = system(&SYSTEM, READ)
            .chain(system(&LOADERS, files::EXECUTE | files::READ_FILE))
            .chain(system(&DEVICES, files::READ_FILE | files::WRITE_FILE))
            .chain(private.0.iter().map(|path| rule(path, WRITE, true)))
            .collect::<Result<Vec<_>, Error>>()?;
        for (path, access) in self.files.iter().flatten() {
            let path = absolute(&surroundings.start.join(path))?;
            let outside = match surroundings.root {
                Some(root) => root.join(path.strip_prefix("/").unwrap_or(&path)),
                None => path.clone(),
            };
            // The new process opens it after a change of the root directory by the master.
            let seen = if surroundings.enters_root { &outside } else { &path };
            private.refuse("its sandbox names", seen)?;
            let question = format!("sandbox:{}", outside.display());
            looked_up(&question, || exists(&outside))?;
            let allowed = match access {
                Access::Read => READ,
                Access::Write => WRITE,
                Access::Execute => READ | files::EXECUTE,
            };
            rules.push(rule(seen, allowed, false)?);
        }
        Ok(rules)
    }
}

fn exists(path: &Path) -> Result<(), Error> {
    path.symlink_metadata().and_then(|_| path.metadata()).map(drop).map_err(|error| {
        let message = format!(
            "the sandbox names {}, which cannot be used; create it, or leave it out",
            path.display()
        );
        Error::system(message, error)
    })
}

/// The directories that a process has for itself alone.
#[derive(Debug, Default)]
struct PrivateTmp(Vec<PathBuf>);

impl PrivateTmp {
    /// Returns the directories as the new process finds them, if it has any.
    fn of(is_asked: bool, surroundings: Surroundings<'_>) -> Result<Self, Error> {
        if !is_asked {
            return Ok(Self::default());
        }
        let root = surroundings.root.filter(|_| surroundings.enters_root);
        let root = root.unwrap_or_else(|| Path::new("/"));
        let private = Self(PRIVATE.map(|name| root.join(name)).into());
        if surroundings.root.is_none() {
            // A process stays in its directory, also behind a link, while others cover it.
            let start = surroundings.start;
            let start = start.canonicalize().unwrap_or_else(|_| start.to_owned());
            private.refuse("its working directory is", &start)?;
        }
        Ok(private)
    }

    fn covered(&self) -> Result<Vec<CString>, Error> {
        self.0.iter().map(|path| c_string(path.clone().into_os_string())).collect()
    }

    /// Refuses a path that such a directory hides.
    fn refuse(&self, what: &str, path: &Path) -> Result<(), Error> {
        if !self.0.iter().any(|hidden| path.starts_with(hidden)) {
            return Ok(());
        }
        let message = format!(
            "a worker with a private /tmp (`private_tmp`, `--private-tmp`) does not see the /tmp of others, \
             and {what} {}: choose another directory",
            path.display()
        );
        Err(Error::new(ErrorKind::Usage, message))
    }
}

impl CheckedSandbox {
    /// Returns the restrictions for a process that runs this program.
    pub(crate) fn confinement(&self, program: &Path) -> Result<Confinement, Error> {
        self.private.refuse("its program is", program)?;
        let mut confinement = self.confinement.clone();
        if let Some(rules) = &mut confinement.rules {
            let path = c_string(PathBuf::from(program).into_os_string())?;
            let allowed = files::EXECUTE | files::READ_FILE;
            // A program that does not exist is execve's error.
            rules.paths.push(PathRule { path, allowed, is_optional: true });
        }
        Ok(confinement)
    }

    /// Returns the restrictions for this process, which runs already.
    pub(super) fn for_this_process(&self) -> Result<&Confinement, Error> {
        if !self.private.0.is_empty() {
            let message = "only a master gives a process a private /tmp, when it starts: use \
                           `Workers::sandbox`, or leave `private_tmp` out";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        Ok(&self.confinement)
    }

    /// Describes the restrictions of a process that runs its program in this sandbox, as the kernel
    /// shows them now. The parts of Landlock are in force because the process could not have run its
    /// program otherwise.
    pub(crate) fn describe(&self, pid: i32) -> Option<Arc<str>> {
        let seen = InForce::of(pid)?;
        let is_in_force = |part: &&Part| match part {
            Part::Calls => seen.has_filter,
            Part::PrivateTmp => mounts::is_covered(pid),
            _ => seen.no_new_privileges,
        };
        let (held, lost): (Vec<_>, Vec<_>) = self.parts.iter().partition(is_in_force);
        let names =
            |parts: &[&Part]| parts.iter().map(|part| part.name()).collect::<Vec<_>>().join(", ");
        let missing: Vec<_> = lost.into_iter().chain(&self.missing).collect();
        let mut text = match held.is_empty() {
            true => String::new(),
            false => format!("{}; ", names(&held)),
        };
        text += &format!("capabilities: {}", capability::names(seen.capabilities));
        if !missing.is_empty() {
            text += &format!("; NOT in force: {}", names(&missing));
        }
        Some(text.into())
    }

    /// Checks that this process has no capabilities but those that the sandbox keeps. They belong to
    /// threads, and are dropped before a worker begins.
    pub(super) fn check_capabilities_here(&self) -> Result<(), Error> {
        let own = InForce::here();
        let others = own.map_or(0, |own| own.capabilities & !self.confinement.capabilities);
        if others == 0 {
            return Ok(());
        }
        let message = format!(
            "this process has capabilities ({}) that the sandbox does not keep: the master removes \
             them (`Workers::sandbox`, `Workers::user`), or keep them with `keep_capability`",
            capability::names(others)
        );
        Err(Error::new(ErrorKind::Privileges, message))
    }
}
