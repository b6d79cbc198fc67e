//! `ControlCommand`: the commands of a control socket, as text and as a type.

use std::fmt;
use std::str::FromStr;

use super::status::StatusReport;
use crate::{Error, MasterHandle};

/// A command to a running service, as `release ctl` sends it to a [`ControlSocket`](crate::ControlSocket).
///
/// On the socket it is one line of text, such as `reload` or `scale 4`, which any language can write:
/// [`Display`](fmt::Display) formats it, and [`FromStr`] parses it.
///
/// # Examples
///
/// ```
/// use release_core::{ControlCommand, ControlSocket, Master};
///
/// let command: ControlCommand = "scale 4".parse()?;
/// assert_eq!(command, ControlCommand::Scale(4));
/// assert_eq!(ControlCommand::Restart(2).to_string(), "restart 2");
/// assert_eq!("scale".parse::<ControlCommand>().unwrap_err().to_string(), "say how many workers: `scale N`");
///
/// // A service that understands all of them:
/// let socket = ControlSocket::new("/run/service.control");
/// let master = Master::new().control(socket, |master, _, request: String| async move {
///     Ok(match request.parse::<ControlCommand>() {
///         Ok(command) => command.carry_out(&master, "web").await,
///         Err(error) => format!("error: {error}"),
///     })
/// });
/// # let _ = master;
/// # Ok::<(), release_core::CommandError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlCommand {
    /// Asks whether the service answers.
    Ping,
    /// Asks for the [`StatusReport`].
    Status,
    /// Replaces all workers: [`MasterHandle::reload`].
    Reload,
    /// Sets the number of workers: [`MasterHandle::scale`].
    Scale(u32),
    /// Replaces the worker of this id: [`MasterHandle::restart`].
    Restart(u32),
    /// Opens the log files again: [`MasterHandle::reopen_logs`].
    Reopen,
    /// Upgrades the master in place: [`MasterHandle::upgrade`].
    Upgrade,
    /// Stops the service: [`MasterHandle::stop`].
    Stop,
}

/// A text that is not a [`ControlCommand`].
///
/// Its message is at most a few lines long, however long the text was.
///
/// # Examples
///
/// ```
/// use release_core::{CommandError, ControlCommand};
///
/// let unknown = "halt".parse::<ControlCommand>();
/// assert_eq!(unknown, Err(CommandError::Unknown("halt".into())));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommandError {
    /// There is no such command. Contains the first characters of its name.
    Unknown(String),
    /// A command lacks its number. Contains the way out.
    Argument(&'static str),
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(start) => write!(
                f,
                "unknown command `{}`; there is: ping, status, reload, scale N, restart ID, reopen, \
                 upgrade, stop",
                start.escape_debug()
            ),
            Self::Argument(way_out) => f.write_str(way_out),
        }
    }
}

impl std::error::Error for CommandError {}

impl fmt::Display for ControlCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ping => f.write_str("ping"),
            Self::Status => f.write_str("status"),
            Self::Reload => f.write_str("reload"),
            Self::Scale(workers) => write!(f, "scale {workers}"),
            Self::Restart(id) => write!(f, "restart {id}"),
            Self::Reopen => f.write_str("reopen"),
            Self::Upgrade => f.write_str("upgrade"),
            Self::Stop => f.write_str("stop"),
        }
    }
}

impl FromStr for ControlCommand {
    type Err = CommandError;

    fn from_str(text: &str) -> Result<Self, CommandError> {
        let (word, argument) = text.split_once(' ').unwrap_or((text, ""));
        let number = |way_out| argument.parse().map_err(|_| CommandError::Argument(way_out));
        Ok(match (word, argument) {
            ("ping", "") => Self::Ping,
            ("status", "") => Self::Status,
            ("reload", "") => Self::Reload,
            ("scale", _) => Self::Scale(number("say how many workers: `scale N`")?),
            ("restart", _) => Self::Restart(number("say which worker: `restart ID`")?),
            ("reopen", "") => Self::Reopen,
            ("upgrade", "") => Self::Upgrade,
            ("stop", "") => Self::Stop,
            // The answer is a frame too: it must not grow with the question.
            _ => return Err(CommandError::Unknown(word.chars().take(40).collect())),
        })
    }
}

impl ControlCommand {
    /// Carries the command out and returns the answer as text: `pong`; the status as JSON; `ok`, once the
    /// change is complete; or `error: ` and the reason. [`Scale`](Self::Scale) sets the size of `group`.
    ///
    /// [`Stop`](Self::Stop) starts the graceful shutdown and does not wait for its end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future after its first poll does not cancel the change.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{ControlCommand, MasterHandle};
    ///
    /// async fn reload(master: &MasterHandle) {
    ///     let answer = ControlCommand::Reload.carry_out(master, "web").await;
    ///     println!("{answer}");
    /// }
    /// ```
    pub async fn carry_out(self, master: &MasterHandle, group: &str) -> String {
        let changed: Result<(), Error> = match self {
            Self::Ping => return "pong".to_owned(),
            Self::Status => return StatusReport::of(master).to_string(),
            Self::Reload => master.reload().await,
            Self::Scale(workers) => master.scale(group, workers).await,
            Self::Restart(id) => master.restart(id).await,
            Self::Reopen => master.reopen_logs().await,
            Self::Upgrade => master.upgrade().await,
            Self::Stop => {
                master.stop();
                Ok(())
            }
        };
        changed.map_or_else(|error| format!("error: {}", error.report()), |()| "ok".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_read_as_it_is_written() {
        use ControlCommand::{Ping, Reload, Reopen, Restart, Scale, Status, Stop, Upgrade};
        let all =
            [Ping, Status, Reload, Scale(0), Scale(u32::MAX), Restart(7), Reopen, Upgrade, Stop];
        let usage = CommandError::Unknown(String::new()).to_string();
        for command in all {
            let text = command.to_string();
            assert_eq!(text.parse(), Ok(command));
            let word = text.split(' ').next().unwrap();
            assert!(usage.contains(&format!(" {word}")), "{word} is not in: {usage}");
        }
    }

    #[test]
    fn other_texts_are_refused_in_few_words() {
        for text in ["", " ", "reload now", "RELOAD", "scale4", "status\n", "stop now"] {
            let unknown = text.parse::<ControlCommand>();
            assert!(matches!(unknown, Err(CommandError::Unknown(_))), "{text:?}: {unknown:?}");
        }
        for text in ["scale", "scale -1", "scale 1 2", "restart x", "restart 4294967296"] {
            let refused = text.parse::<ControlCommand>();
            assert!(matches!(refused, Err(CommandError::Argument(_))), "{text:?}: {refused:?}");
        }
        let long = "\u{1b}x".repeat(100_000).parse::<ControlCommand>().unwrap_err().to_string();
        assert!(long.len() < 400 && !long.contains('\u{1b}'), "{long}");
    }
}
