//! Where the threads of a process are, as far as the kernel tells it.

use std::fs;

use super::beginning;

/// Maximum number of threads with a line, and longest line in bytes.
const MOST_THREADS: usize = 16;
const LONGEST: usize = 300;

/// Maximum number of kernel functions of a stack.
const MOST_CALLS: usize = 8;

/// Maximum number of threads that are counted.
const COUNTED: usize = 4096;

/// Returns a line for each thread of a process: its name and state, the kernel function that it sleeps in,
/// and, if this process may know them, its system call and kernel stack.
///
/// Blocks for as long as the process waits in execve(2), such as for a dead network file system.
pub(crate) fn stacks(pid: i32) -> Vec<String> {
    #[cfg(test)]
    if super::simulated::system().is_some() {
        return Vec::new();
    }
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let ids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let mut ids: Vec<_> = ids.take(COUNTED).collect();
    // The main thread is the first.
    ids.sort_unstable_by_key(|id| (*id != pid, *id));
    let more = ids.len().saturating_sub(MOST_THREADS);
    let lines = ids.iter().take(MOST_THREADS).filter_map(|id| thread(pid, *id));
    lines.chain((more > 0).then(|| format!("and {more} more threads"))).collect()
}

fn thread(pid: i32, id: i32) -> Option<String> {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{id}/{name}")).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let status = read("status")?;
    let value = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let state = value("State")?.split(['(', ')']).nth(1)?;
    let mut line = format!("thread {id} ({}): {state}", value("Name")?.escape_debug());
    // The kernel says 0 instead of what this process may not know.
    if let Some(function) = read("wchan").filter(|text| text != "0") {
        line += &format!(" in {function}");
    }
    let call = read("syscall");
    if let Some(number) = call.and_then(|text| text.split(' ').next()?.parse::<u32>().ok()) {
        line += &format!(", system call {number}");
    }
    if let Some(stack) = read("stack") {
        let calls: Vec<_> = stack.lines().filter_map(kernel_function).take(MOST_CALLS).collect();
        line += &format!(", kernel stack {}", calls.join(" < "));
    }
    Some(beginning(&line, LONGEST).to_owned())
}

/// Returns the name of a function in a line such as `[<0>] do_epoll_wait+0x1/0x2`.
fn kernel_function(line: &str) -> Option<&str> {
    let (_, function) = line.split_once(' ')?;
    function.split('+').next()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn the_threads_of_a_process_have_lines() {
        let (all_there, wait) = (Barrier::new(21), Barrier::new(21));
        let lines = thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (all_there.wait(), wait.wait()));
            }
            all_there.wait();
            let lines = stacks(i32::try_from(std::process::id()).unwrap());
            wait.wait();
            lines
        });
        let main = format!("thread {} (", std::process::id());
        assert!(lines[0].starts_with(&main), "{lines:?}");
        assert_eq!(lines.len(), MOST_THREADS + 1, "{lines:?}");
        assert!(lines[MOST_THREADS].starts_with("and "), "{lines:?}");
        assert!(lines.iter().all(|line| line.len() <= LONGEST), "{lines:?}");
    }

    #[test]
    fn a_process_that_has_gone_has_none() {
        assert_eq!(stacks(i32::MAX), [""; 0]);
        assert_eq!(kernel_function("[<0>] do_epoll_wait+0x1/0x2"), Some("do_epoll_wait"));
    }
}
