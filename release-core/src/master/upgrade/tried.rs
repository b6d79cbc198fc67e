//! What the new version has turned out to be in its trial, which is what the master becomes: a script
//! in between has done its work then, and what was read is not read again.

use std::ffi::CString;
use std::fs::read;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize};

use super::origin::is_same;
use super::own_image;
use crate::process::environment::entry;
use crate::start_files::{self, Files};
use crate::sys::image::way_back::{VARIABLE, directory};
use crate::sys::image::{Image, seal, unseal};
use crate::sys::rights::receive;
use crate::{Error, ErrorKind};

/// The longest answer that is read.
const ANSWER: usize = 4096;

/// A new version that could take over.
#[derive(Debug)]
pub(crate) struct Tried {
    pub(super) image: Image,
    pub(super) directory: OwnedFd,
    /// Files that it has read on its way to [`Master::run`](crate::Master::run).
    pub(super) files: Files,
}

/// How it was started, as it says itself.
#[derive(Serialize, Deserialize)]
struct Description {
    pid: u32,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    files: Files,
}

/// In the trial: says how it went, with the executable, the working directory, and the rest.
pub(super) fn tell(socket: &UnixStream, outcome: Result<(), String>) {
    let outcome = outcome.and_then(|()| describe().map_err(|error| error.report()));
    let (said, descriptors) = match outcome {
        Ok(descriptors) => (Ok(()), Vec::from(descriptors)),
        Err(why) => (Err(why.chars().take(ANSWER / 4 - 16).collect::<String>()), Vec::new()),
    };
    let said = postcard::to_stdvec(&said).unwrap_or_default();
    let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &[][..] } else { &control };
    let parts = [IoSlice::new(&said)];
    // The master has gone when it cannot be told.
    let _ = sendmsg::<()>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None);
}

fn describe() -> Result<[OwnedFd; 3], Error> {
    let failed = |what: &'static str| move |error| Error::system(what, error);
    let strings = |path: &str| {
        let bytes = read(path).map_err(|error| Error::system(format!("cannot read {path}"), error));
        let is_whole = |string: &&[u8]| string.ends_with(&[0]);
        bytes.map(|bytes| {
            let strings = bytes.split_inclusive(|byte| *byte == 0).filter(is_whole);
            strings.flat_map(|it| CString::from_vec_with_nul(it.to_vec())).collect::<Vec<_>>()
        })
    };
    let description = Description {
        pid: std::process::id(),
        // What it was given, whatever `main` has made of it.
        arguments: strings("/proc/self/cmdline")?,
        environment: strings("/proc/self/environ")?,
        files: start_files::read_so_far(),
    };
    let bytes = serde_json::to_vec(&description).map_err(|error| {
        Error::new(ErrorKind::Change, "it cannot say how it was started").caused_by(error)
    })?;
    let text = seal(&bytes).map_err(failed("cannot write down how it was started"))?;
    let here = directory().ok_or_else(|| {
        Error::new(ErrorKind::Change, "its working directory could not be opened")
    })?;
    let here = here.try_clone().map_err(failed("cannot duplicate a descriptor"))?;
    Ok([own_image()?, here, text])
}

/// In the master: what the new version, the process of this number, has said; `None` if it has said nothing
/// of the kind.
pub(super) fn hear(socket: &OwnedFd, pid: i32) -> Option<Result<Tried, String>> {
    let mut said = vec![0; ANSWER];
    let arrived = receive(socket.as_fd(), &mut said).ok()?;
    match postcard::from_bytes::<Result<(), String>>(&said[..arrived.bytes]).ok()? {
        Ok(()) => {
            let descriptors = arrived.descriptors.into_iter().map(OwnedFd::from).collect();
            Some(read_description(descriptors, pid))
        }
        Err(why) => Some(Err(why)),
    }
}

fn read_description(descriptors: Vec<OwnedFd>, pid: i32) -> Result<Tried, String> {
    let [program, directory, text] = <[OwnedFd; 3]>::try_from(descriptors)
        .map_err(|_| "what it is did not arrive: are there descriptors left?".to_owned())?;
    let bytes = unseal(&text).map_err(|error| format!("it says how it was started: {error}"))?;
    let described: Description = serde_json::from_slice(&bytes)
        .map_err(|error| format!("it says how it was started: {error}"))?;
    if i32::try_from(described.pid) != Ok(pid) {
        return Err(
            "it is not the process that was started but a child of it: a script has to `exec` it"
                .to_owned(),
        );
    }
    let mut environment = described.environment;
    let own = format!("{}=", VARIABLE.to_string_lossy());
    environment.retain(|entry| !entry.as_bytes().starts_with(own.as_bytes()));
    let theirs = format!("LISTEN_PID={pid}");
    for it in environment.iter_mut().filter(|it| it.as_bytes() == theirs.as_bytes()) {
        let ours = std::process::id().to_string();
        *it = entry("LISTEN_PID".as_ref(), ours.into()).map_err(|error| error.report())?;
    }
    let image = Image { program, arguments: described.arguments, environment };
    Ok(Tried { image, directory, files: described.files })
}

impl Tried {
    /// Whether there is another file by now where its program was: that is not the one of the start, when
    /// a script is in between.
    pub(super) fn is_replaced(&self) -> bool {
        let program = format!("/proc/self/fd/{}", self.image.program.as_raw_fd());
        let Ok(path) = std::fs::read_link(&program) else { return false };
        // What the kernel says when another file has taken the place.
        let path = path.to_string_lossy();
        let path = Path::new(path.strip_suffix(" (deleted)").unwrap_or(&path));
        path.exists() && !is_same(path, program.as_ref())
    }

    /// One more variable in its environment.
    pub(super) fn told(&mut self, value: &str) -> Result<(), Error> {
        let name = VARIABLE.to_string_lossy().into_owned();
        self.image.environment.push(entry(name.as_ref(), value.into())?);
        Ok(())
    }
}
