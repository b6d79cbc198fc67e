//! Commands of the control socket, and the users that may send them.

use clap::Args;
use nix::unistd::{User, geteuid};
use release_core::{
    ControlCommand, ControlSocket, Error, ErrorKind, MasterHandle, StatusReport, look_up_to_start,
};

use super::ends::Ends;
use super::file::Programs;
use super::program::ONLY;

/// Users of the control socket, beside root and the user that this runs as.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Access {
    /// An account that may ask for the status, health, metrics, history and events
    #[arg(long, value_name = "LOGIN")]
    allow_read: Vec<String>,
    /// An account that may also reload, scale, restart, signal and reopen
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
    programs: &Programs,
    request: String,
) -> String {
    let command = match request.parse() {
        Ok(command) => command,
        Err(error) => return format!("error: {error}"),
    };
    let needed = match command {
        ControlCommand::Ping
        | ControlCommand::Status
        | ControlCommand::Ready
        | ControlCommand::Live
        | ControlCommand::Metrics
        | ControlCommand::History
        | ControlCommand::Events(_) => Level::Read,
        ControlCommand::Reload
        | ControlCommand::Scale(_)
        | ControlCommand::ScaleGroup(..)
        | ControlCommand::Restart(_)
        | ControlCommand::Signal(..)
        | ControlCommand::Reopen => Level::Operate,
        // And any that later versions of the library know.
        _ => Level::Administer,
    };
    if level < needed {
        let word = request.split(' ').next().unwrap_or_default();
        return format!("error: permission denied: {word} is not for this account");
    }
    match command {
        ControlCommand::Status => status(master, ends).await.to_string(),
        ControlCommand::Stop => {
            master.stop();
            match ends.all(master).await {
                0 => "ok".to_owned(),
                1 => "killed: 1 process did not stop in time".to_owned(),
                killed => format!("killed: {killed} processes did not stop in time"),
            }
        }
        ControlCommand::Scale(_) if programs.len() > 1 => {
            let names: Vec<_> = programs.keys().map(String::as_str).collect();
            format!("error: say which program: `scale NAME N`; there is: {}", names.join(", "))
        }
        _ => {
            let only = programs.keys().next().map_or(ONLY, String::as_str);
            command.carry_out(master, only).await
        }
    }
}

async fn status(master: &MasterHandle, ends: &Ends) -> StatusReport {
    let mut report = StatusReport::complete(master).await;
    for worker in &mut report.workers {
        worker.memory_kb = worker.pid.and_then(memory);
        worker.last_exit = ends.of(worker.id);
    }
    report
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
