//! The restrictions that the running kernel can enforce.

use super::calls::is_known_architecture;
use crate::sys::confinement::InForce;
use crate::sys::{landlock, seccomp};
use crate::{Error, ErrorKind};

/// The bit of the capability to mount.
const SYS_ADMIN: u64 = 1 << 21;

/// The restrictions that a kernel can enforce.
#[derive(Clone, Debug)]
pub(super) struct Enforceable {
    /// Release of the kernel, such as `6.1.0-18-amd64`.
    pub(super) release: String,
    /// Version of Landlock; 0 for none.
    pub(super) landlock: u32,
    /// The reason why there is no Landlock.
    pub(super) without_landlock: Option<String>,
    pub(super) has_filters: bool,
    /// This process may mount.
    pub(super) can_mount: bool,
}

/// A part of a sandbox that not every kernel can enforce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Files,
    Ports,
    Isolation,
    Calls,
    PrivateTmp,
}

impl Part {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Ports => "ports",
            Self::Isolation => "isolation",
            Self::Calls => "calls",
            Self::PrivateTmp => "private /tmp",
        }
    }

    /// Returns the version of Landlock that the part needs, and the kernel that has it.
    fn needs(self) -> (u32, &'static str) {
        match self {
            Self::Files => (3, "6.2"),
            Self::Ports => (4, "6.7"),
            Self::Isolation => (6, "6.12"),
            Self::Calls => (0, "3.17"),
            Self::PrivateTmp => (0, "2.6.15"),
        }
    }
}

impl Enforceable {
    /// Returns the restrictions of this kernel.
    pub(super) fn here() -> Self {
        let (landlock, without_landlock) = match landlock::version() {
            Ok(version) => (version, None),
            Err(error) => (0, Some(error.to_string())),
        };
        let name = nix::sys::utsname::uname().ok();
        let release = name.map(|name| name.release().to_string_lossy().into_owned());
        Self {
            release: release.unwrap_or_else(|| "unknown".to_owned()),
            landlock,
            without_landlock,
            has_filters: is_known_architecture() && seccomp::is_supported(),
            can_mount: InForce::here().is_some_and(|own| own.capabilities & SYS_ADMIN != 0),
        }
    }

    pub(super) fn has(&self, part: Part) -> bool {
        match part {
            Part::Calls => self.has_filters,
            Part::PrivateTmp => self.can_mount,
            _ => self.landlock >= part.needs().0,
        }
    }

    /// Returns the error of a sandbox with a part that this kernel cannot enforce.
    #[cold]
    pub(super) fn lacks(&self, part: Part) -> Error {
        if part == Part::PrivateTmp {
            let message = "only a master with the capability CAP_SYS_ADMIN can give its workers a private \
                           /tmp: start it as root (in a container with `--cap-add=SYS_ADMIN`), leave \
                           `private_tmp` (`--private-tmp`) out, or ask for best effort \
                           (`Sandbox::best_effort`, `--sandbox-best-effort`)";
            return Error::new(ErrorKind::Privileges, message);
        }
        let (version, release) = part.needs();
        let why = match (part, &self.without_landlock) {
            (Part::Calls, _) => {
                "it has no filters of system calls for this processor, or the container around \
                 this process does not allow them"
                    .to_owned()
            }
            (_, Some(why)) => format!(
                "it has no Landlock ({why}; `lsm=landlock,...` on its command line enables it)"
            ),
            (_, None) => format!("it has version {} of Landlock", self.landlock),
        };
        let needed = match part {
            Part::Calls => String::new(),
            _ => format!(" version {version}, which Linux {release} has, is necessary;"),
        };
        let message = format!(
            "the kernel {} cannot enforce the part `{}` of this sandbox: {why};{needed} leave that \
             part out, or ask for best effort (`Sandbox::best_effort`, `--sandbox-best-effort`)",
            self.release,
            part.name(),
        );
        Error::new(ErrorKind::Privileges, message)
    }
}
