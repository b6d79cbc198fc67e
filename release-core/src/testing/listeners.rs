//! The addresses at which processes listen, from /proc.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The state of a listening socket in /proc/net/tcp.
const LISTEN: &str = "0A";

/// Returns the TCP addresses at which these processes listen, in order, each once.
pub(super) fn addresses(processes: &[i32]) -> Vec<SocketAddr> {
    let mut all = BTreeSet::new();
    for pid in processes {
        let own = sockets(*pid);
        for table in ["tcp", "tcp6"] {
            let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
            let listening = text.lines().skip(1).filter_map(listener);
            all.extend(listening.filter(|(inode, _)| own.contains(inode)).map(|(_, at)| at));
        }
    }
    all.into_iter().collect()
}

/// The inodes of the sockets of a process.
fn sockets(pid: i32) -> HashSet<u64> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |target: std::path::PathBuf| {
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    targets.filter_map(inode).collect()
}

/// Parses a line of /proc/net/tcp: the inode and the address of a listening socket.
fn listener(line: &str) -> Option<(u64, SocketAddr)> {
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    if *words.get(3)? != LISTEN {
        return None;
    }
    let (ip, port) = words.get(1)?.split_once(':')?;
    let address = SocketAddr::new(ip_address(ip)?, u16::from_str_radix(port, 16).ok()?);
    Some((words.get(9)?.parse().ok()?, address))
}

/// Parses words of 32 bits, each printed as a number of this machine.
fn ip_address(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::with_capacity(16);
    for start in (0..text.len()).step_by(8) {
        let word = u32::from_str_radix(text.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    if let Ok(four) = <[u8; 4]>::try_from(&*bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(&*bytes).ok().map(|sixteen| Ipv6Addr::from(sixteen).into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_listeners_of_this_process_are_found() {
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let six = TcpListener::bind("[::1]:0").ok();
        let found = addresses(&[i32::try_from(std::process::id()).unwrap()]);
        let bound = [Some(&four), six.as_ref()].into_iter().flatten();
        for address in bound.map(|listener| listener.local_addr().unwrap()) {
            assert!(found.contains(&address), "{address} is not in {found:?}");
        }
        drop(six);
    }

    #[test]
    fn other_lines_are_no_listeners() {
        let connected =
            "1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 0 0 0 77 1 0";
        assert_eq!(listener(connected), None);
        for line in ["", "sl local_address", "1: 0100007F 0:0 0A 0 0 0 0 0 77", "1: 01:1 0:0 0A"] {
            assert_eq!(listener(line), None, "{line}");
        }
    }
}
