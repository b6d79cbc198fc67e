//! Children of the master beside its workers, as the control socket asks for them.

use release::{ChildCommand, ChildHandle, Error, MasterHandle};

/// Answers `spawn NAME SCRIPT`, `run NAME SCRIPT` (with how it ends), `pid NAME` and `end NAME`; nothing
/// for other commands.
pub(crate) async fn answer(master: &MasterHandle, words: &str) -> Option<String> {
    let (word, rest) = words.split_once(' ')?;
    let (name, script) = rest.split_once(' ').unwrap_or((rest, ""));
    let answer = match word {
        "spawn" => spawn(master, name, script).await.map(|child| child.pid().to_string()),
        "run" => match spawn(master, name, script).await {
            Ok(child) => Ok(child.exit().await.to_string()),
            Err(error) => Err(error),
        },
        "pid" => Ok(master.child(name).map_or_else(String::new, |child| child.pid().to_string())),
        "end" => match master.child(name) {
            Some(child) => Ok(child.stop().await.to_string()),
            None => Ok("nobody".to_owned()),
        },
        _ => return None,
    };
    Some(answer.unwrap_or_else(|error| error.report()))
}

async fn spawn(master: &MasterHandle, name: &str, script: &str) -> Result<ChildHandle, Error> {
    let command = match script.strip_prefix("program ") {
        Some(program) => ChildCommand::new(program, [""; 0]),
        None => ChildCommand::new("sh", ["-c", script]),
    };
    master.spawn(name, command).await
}
