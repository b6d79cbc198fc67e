//! `ControlCommand`: the commands of a control socket, as text and as a type.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::ControlSocket;
use super::status::StatusReport;
use crate::master::event_queue::EventBatch;
use crate::process::worker_signal::{Recipients, WorkerSignal};
use crate::{Error, Master, MasterHandle};

/// How long a request for events waits for one.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

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
/// assert_eq!("scale web 4".parse(), Ok(ControlCommand::ScaleGroup("web".into(), 4)));
/// assert_eq!(ControlCommand::Restart(2).to_string(), "restart 2");
/// assert_eq!("scale".parse::<ControlCommand>().unwrap_err().to_string(), "say how many workers: `scale N`");
///
/// // A service that understands all of them, beside one of its own. [`Master::commands`] suffices for
/// // one that has no others.
/// let socket = ControlSocket::new("/run/service.control");
/// let master = Master::new().control(socket, |master, _, request: String| async move {
///     Ok(match request.parse::<ControlCommand>() {
///         _ if request == "version" => env!("CARGO_PKG_VERSION").to_owned(),
///         Ok(command) => command.carry_out(&master, "web").await,
///         Err(error) => format!("error: {error}"),
///     })
/// });
/// # let _ = master;
/// # Ok::<(), release_core::CommandError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlCommand {
    /// Asks whether the service answers.
    Ping,
    /// Asks for the [`StatusReport`].
    Status,
    /// Asks whether the pool should get requests: [`MasterHandle::check_ready`].
    Ready,
    /// Asks whether the pool lives: [`MasterHandle::check_live`].
    Live,
    /// Asks for the metrics: [`MasterHandle::metrics`].
    Metrics,
    /// Asks for the latest deaths of workers: [`MasterHandle::history`].
    History,
    /// Asks for the events after the one with this number: [`MasterHandle::events`].
    Events(u64),
    /// Replaces all workers: [`MasterHandle::reload`].
    Reload,
    /// Sets the number of workers: [`MasterHandle::scale`].
    Scale(u32),
    /// Sets the number of workers of the group of this name, in a service with several.
    ScaleGroup(String, u32),
    /// Replaces the worker of this id: [`MasterHandle::restart`].
    Restart(u32),
    /// Sends a signal to workers: [`MasterHandle::signal`].
    Signal(Recipients, WorkerSignal),
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
    /// A signal is not for workers. Contains the way out.
    Signal(String),
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(start) => write!(
                f,
                "unknown command `{}`; there is: ping, status, ready, live, metrics, history, \
                 events [AFTER], reload, scale [GROUP] N, restart ID, signal WHICH SIGNAL, reopen, \
                 upgrade, stop",
                start.escape_debug()
            ),
            Self::Argument(way_out) => f.write_str(way_out),
            Self::Signal(way_out) => f.write_str(way_out),
        }
    }
}

impl std::error::Error for CommandError {}

impl fmt::Display for ControlCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ping => f.write_str("ping"),
            Self::Status => f.write_str("status"),
            Self::Ready => f.write_str("ready"),
            Self::Live => f.write_str("live"),
            Self::Metrics => f.write_str("metrics"),
            Self::History => f.write_str("history"),
            Self::Events(after) => write!(f, "events {after}"),
            Self::Reload => f.write_str("reload"),
            Self::Scale(workers) => write!(f, "scale {workers}"),
            Self::ScaleGroup(group, workers) => write!(f, "scale {group} {workers}"),
            Self::Restart(id) => write!(f, "restart {id}"),
            Self::Signal(to, signal) => write!(f, "signal {to} {signal}"),
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
        fn number<N: FromStr>(argument: &str, way_out: &'static str) -> Result<N, CommandError> {
            argument.parse().map_err(|_| CommandError::Argument(way_out))
        }
        Ok(match (word, argument) {
            ("ping", "") => Self::Ping,
            ("status", "") => Self::Status,
            ("ready", "") => Self::Ready,
            ("live", "") => Self::Live,
            ("metrics", "") => Self::Metrics,
            ("history", "") => Self::History,
            ("events", "") => Self::Events(0),
            ("events", _) => Self::Events(number(argument, "say after which event: `events N`")?),
            ("reload", "") => Self::Reload,
            ("scale", _) if argument.contains(' ') => {
                let way_out = "say how many workers of which group: `scale GROUP N`";
                let (group, workers) = argument.rsplit_once(' ').unwrap_or_default();
                let workers = workers.parse().map_err(|_| CommandError::Argument(way_out))?;
                Self::ScaleGroup(group.to_owned(), workers)
            }
            ("scale", _) => Self::Scale(number(argument, "say how many workers: `scale N`")?),
            ("restart", _) => Self::Restart(number(argument, "say which worker: `restart ID`")?),
            ("signal", _) => {
                let way_out = "say which workers and which signal: `signal all USR1`";
                let argument = argument.rsplit_once(' ').ok_or(CommandError::Argument(way_out));
                let (Ok(to), signal) = argument.map(|(to, signal)| (to.parse(), signal))?;
                let wrong = |error: Error| CommandError::Signal(error.to_string());
                Self::Signal(to, signal.parse().map_err(wrong)?)
            }
            ("reopen", "") => Self::Reopen,
            ("upgrade", "") => Self::Upgrade,
            ("stop", "") => Self::Stop,
            // The answer is a frame too: it must not grow with the question.
            _ => return Err(CommandError::Unknown(word.chars().take(40).collect())),
        })
    }
}

impl ControlCommand {
    /// Carries the command out and returns the answer as text: `pong`; the status as JSON; the metrics as
    /// OpenMetrics; the history as a JSON array; an [`EventBatch`](crate::EventBatch) as JSON, after a
    /// second an empty one; `ok`, once the change is complete, or if the pool is
    /// ready or live; or `error: ` and the reason. [`Scale`](Self::Scale) sets the size of `group`.
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
            Self::Status => return StatusReport::complete(master).await.to_string(),
            Self::Metrics => return text_or_error(master.metrics().await),
            Self::History => {
                let history = master.history().await;
                return text_or_error(history.map(|deaths| serde_json::json!(deaths).to_string()));
            }
            Self::Events(after) => return events(master, after).await,
            Self::Ready => master.check_ready(),
            Self::Live => master.check_live(),
            Self::Reload => master.reload().await,
            Self::Scale(workers) => master.scale(group, workers).await,
            Self::ScaleGroup(group, workers) => master.scale(&group, workers).await,
            Self::Restart(id) => master.restart(id).await,
            Self::Signal(to, signal) => master.signal(to, signal).await.map(drop),
            Self::Reopen => master.reopen_logs().await,
            Self::Upgrade => master.upgrade().await,
            Self::Stop => {
                master.stop();
                Ok(())
            }
        };
        text_or_error(changed.map(|()| "ok".to_owned()))
    }
}

/// Waits for events, but not as long as a client or an upgrade would: it asks again.
async fn events(master: &MasterHandle, after: u64) -> String {
    let all = master.all_events();
    all.asked(after);
    let batch = master.rt().timeout(LONGEST_WAIT, all.after(after)).await;
    let batch = batch.unwrap_or_else(|_| EventBatch::none(after));
    all.told(batch.next, master.rt().now());
    serde_json::json!(batch).to_string()
}

fn text_or_error(answer: Result<String, Error>) -> String {
    answer.unwrap_or_else(|error| format!("error: {}", error.report()))
}

impl Master {
    /// Listens on a Unix socket for the commands of `release ctl`, and carries each [`ControlCommand`]
    /// out. `scale` sets the size of `group`.
    ///
    /// Every peer that may connect may also stop the service: by default root and the account of the
    /// master, see [`ControlSocket`]. For other commands, or rights for each of them, use
    /// [`Master::control`].
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{ControlSocket, Master, Workers};
    ///
    /// let master = Master::new()
    ///     .commands(ControlSocket::new("/run/web.control"), "web")
    ///     .workers(Workers::command("web", 2, "node", ["server.js"]).user("www-data"));
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn commands(self, socket: ControlSocket, group: impl Into<Arc<str>>) -> Self {
        let group = group.into();
        self.control(socket, move |master, _, request: String| {
            let group = Arc::clone(&group);
            async move {
                Ok(match request.parse::<ControlCommand>() {
                    Ok(command) => command.carry_out(&master, &group).await,
                    Err(error) => format!("error: {error}"),
                })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_read_as_it_is_written() {
        use ControlCommand::{
            Events, History, Live, Metrics, Ping, Ready, Reload, Reopen, Restart, Scale, Status,
            Stop, Upgrade,
        };
        let asks = [Ping, Status, Ready, Live, Metrics, History, Events(u64::MAX)];
        let tells = [Reload, Scale(0), Scale(u32::MAX), Restart(7), Reopen, Upgrade, Stop];
        let to = [Recipients::All, Recipients::Worker(3), Recipients::Group("my web".into())];
        let signals = to.map(|to| ControlCommand::Signal(to, WorkerSignal::Usr1));
        let all = asks.into_iter().chain(tells).chain(signals);
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
        for text in ["signal all KILL", "signal web 9", "signal 3 \u{1b}"] {
            let refused = text.parse::<ControlCommand>();
            assert!(matches!(refused, Err(CommandError::Signal(_))), "{text:?}: {refused:?}");
        }
        for text in [
            "signal",
            "signal USR1",
            "scale",
            "scale -1",
            "scale web x",
            "events x",
            "restart x",
            "restart 4294967296",
        ] {
            let refused = text.parse::<ControlCommand>();
            assert!(matches!(refused, Err(CommandError::Argument(_))), "{text:?}: {refused:?}");
        }
        let long = "\u{1b}x".repeat(100_000).parse::<ControlCommand>().unwrap_err().to_string();
        assert!(long.len() < 400 && !long.contains('\u{1b}'), "{long}");
    }
}
