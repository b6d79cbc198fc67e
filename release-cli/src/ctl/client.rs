//! Client of a control socket, and the meaning of its failures.

use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::{User, geteuid};
use release_core::ipc::plain;
use release_core::ipc::{CallError, Ended, Text};
use release_core::net::{Active, Credentials, Socket, Unix};
use release_core::rt::local::Local;
use release_core::rt::{Driver, Rt, run};
use release_core::{ControlCommand, StatusReport, printable};

/// How often to look whether a service has gone.
const LOOK: Duration = Duration::from_millis(20);

/// Time after which a service that accepts no connection counts as running.
const DOOR: Duration = Duration::from_millis(100);

/// A control socket, and how long an answer may take. Every failure is the reason in words.
#[derive(Clone, Debug)]
pub(super) struct Client {
    path: PathBuf,
    /// Whose answers are believed, beside root's and this user's.
    owner: Option<u32>,
    patience: Duration,
}

impl Client {
    pub(super) fn new(path: PathBuf, owner: Option<u32>, patience: Duration) -> Self {
        Self { path, owner, patience }
    }

    /// The same for questions whose answer may be left out.
    pub(super) fn impatient(&self) -> Self {
        let (path, owner) = (self.path.clone(), self.owner);
        Self { path, owner, patience: DOOR }
    }

    /// The status of the service, as text and parsed.
    pub(super) fn status(&self) -> Result<(String, StatusReport), String> {
        let text = self.ask(&ControlCommand::Status)?;
        if let Some(why) = text.strip_prefix("error: ") {
            return Err(words(why));
        }
        let status = serde_json::from_str(&text)
            .map_err(|error| format!("{} says what is no status: {error}", self.path.display()))?;
        Ok((text, status))
    }

    /// What the service answers as a text.
    pub(super) fn text(&self, command: &ControlCommand) -> Result<String, String> {
        let text = self.ask(command)?;
        text.strip_prefix("error: ").map_or(Ok(()), |why| Err(words(why)))?;
        Ok(text)
    }

    /// Asks whether the service is well. Returns its problem.
    pub(super) fn check(&self, command: &ControlCommand) -> Result<Option<String>, String> {
        match self.ask(command)?.as_str() {
            "ok" => Ok(None),
            answer => match answer.strip_prefix("error: ") {
                // Of a version that does not know the question.
                Some(why) if why.starts_with("unknown command") => Err(words(why)),
                Some(why) => Ok(Some(words(why))),
                None => Err(words(answer)),
            },
        }
    }

    /// Has the service do something, and waits until it is done.
    pub(super) fn tell(&self, command: &ControlCommand) -> Result<(), String> {
        match self.ask(command)?.as_str() {
            "ok" => Ok(()),
            answer => Err(words(answer.strip_prefix("error: ").unwrap_or(answer))),
        }
    }

    /// Stops the service, and waits until its process has gone. Reports a stop that was not graceful.
    pub(super) fn stop(&self) -> Result<Option<String>, String> {
        let deadline = Instant::now() + self.patience;
        // By its own word it may be another: in a container it has another number than here.
        let master = on_a_runtime(async |rt| {
            let connected = self.connect(rt, self.patience).await;
            connected.and_then(|socket| socket.credentials())
        })?;
        let master = master.map_err(|error| self.unreachable(&error))?.pid;
        let answer = self.ask(&ControlCommand::Stop);
        let killed = answer.as_ref().ok().and_then(|answer| answer.strip_prefix("killed: "));
        match &answer {
            Ok(answer) if answer == "ok" || killed.is_some() => {}
            Ok(answer) => return Err(words(answer.strip_prefix("error: ").unwrap_or(answer))),
            Err(why) if self.is_there()? => return Err(why.clone()),
            // It was faster than its answer.
            Err(_) => {}
        }
        while self.is_there()? || is_alive(master) {
            if Instant::now() > deadline {
                let seconds = self.patience.as_secs_f64();
                return Err(format!("process {master} has not stopped within {seconds} s"));
            }
            std::thread::sleep(LOOK);
        }
        Ok(killed.map(|killed| format!("{} and had to be killed", words(killed))))
    }

    /// Returns whether a process has the socket; it may be too busy to accept a connection.
    fn is_there(&self) -> Result<bool, String> {
        let connected = on_a_runtime(async |rt| self.connect(rt, DOOR).await.map(drop))?;
        Ok(connected.map_or_else(|error| error.kind() == ErrorKind::TimedOut, |()| true))
    }

    async fn connect(&self, rt: &Rt, limit: Duration) -> io::Result<Socket<Active, Unix>> {
        let address = Unix::path(&self.path);
        let socket =
            Socket::unconnected(&address).map_err(|error| io::Error::other(error.report()))?;
        let socket = socket.connect(rt, &address, limit).await?;
        let Credentials { uid, pid, .. } = socket.credentials()?;
        if uid == 0 || uid == geteuid().as_raw() || self.owner == Some(uid) {
            return Ok(socket);
        }
        let name =
            User::from_uid(uid.into()).ok().flatten().map_or(String::new(), |user| user.name);
        Err(io::Error::other(format!(
            "process {pid} of user {uid} ({name}) answers there, neither root nor this user: \
             if the service runs as that account, say so with --owner"
        )))
    }

    fn ask(&self, command: &ControlCommand) -> Result<String, String> {
        on_a_runtime(async |rt| self.ask_on(rt, &command.to_string()).await)?
    }

    async fn ask_on(&self, rt: &Rt, request: &str) -> Result<String, String> {
        let connected = self.connect(rt, self.patience).await;
        let socket = connected.and_then(Socket::into_descriptor);
        let socket = socket.map_err(|error| self.unreachable(&error))?;
        let client = plain::Client::<String, _>::new(rt, socket, Text)
            .map_err(|error| self.unreachable(&error))?;
        let answer = client.call_within(self.patience, &request.to_owned()).await;
        answer.map_err(|error| self.unanswered(&error, request))
    }

    /// Why there is no connection, and the way out.
    fn unreachable(&self, error: &io::Error) -> String {
        let path = self.path.display();
        match error.kind() {
            ErrorKind::NotFound => format!(
                "there is no control socket {path}: the service does not run, or has another one"
            ),
            ErrorKind::PermissionDenied => format!(
                "no permission to use the control socket {path}; \
                 be root or the account that it belongs to"
            ),
            ErrorKind::ConnectionRefused if self.is_socket() => format!(
                "nobody answers at {path}: the service was killed and has left it behind; \
                 the next start takes it over"
            ),
            ErrorKind::ConnectionRefused => format!("{path} is no socket"),
            ErrorKind::TimedOut => format!("nobody accepts connections at {path}"),
            _ => format!("cannot use the control socket {path}: {error}"),
        }
    }

    fn is_socket(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.file_type().is_socket())
    }

    /// Why there is no answer.
    fn unanswered(&self, error: &CallError, request: &str) -> String {
        let (path, seconds) = (self.path.display(), self.patience.as_secs_f64());
        match error {
            CallError::TimedOut => format!(
                "no answer to `{request}` from {path} within {seconds} s; \
                 the service may still be at it"
            ),
            CallError::Ended(Ended::FrameTooLong(_)) | CallError::Codec(_) => {
                format!("whoever answers at {path} does not speak as control sockets do")
            }
            CallError::Ended(_) => {
                format!("the service at {path} hung up: it has ended, or does not admit this user")
            }
            error => format!("no answer to `{request}` from {path}: {error}"),
        }
    }
}

/// Words of the service: lines are lines, and nothing in them reaches the terminal as a command.
fn words(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(|line| printable(line.as_bytes())).collect();
    lines.join("\n")
}

fn on_a_runtime<T>(work: impl AsyncFnOnce(&Rt) -> T) -> Result<T, String> {
    let driver = Local::new().map_err(|error| error.to_string())?;
    Ok(run(&driver, work(&driver.handle())))
}

/// Returns whether a process runs. A zombie does not run; a process that is not visible from here counts
/// as one.
fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}
