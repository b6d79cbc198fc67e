//! Commands of the control socket, and the users that may send them.

use clap::Args;
use nix::unistd::{User, geteuid};
use release_core::{ControlSocket, Error, ErrorKind, MasterHandle, look_up_to_start};

use super::GROUP;
use super::ends::Ends;
use crate::status::{Status, Worker};

/// Users of the control socket, beside root and the user that this runs as.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Access {
    /// An account that may ask for the status
    #[arg(long, value_name = "LOGIN")]
    allow_read: Vec<String>,
    /// An account that may also reload, scale, restart and reopen
    #[arg(long, value_name = "LOGIN")]
    allow_operate: Vec<String>,
    /// An account that may also upgrade and stop
    #[arg(long, value_name = "LOGIN")]
    allow_administer: Vec<String>,
}

/// Rights of a user, each including the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Read,
    Operate,
    Administer,
}

/// [`Access`] by numbers.
#[derive(Clone, Debug)]
pub(super) struct Levels(Vec<(u32, Level)>);

impl Access {
    pub(super) fn resolve(&self) -> Result<Levels, Error> {
        let lists = [
            (&self.allow_administer, Level::Administer, "administer"),
            (&self.allow_operate, Level::Operate, "operate"),
            (&self.allow_read, Level::Read, "read"),
        ];
        let all = lists
            .iter()
            .flat_map(|(names, level, option)| names.iter().map(|name| (name, *level, *option)));
        let found = all.map(|(name, level, option)| {
            let number = || User::from_name(name).map(|user| user.map(|user| user.uid.as_raw()));
            let number = look_up_to_start(&format!("uid of {name}"), number).ok().flatten();
            let number = number.ok_or_else(|| {
                let name = name.escape_debug();
                let message = format!("`--allow-{option}`: there is no user `{name}`");
                Error::new(ErrorKind::Usage, message)
            })?;
            Ok((number, level))
        });
        Ok(Levels(found.collect::<Result<_, Error>>()?))
    }
}

impl Levels {
    /// Whether nobody is named.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lets everybody named here connect.
    pub(super) fn socket(&self, socket: ControlSocket) -> ControlSocket {
        if self.is_empty() {
            return socket;
        }
        // The file lets everybody in, and the uid is looked at by who accepts.
        self.0.iter().fold(socket.mode(0o666), |socket, (uid, _)| socket.allow_user(*uid))
    }

    pub(super) fn of(&self, uid: u32) -> Level {
        if uid == 0 || uid == geteuid().as_raw() {
            return Level::Administer;
        }
        // The first is the highest.
        let named = self.0.iter().find(|(named, _)| *named == uid);
        named.map_or(Level::Read, |(_, level)| *level)
    }
}

pub(super) async fn answer(
    master: &MasterHandle,
    ends: &Ends,
    level: Level,
    request: String,
) -> String {
    let (word, argument) = request.split_once(' ').unwrap_or((&request, ""));
    let needed = match word {
        "reload" | "scale" | "restart" | "reopen" => Level::Operate,
        "upgrade" | "stop" => Level::Administer,
        _ => Level::Read,
    };
    if level < needed {
        return format!("error: permission denied: {word} is not for this account");
    }
    match (word, argument) {
        ("ping", "") => "pong".to_owned(),
        ("status", "") => status(master, ends),
        ("reload", "") => outcome(master.reload().await),
        ("scale", number) => match number.parse() {
            Ok(workers) => outcome(master.scale(GROUP, workers).await),
            Err(_) => "error: say how many workers: `scale N`".to_owned(),
        },
        ("restart", id) => match id.parse() {
            Ok(id) => outcome(master.restart(id).await),
            Err(_) => "error: say which worker: `restart ID`".to_owned(),
        },
        ("reopen", "") => outcome(master.reopen_logs().await),
        ("upgrade", "") => outcome(master.upgrade().await),
        ("stop", "") => {
            master.stop();
            match ends.all(master).await {
                0 => "ok".to_owned(),
                1 => "killed: 1 process did not stop in time".to_owned(),
                killed => format!("killed: {killed} processes did not stop in time"),
            }
        }
        (word, _) => {
            // The answer is a frame too: it does not grow with the question.
            let start: String = word.chars().take(40).collect();
            format!(
                "error: unknown command `{}`; there is: ping, status, reload, scale N, restart ID, \
                 reopen, upgrade, stop",
                start.escape_debug()
            )
        }
    }
}

fn outcome(changed: Result<(), Error>) -> String {
    changed.map_or_else(|error| format!("error: {}", error.report()), |()| "ok".to_owned())
}

fn status(master: &MasterHandle, ends: &Ends) -> String {
    let workers = master.status().into_iter().map(|worker| Worker {
        id: worker.id,
        group: None,
        pid: worker.pid,
        state: worker.state.to_string(),
        generation: worker.generation,
        restarts: worker.restarts,
        uptime_s: (worker.uptime.as_secs_f64() * 10.0).round() / 10.0,
        draining: worker.draining,
        memory_kb: worker.pid.and_then(memory),
        last_exit: ends.of(worker.id),
        status_text: worker.status_text,
    });
    let status = Status {
        master: std::process::id(),
        generation: master.generation(),
        workers: workers.collect(),
    };
    serde_json::to_string(&status).unwrap_or_else(|error| format!("error: {error}"))
}

/// The memory that a process has for itself, in KiB.
fn memory(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_own_user_may_do_everything_others_what_they_are_named_for() {
        let names = |name: &str| vec![name.to_owned()];
        let access = Access {
            allow_read: names("nobody"),
            allow_operate: names("daemon"),
            ..Access::default()
        };
        let levels = access.resolve().unwrap();
        let uid = |name| User::from_name(name).unwrap().unwrap().uid.as_raw();
        let own = geteuid().as_raw();
        for (uid, level) in
            [(0, Level::Administer), (own, Level::Administer), (uid("daemon"), Level::Operate)]
        {
            assert!(levels.of(uid) >= level, "{uid}");
        }
        assert_eq!(levels.of(uid("nobody")) == Level::Read, own != uid("nobody"));
        let unknown = Access { allow_read: names("no-such-user"), ..Access::default() };
        assert!(unknown.resolve().is_err());
    }
}
