//! What tools count of a message: the difference of two runs, in all processes.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::cells::{AnyError, Cell, Task};

/// Makes the command that measures so many messages.
type Make<'a> = &'a dyn Fn(u32) -> Result<Command, AnyError>;

/// System calls, if strace is installed.
pub(crate) fn system_calls(cell: Cell, command: Make<'_>) -> Option<f64> {
    difference(cell, &|calls| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-c", "-U", "calls,name", "-o", "/dev/stderr"]);
        let output = traced(strace, command(calls)?).output()?;
        let report = String::from_utf8_lossy(&output.stderr).into_owned();
        let total = report.lines().rev().find(|line| line.contains("total"));
        let total = total.and_then(|line| line.split_whitespace().next()).ok_or("no total")?;
        Ok(total.parse()?)
    })
}

/// Instructions outside the kernel, if callgrind is installed.
pub(crate) fn instructions(cell: Cell, command: Make<'_>) -> Option<f64> {
    difference(cell, &|calls| {
        let directory = tempfile::tempdir()?;
        // Workers that run as another user write there, too.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o1777))?;
        let path = directory.path().display();
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--trace-children=yes"]);
        valgrind.arg(format!("--log-file={path}/%p.log"));
        valgrind.arg(format!("--callgrind-out-file={path}/%p.out"));
        let output = traced(valgrind, command(calls)?).output()?;
        if !output.status.success() {
            return Err("callgrind has failed".into());
        }
        let mut sum = 0.0;
        for entry in fs::read_dir(directory.path())? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let text = fs::read_to_string(path)?;
            let collected = text.lines().rev().find_map(|line| line.split_once("Collected : "));
            if let Some((_, count)) = collected {
                sum += count.trim().parse::<f64>()?;
            }
        }
        Ok(sum)
    })
}

fn traced(mut tool: Command, command: Command) -> Command {
    tool.arg(command.get_program()).args(command.get_args());
    tool
}

fn difference(cell: Cell, count: &dyn Fn(u32) -> Result<f64, AnyError>) -> Option<f64> {
    let (few, many) = cell.traced();
    let messages = Task::of(cell, many).messages() - Task::of(cell, few).messages();
    let (few, many) = (count(few).ok()?, count(many).ok()?);
    Some((many - few) / f64::from(messages)).filter(|each| *each > 0.0)
}
