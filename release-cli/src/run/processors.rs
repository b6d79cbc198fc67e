//! How many processors the container that this runs in has.

use std::path::Path;

/// What this process may run on at once, at least 1: its affinity, or what the quotas of its control
/// group and of those above leave of it, rounded up.
pub(super) fn processors() -> u32 {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let allowed = read("/proc/self/status".as_ref()).and_then(|status| affinity(&status));
    // The library's count rounds quotas down, so it is only for systems without /proc.
    let allowed = allowed.unwrap_or_else(|| {
        std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
    });
    let groups = read("/proc/self/cgroup".as_ref()).unwrap_or_default();
    quota(&groups, read).map_or(allowed, |quota| quota.min(allowed)).max(1)
}

/// The processors of `Cpus_allowed_list` such as `0-3,8`.
fn affinity(status: &str) -> Option<u32> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let counts = list.trim().split(',').map(|range| -> Option<u32> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    });
    counts.sum()
}

/// The smallest quota of these groups, `/proc/self/cgroup`, and of all groups above them.
///
/// In a container the path may be that of the host while the file system begins at the container's
/// group: then the walk up ends there.
fn quota(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u32> {
    let of_line = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let (mount, is_second) = match controllers {
            "" => ("/sys/fs/cgroup", true),
            _ if controllers.split(',').any(|name| name == "cpu") => ("/sys/fs/cgroup/cpu", false),
            _ => return None,
        };
        let own = Path::new(mount).join(path.trim_start_matches('/'));
        let above = own.ancestors().take_while(|group| group.starts_with(mount));
        above
            .filter_map(|group| match is_second {
                true => of_text(&read(&group.join("cpu.max"))?),
                false => {
                    let quota = read(&group.join("cpu.cfs_quota_us"))?;
                    of_text(&format!("{quota} {}", read(&group.join("cpu.cfs_period_us"))?))
                }
            })
            .min()
    };
    groups.lines().filter_map(of_line).min()
}

/// The text of `cpu.max`: microseconds of processor time, or `max`, in a period of so many.
fn of_text(text: &str) -> Option<u32> {
    let mut words = text.split_whitespace();
    // The older files say -1 for no limit, which is no number here either.
    let (quota, period): (u64, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let processors = (period > 0).then(|| quota.div_ceil(period).max(1))?;
    Some(u32::try_from(processors).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_rounded_up() {
        for (text, processors) in [
            ("150000 100000\n", Some(2)),
            ("200000 100000\n", Some(2)),
            ("200001 100000\n", Some(3)),
            ("1000 100000\n", Some(1)),
            ("max 100000\n", None),
            ("-1\n 100000\n", None),
            ("100000 0", None),
            ("18446744073709551615 1", Some(u32::MAX)),
            ("100000", None),
            ("", None),
        ] {
            assert_eq!(of_text(text), processors, "{text}");
        }
    }

    #[test]
    fn the_affinity_is_counted() {
        let of = |list: &str| affinity(&format!("Cpus_allowed:\tff\nCpus_allowed_list:\t{list}\n"));
        for (list, processors) in
            [("0", Some(1)), ("0-3", Some(4)), ("1,4-5,1023-1030", Some(11)), ("", None)]
        {
            assert_eq!(of(list), processors, "{list}");
        }
        assert!(of("3-1").is_none() && of("0-4294967295").is_none() && of("x").is_none());
    }

    #[test]
    fn the_tightest_group_counts_in_both_versions() {
        let read = |path: &Path| {
            let text = match path.to_str()? {
                "/sys/fs/cgroup/pods/cpu.max" => "250000 100000\n",
                "/sys/fs/cgroup/pods/web/cpu.max" => "max 100000\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us" => "400000\n",
                "/sys/fs/cgroup/cpu/web/cpu.cfs_quota_us" => "-1\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us"
                | "/sys/fs/cgroup/cpu/web/cpu.cfs_period_us" => "100000\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        for (groups, processors) in [
            ("0::/pods/web\n", Some(3)),
            ("0::/other\n", None),
            ("2:memory:/pods\n4:cpu,cpuacct:/web\n0::/\n", Some(4)),
            // A path of the host.
            ("4:cpuacct,cpu:/docker/123\n", Some(4)),
            ("0::/pods/web\n4:cpu:/\n", Some(3)),
            ("3:cpuset:/pods\n", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(quota(groups, read), processors, "{groups}");
        }
    }
}
