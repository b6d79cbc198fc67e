//! The system calls that a sandbox forbids, as a filter for the kernel.

use crate::sys::calls::{BASIC, STRICT};
use crate::sys::seccomp::{Instruction, OWN_ARCHITECTURE};

/// Sets of forbidden system calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum CallSet {
    #[default]
    None,
    Basic,
    Strict,
}

/// The rules of a filter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forbidden {
    pub(super) set: CallSet,
    /// A forbidden call kills the process.
    pub(super) kills: bool,
    /// The program changes its root directory before it serves.
    pub(super) enters_root: bool,
    /// TCP ports are restricted, which must hold for all ways to connect.
    pub(super) ports: bool,
}

/// Number of the latest system call that the lists below consider. Numbers are common to all
/// architectures from 424 on. Later calls do not exist for a process with a filter.
const LATEST: u32 = 469;

/// Flags of clone(2) that make namespaces.
const NEW_NAMESPACES: u32 = 0x7e02_0000;

/// Requests of ioctl(2): to insert input into a terminal (`TIOCSTI`, `TIOCLINUX`), and to give it
/// another line discipline (`TIOCSETD`).
const FORBIDDEN_REQUESTS: [u32; 3] = [0x5412, 0x541c, 0x5423];

/// Families of sockets: Unix, IPv4, IPv6, and Netlink, by which the C library finds out which of
/// these there are.
const FAMILIES: [u32; 4] = [1, 2, 10, 16];

/// Protocols that speak TCP with hosts that know no other (SMC and MPTCP), and the family of the first:
/// Landlock restricts only sockets of TCP itself.
const LIKE_TCP: [u32; 2] = [256, 262];
const AF_SMC: u32 = 43;

/// Calls with a flag that connects a TCP socket (`MSG_FASTOPEN`), which Landlock does not see, and the
/// argument with the flags.
const SENDING: [(libc::c_long, u32); 3] = [
    (libc::SYS_sendto, FOURTH_ARGUMENT),
    (libc::SYS_sendmsg, THIRD_ARGUMENT),
    (libc::SYS_sendmmsg, FOURTH_ARGUMENT),
];
const FAST_OPEN: u32 = 0x2000_0000;

/// Offsets in the structure that a filter sees; of an argument, the lower half.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
const SECOND_ARGUMENT: u32 = 24;
const THIRD_ARGUMENT: u32 = 32;
const FOURTH_ARGUMENT: u32 = 40;

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const IS_EQUAL: u16 = 0x15;
const IS_GREATER: u16 = 0x25;
const HAS_ANY_BIT: u16 = 0x45;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NO_SUCH_CALL: u32 = errno(libc::ENOSYS);

const fn errno(number: libc::c_int) -> u32 {
    libc::SECCOMP_RET_ERRNO | number.unsigned_abs()
}

/// Returns whether filters exist for this architecture.
pub(super) fn is_known_architecture() -> bool {
    OWN_ARCHITECTURE.is_some()
}

impl Forbidden {
    /// Returns the filter; empty if nothing is forbidden.
    pub(super) fn filter(self) -> Vec<Instruction> {
        let (Some(architecture), true) = (OWN_ARCHITECTURE, self.set != CallSet::None) else {
            return Vec::new();
        };
        let refusal = if self.kills { libc::SECCOMP_RET_KILL_PROCESS } else { errno(libc::EPERM) };
        let mut filter = Filter(Vec::new());
        filter.load(ARCHITECTURE);
        // The calls of another architecture have other numbers.
        filter.jump(IS_EQUAL, architecture, 1, 0);
        filter.finish(refusal);
        filter.load(NUMBER);
        // Also all calls of x32, which have an additional bit.
        filter.finish_if(IS_GREATER, LATEST, NO_SUCH_CALL);
        // Its flags are in memory, where a filter cannot see them. The C library uses clone then.
        filter.finish_if(IS_EQUAL, number(libc::SYS_clone3), NO_SUCH_CALL);
        if self.ports {
            // As if the kernel did not have it: programs then connect in the usual way.
            for (call, flags) in SENDING {
                filter.argument(call, flags, |filter| {
                    filter.finish_if(HAS_ANY_BIT, FAST_OPEN, errno(libc::EOPNOTSUPP));
                    filter.finish(ALLOW);
                });
            }
        }
        let own = match self.set {
            CallSet::Strict => STRICT,
            _ => &[],
        };
        let chroot = (!self.enters_root).then_some(libc::SYS_chroot);
        for call in BASIC.iter().chain(own).map(|call| call.number).chain(chroot) {
            filter.finish_if(IS_EQUAL, number(call), refusal);
        }
        filter.argument(libc::SYS_clone, FIRST_ARGUMENT, |filter| {
            filter.finish_if(HAS_ANY_BIT, NEW_NAMESPACES, refusal);
            filter.finish(ALLOW);
        });
        filter.argument(libc::SYS_ioctl, SECOND_ARGUMENT, |filter| {
            for request in FORBIDDEN_REQUESTS {
                filter.finish_if(IS_EQUAL, request, refusal);
            }
            filter.finish(ALLOW);
        });
        filter.argument(libc::SYS_socket, THIRD_ARGUMENT, |filter| self.sockets(filter, refusal));
        filter.finish(ALLOW);
        filter.0
    }

    /// Decides on a new socket by its protocol and its family.
    fn sockets(&self, filter: &mut Filter, refusal: u32) {
        if self.ports {
            for protocol in LIKE_TCP {
                filter.finish_if(IS_EQUAL, protocol, errno(libc::EPROTONOSUPPORT));
            }
        }
        filter.load(FIRST_ARGUMENT);
        if self.set == CallSet::Strict {
            for family in FAMILIES {
                filter.finish_if(IS_EQUAL, family, ALLOW);
            }
            filter.finish(refusal);
        } else {
            if self.ports {
                filter.finish_if(IS_EQUAL, AF_SMC, errno(libc::EAFNOSUPPORT));
            }
            filter.finish(ALLOW);
        }
    }
}

/// Returns the number of a call as a filter sees it.
fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

/// The instructions so far.
struct Filter(Vec<Instruction>);

impl Filter {
    fn jump(&mut self, code: u16, value: u32, if_true: u8, if_false: u8) {
        self.0.push(Instruction { code, if_true, if_false, value });
    }

    fn load(&mut self, offset: u32) {
        self.jump(LOAD, offset, 0, 0);
    }

    fn finish(&mut self, outcome: u32) {
        self.jump(RETURN, outcome, 0, 0);
    }

    fn finish_if(&mut self, code: u16, value: u32, outcome: u32) {
        self.jump(code, value, 0, 1);
        self.finish(outcome);
    }

    /// Adds a part that decides by an argument of a call. It must finish in any case.
    fn argument(&mut self, call: libc::c_long, offset: u32, part: impl FnOnce(&mut Self)) {
        let mut own = Self(Vec::new());
        own.load(offset);
        part(&mut own);
        let length = u8::try_from(own.0.len()).unwrap_or(u8::MAX);
        self.jump(IS_EQUAL, number(call), 0, length);
        self.0.append(&mut own.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPERM: u32 = errno(libc::EPERM);
    const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

    /// Runs a filter as the kernel does.
    fn outcome(filter: &[Instruction], [number, architecture, first, second]: [u32; 4]) -> u32 {
        outcome_of(filter, [number, architecture], [first, second, 0, 0])
    }

    fn outcome_of(
        filter: &[Instruction],
        [number, architecture]: [u32; 2],
        [first, second, third, fourth]: [u32; 4],
    ) -> u32 {
        let (mut at, mut loaded) = (0_usize, 0);
        loop {
            let Instruction { code, if_true, if_false, value } = filter[at];
            let holds = match code {
                RETURN => return value,
                IS_EQUAL => loaded == value,
                IS_GREATER => loaded > value,
                HAS_ANY_BIT => loaded & value != 0,
                LOAD => {
                    loaded = match value {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        FIRST_ARGUMENT => first,
                        SECOND_ARGUMENT => second,
                        THIRD_ARGUMENT => third,
                        FOURTH_ARGUMENT => fourth,
                        _ => panic!("offset {value}"),
                    };
                    true
                }
                _ => panic!("code {code}"),
            };
            at += 1 + usize::from(if holds { if_true } else { if_false });
        }
    }

    fn filter(set: CallSet) -> Vec<Instruction> {
        Forbidden { set, kills: false, enters_root: false, ports: false }.filter()
    }

    fn of(set: CallSet, call: libc::c_long, first: u32, second: u32) -> u32 {
        let architecture = OWN_ARCHITECTURE.unwrap();
        outcome(&filter(set), [number(call), architecture, first, second])
    }

    #[test]
    fn forbidden_calls_are_refused_and_others_allowed() {
        for set in [CallSet::Basic, CallSet::Strict] {
            for call in BASIC.iter().map(|call| call.number).chain([libc::SYS_chroot]) {
                assert_eq!(of(set, call, 0, 0), EPERM, "{call}");
            }
            for call in [libc::SYS_read, libc::SYS_execve, libc::SYS_futex, libc::SYS_seccomp] {
                assert_eq!(of(set, call, u32::MAX, u32::MAX), ALLOW, "{call}");
            }
        }
        for call in STRICT.iter().map(|call| call.number) {
            assert_eq!(of(CallSet::Strict, call, 0, 0), EPERM, "{call}");
            assert_eq!(of(CallSet::Basic, call, 0, 0), ALLOW, "{call}");
        }
        assert!(filter(CallSet::None).is_empty());
    }

    #[test]
    fn arguments_decide() {
        let (set, threads) = (CallSet::Basic, 0x3d_0f00);
        assert_eq!(of(set, libc::SYS_clone, threads, 0), ALLOW);
        for flag in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 1 << 28, 1 << 29, 1 << 30] {
            assert_eq!(of(set, libc::SYS_clone, threads | flag, 0), EPERM, "{flag:x}");
        }
        assert_eq!(of(set, libc::SYS_clone3, 0, 0), NO_SUCH_CALL);
        assert_eq!(of(set, libc::SYS_ioctl, 0x5412, 0x5401), ALLOW);
        assert_eq!(of(set, libc::SYS_ioctl, 0, 0x5412), EPERM);
        assert_eq!(of(set, libc::SYS_ioctl, 0, 0x541c), EPERM);
        let families = |set| [1, 2, 10, 16, 17, 38].map(|it| of(set, libc::SYS_socket, it, 0));
        assert_eq!(families(CallSet::Basic), [ALLOW; 6]);
        let expected = [ALLOW, ALLOW, ALLOW, ALLOW, EPERM, EPERM];
        assert_eq!(families(CallSet::Strict), expected);
    }

    #[test]
    fn restricted_ports_hold_for_all_ways_to_connect() {
        let architecture = OWN_ARCHITECTURE.unwrap();
        for set in [CallSet::Basic, CallSet::Strict] {
            let of = |ports, call, arguments| {
                let filter = Forbidden { set, kills: true, enters_root: false, ports }.filter();
                outcome_of(&filter, [number(call), architecture], arguments)
            };
            for (arguments, expected) in [
                ([2, 1, 262, 0], errno(libc::EPROTONOSUPPORT)),
                ([10, 1, 256, 0], errno(libc::EPROTONOSUPPORT)),
                ([2, 1, 6, 0], ALLOW),
                ([1, 1, 0, 0], ALLOW),
            ] {
                assert_eq!(of(true, libc::SYS_socket, arguments), expected, "{arguments:?}");
                assert_eq!(of(false, libc::SYS_socket, arguments), ALLOW, "{arguments:?}");
            }
            assert_ne!(of(true, libc::SYS_socket, [AF_SMC, 1, 0, 0]), ALLOW);
            for (call, arguments) in [
                (libc::SYS_sendto, [3, 0, 0, FAST_OPEN]),
                (libc::SYS_sendmsg, [3, 0, FAST_OPEN | 1, 0]),
                (libc::SYS_sendmmsg, [3, 0, 1, FAST_OPEN]),
            ] {
                assert_eq!(of(true, call, arguments), errno(libc::EOPNOTSUPP), "{call}");
                assert_eq!(of(false, call, arguments), ALLOW, "{call}");
                assert_eq!(of(true, call, [3, FAST_OPEN, 0, 0]), ALLOW, "{call}");
            }
        }
    }

    #[test]
    fn other_numbers_are_no_way_around() {
        let (basic, own) = (filter(CallSet::Basic), OWN_ARCHITECTURE.unwrap());
        let x32 = number(libc::SYS_ptrace) | 1 << 30;
        assert_eq!(outcome(&basic, [x32, own, 0, 0]), NO_SUCH_CALL);
        assert_eq!(outcome(&basic, [LATEST + 1, own, 0, 0]), NO_SUCH_CALL);
        assert_eq!(outcome(&basic, [0, 0x4000_0003, 0, 0]), EPERM);
        let fatal = Forbidden { set: CallSet::Basic, kills: true, enters_root: true, ports: true };
        let fatal = fatal.filter();
        assert_eq!(outcome(&fatal, [0, 0x4000_0003, 0, 0]), KILL);
        assert_eq!(outcome(&fatal, [number(libc::SYS_bpf), own, 0, 0]), KILL);
        assert_eq!(outcome(&fatal, [number(libc::SYS_chroot), own, 0, 0]), ALLOW);
        // The kernel accepts so many instructions.
        assert!(filter(CallSet::Strict).len() < 4096);
    }
}
