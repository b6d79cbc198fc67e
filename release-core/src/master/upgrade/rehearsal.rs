//! Checks of the new version by itself in its trial, where it is not the master.

use std::io;

use super::Summary;
use crate::daemonize::lock::LockFile;
use crate::master::group::Group;
use crate::master::plan::{Control, Plan};
use crate::rt::Driver;
use crate::supervise::Pool;
use crate::{Error, ErrorKind};

impl Plan {
    /// Everything that the next version can find out about itself without being the master.
    pub(crate) fn rehearse<D: Driver>(
        mut self,
        driver: impl FnOnce() -> io::Result<D>,
        before: &Summary,
    ) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::new(ErrorKind::Change, why));
        for old in &before.groups {
            let Some(new) = self.groups.iter().find(|group| *group.name == *old.name) else {
                continue;
            };
            let new = new.spoken();
            if new.is_plain != old.is_plain {
                return refuse(format!("group `{}`: calls and plain mode do not mix", old.name));
            }
            if let Some(difference) = new.types.difference(&old.types) {
                return refuse(format!("group `{}` differs in {difference}", old.name));
            }
        }
        let specs = self.groups.iter().map(Group::spec).collect();
        Pool::inherit(specs, &before.pool, self.stop_deadline, None)?;
        // What is new is tried, and gone again before this returns.
        let new_lock =
            self.lock_file.take().filter(|path| before.lock.as_deref() != Some(path.as_ref()));
        let _lock = new_lock.as_deref().map(LockFile::acquire).transpose()?;
        for group in &mut self.groups {
            group.try_listeners(&before.listeners)?;
        }
        self.log_files.open()?;
        let is_new = |control: &Control| !before.controls.iter().any(|path| control.path == *path);
        let controls = self.controls.into_iter().filter(is_new);
        let _controls = controls.map(|new| (new.bind)(None)).collect::<Result<Vec<_>, _>>()?;
        driver().map_err(|error| Error::system("cannot start the async runtime", error)).map(drop)
    }
}
