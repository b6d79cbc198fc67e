//! Files that root relies on: no other user may replace them.
//!
//! A process that is not root relies on its own user's files, like every program.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;

/// Users other than root that may write to a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writers {
    Nobody,
    /// A group: the group of a system's log files can at most spoil them.
    Group,
}

/// # Errors
///
/// Returns an error if a user other than root controls the file at the path. The message is written
/// for the user that specified the path.
pub(crate) fn check_path(path: &Path, writers: Writers) -> Result<(), String> {
    if geteuid().is_root() { judge_path(path, writers) } else { Ok(()) }
}

/// # Errors
///
/// Returns an error if a user other than root can write to the file.
pub(crate) fn check_file(file: &Metadata) -> Result<(), String> {
    if geteuid().is_root() { judge("it", file, Writers::Nobody) } else { Ok(()) }
}

/// Checks the path and the file that was opened there: for the commands of this project.
///
/// # Errors
///
/// Returns an error if this process is root and another user can write to the file or replace it.
///
/// # Examples
///
/// ```
/// use std::fs::File;
/// use std::path::Path;
/// use release_core::check_for_root;
///
/// let path = Path::new("/proc/version");
/// let file = File::open(path)?;
/// check_for_root(path, &file).map_err(std::io::Error::other)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn check_for_root(path: &Path, file: &std::fs::File) -> Result<(), String> {
    check_path(path, Writers::Nobody)?;
    file.metadata().map_err(|error| error.to_string()).and_then(|found| check_file(&found))
}

fn judge_path(path: &Path, writers: Writers) -> Result<(), String> {
    // A path that cannot be examined cannot be opened either, and the open reports the reason.
    let Ok(path) = std::path::absolute(path) else { return Ok(()) };
    for name in path.ancestors() {
        if let Ok(link) = name.symlink_metadata()
            && link.is_symlink()
        {
            if link.uid() != 0 {
                return Err(format!("{} is a link of user number {}", name.display(), link.uid()));
            }
            if let Ok(target) = name.canonicalize() {
                judge_directories(&target, writers)?;
            }
        }
    }
    judge_directories(&path, writers)
}

/// Checks the directories of a path: write access to a directory allows replacing the next.
fn judge_directories(path: &Path, writers: Writers) -> Result<(), String> {
    for directory in path.ancestors() {
        // A link was checked by itself.
        let Ok(found) = directory.symlink_metadata() else { continue };
        if found.is_dir() {
            // In a sticky directory, users cannot replace files of other users.
            let is_sticky = found.mode() & 0o1000 != 0;
            if found.uid() != 0 || !is_sticky {
                judge(&format!("the directory {}", directory.display()), &found, writers)?;
            }
        }
    }
    Ok(())
}

fn judge(what: &str, found: &Metadata, writers: Writers) -> Result<(), String> {
    let (owner, group, mode) = (found.uid(), found.gid(), found.mode());
    match () {
        () if owner != 0 => Err(format!("{what} belongs to user number {owner}, not to root")),
        () if mode & 0o002 != 0 => Err(format!("everybody can write to {what}")),
        () if mode & 0o020 != 0 && group != 0 && writers == Writers::Nobody => {
            Err(format!("group number {group} can write to {what}"))
        }
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    /// Returns the reason for refusing a file in a directory of this mode and owner; only root can
    /// make them.
    fn why(mode: u32, owner: (u32, u32), writers: Writers) -> Option<String> {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("d");
        create_dir(&directory).unwrap();
        set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
        chown(&directory, Some(owner.0), Some(owner.1)).unwrap();
        let why = judge_path(&directory.join("file"), writers).err()?;
        Some(why.replace(&base.path().display().to_string(), ""))
    }

    #[test]
    fn who_can_put_another_file_there_is_named() {
        if !geteuid().is_root() {
            return;
        }
        let refused = |mode, owner| why(mode, owner, Writers::Nobody);
        for fine in [0o700, 0o755, 0o1777, 0o1770] {
            assert_eq!(refused(fine, (0, 65534)), None, "{fine:o}");
        }
        assert_eq!(refused(0o775, (0, 0)), None);
        let owned = "the directory /d belongs to user number 65534, not to root";
        assert_eq!(refused(0o700, (65534, 0)).as_deref(), Some(owned));
        assert_eq!(refused(0o1777, (65534, 0)).as_deref(), Some(owned));
        let all = "everybody can write to the directory /d";
        assert_eq!(refused(0o777, (0, 0)).as_deref(), Some(all));
        let group = "group number 65534 can write to the directory /d";
        assert_eq!(refused(0o775, (0, 65534)).as_deref(), Some(group));
        assert_eq!(why(0o775, (0, 65534), Writers::Group), None);
    }

    #[test]
    fn a_link_leads_where_its_target_is() {
        if !geteuid().is_root() {
            return;
        }
        let base = tempfile::tempdir().unwrap();
        let (theirs, ours) = (base.path().join("theirs"), base.path().join("ours"));
        create_dir(&theirs).unwrap();
        create_dir(&ours).unwrap();
        write(theirs.join("file"), "").unwrap();
        chown(&theirs, Some(65534), None).unwrap();
        let (file, directory) = (ours.join("file"), ours.join("directory"));
        symlink(theirs.join("file"), &file).unwrap();
        symlink(&theirs, &directory).unwrap();
        for path in [&file, &directory.join("new")] {
            let why = judge_path(path, Writers::Nobody).unwrap_err();
            assert!(why.contains("theirs belongs to user number 65534"), "{why}");
        }
        let link = ours.join("link");
        symlink("/etc/passwd", &link).unwrap();
        judge_path(&link, Writers::Nobody).unwrap();
        std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
        let why = judge_path(&link, Writers::Nobody).unwrap_err();
        assert!(why.contains("link is a link of user number 65534"), "{why}");
    }
}
