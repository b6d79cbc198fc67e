//! Explains from its file why a program cannot be executed, because execve(2) returns only a
//! number.

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::sys::confinement::Confinement;
use crate::sys::spawn::{Command, SpawnError};
use crate::{Error, ErrorKind};

/// Number of bytes of a file that the kernel examines.
const HEAD: u64 = 256;

/// Returns a function that explains why the process of a command could not be started.
///
/// The master does not read the files of another account: they may be on a file system that never
/// answers.
pub(crate) fn not_started(command: &Command) -> impl Fn(SpawnError) -> Error + Clone + use<> {
    let program = PathBuf::from(OsStr::from_bytes(command.program.as_bytes()));
    let account = command.identity.account().map(str::to_owned);
    let directory = command.directory.as_ref().map(|path| path.to_string_lossy().into_owned());
    let required = command.confinement.as_ref().map(required_paths);
    move |error| {
        if let (Some(directory), true) = (&directory, error.is_of_directory()) {
            let message = format!("cannot use {directory} as working directory");
            return Error::new(ErrorKind::Worker, message).caused_by(error);
        }
        if let (Some(paths), true) = (&required, error.is_of_sandbox()) {
            let message = format!("cannot use one of the paths of its sandbox ({paths})");
            return Error::new(ErrorKind::Worker, message).caused_by(error);
        }
        let why = match (&account, error.refusal()) {
            (_, Some(Errno::EACCES)) if required.is_some() => {
                let why = why_not(&program, Errno::EACCES).filter(|_| account.is_none());
                Some(why.unwrap_or_else(|| {
                    "its sandbox allows no other program: an interpreter that its first line names \
                     has to be named by `execute` (`--execute`), too; or its user may not execute it"
                        .to_owned()
                }))
            }
            (None, Some(errno)) => why_not(&program, errno),
            (Some(name), Some(Errno::EACCES)) => {
                Some(format!("user `{name}` may not execute it, or not reach it"))
            }
            (Some(_), Some(Errno::ENOENT)) => {
                Some("it does not exist, or the interpreter that its first line names".to_owned())
            }
            _ => None,
        };
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        Error::new(ErrorKind::Worker, format!("cannot start {}{why}", program.display()))
            .caused_by(error)
    }
}

/// Lists the paths that must exist for a sandbox.
fn required_paths(confinement: &Confinement) -> String {
    let rules = confinement.rules.iter().flat_map(|rules| &rules.paths);
    let required = rules.filter(|rule| !rule.is_optional);
    required.map(|rule| rule.path.to_string_lossy()).collect::<Vec<_>>().join(", ")
}

/// Returns the fault of the file that explains this `errno` of execve(2), if one is visible.
pub(crate) fn why_not(program: &Path, errno: Errno) -> Option<String> {
    let metadata = program.metadata().ok()?;
    match errno {
        Errno::EACCES => forbidden(&metadata).map(|what| format!("it {what}")).or_else(|| {
            let interpreter = Interpreter::of(program, &metadata)?;
            let what = forbidden(&interpreter.path().metadata().ok()?)?;
            Some(format!("its interpreter {} {what}", interpreter.name()))
        }),
        Errno::ENOENT => Some(match Interpreter::of(program, &metadata) {
            Some(interpreter) => {
                let is_foreign = interpreter.0.ends_with(b"\r");
                let why = if is_foreign { " (lines end as in files from Windows)" } else { "" };
                let name = interpreter.name();
                format!("its first line names the interpreter {name}, which does not exist{why}")
            }
            None => "the loader that it was linked for does not exist".to_owned(),
        }),
        Errno::ENOEXEC if metadata.len() == 0 => Some("it is empty".to_owned()),
        Errno::ENOEXEC => Some(
            "it is no program for this machine, and no script that begins with `#!`".to_owned(),
        ),
        _ => None,
    }
}

/// Returns the reason why no user, not even root, can execute the file.
fn forbidden(file: &Metadata) -> Option<&'static str> {
    match file {
        file if file.is_dir() => Some("is a directory"),
        file if file.mode() & 0o111 == 0 => Some("is not executable (`chmod +x` makes it so)"),
        _ => None,
    }
}

/// The program named in the first line of a script.
struct Interpreter(Vec<u8>);

impl Interpreter {
    fn of(script: &Path, metadata: &Metadata) -> Option<Self> {
        // Opening a pipe without a writer, or a device, could block or have effects.
        if !metadata.is_file() {
            return None;
        }
        let mut head = Vec::new();
        let file: File =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(script).ok()?;
        file.take(HEAD).read_to_end(&mut head).ok()?;
        let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | 0));
        words.find(|word| !word.is_empty()).map(|word| Self(word.to_owned()))
    }

    fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    fn name(&self) -> String {
        String::from_utf8_lossy(&self.0).escape_debug().to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn why(content: impl AsRef<[u8]>, mode: u32, errno: Errno) -> Option<String> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("program");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        why_not(&path, errno)
    }

    #[test]
    fn the_interpreter_is_named() {
        let missing = |line: &str| why(line, 0o755, Errno::ENOENT).unwrap();
        let named = "its first line names the interpreter /no/such, which does not exist";
        for line in ["#!/no/such", "#!/no/such\n", "#! \t/no/such -x y\n/bin/sh"] {
            assert_eq!(missing(line), named);
        }
        assert!(
            missing("#!/bin/sh\r\nls").contains("interpreter /bin/sh\\r, which does not exist (")
        );
        assert!(missing("#!/no/\x1b[31m").contains("/no/\\u{1b}[31m"));
        assert!(missing("\x7fELF").contains("loader"));
        assert!(missing(&format!("#!{}", "x".repeat(1000))).len() < 400);

        let what = why("#!/\n", 0o755, Errno::EACCES);
        assert_eq!(what.as_deref(), Some("its interpreter / is a directory"));
    }

    #[test]
    fn what_the_file_is_is_said() {
        let what = why("#!/bin/sh", 0o644, Errno::EACCES).unwrap();
        assert!(what.contains("not executable"), "{what}");
        assert_eq!(why("", 0o755, Errno::ENOEXEC).as_deref(), Some("it is empty"));
        assert!(why("#!\n", 0o755, Errno::ENOEXEC).is_some_and(|what| what.contains("`#!`")));
        // The account has no permission, or a directory above cannot be passed: the file does not
        // tell.
        assert_eq!(why("#!/bin/sh", 0o700, Errno::EACCES), None);
        assert_eq!(why_not("/no/such/program".as_ref(), Errno::ENOENT), None);
        let place = tempfile::tempdir().unwrap();
        let pipe = place.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(why_not(&pipe, Errno::EACCES), None);
    }
}
