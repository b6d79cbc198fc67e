//! A worker that drops its privileges itself, and whose master is not of this library.

use std::path::PathBuf;

use clap::Args;
use release::ipc::Text;
use release::{Exit, PlainMe, driver, me};

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    user: Option<String>,
    /// Instead of all that the user has
    #[arg(long, value_delimiter = ',')]
    groups: Option<Vec<String>>,
    #[arg(long)]
    chroot: Option<PathBuf>,
    #[arg(long)]
    chroot_home: bool,
}

pub(crate) fn run(options: Options) -> Exit {
    let mut me = me().codec(Text);
    if let Some(user) = options.user {
        me = me.user(user);
    }
    if let Some(groups) = options.groups {
        me = me.groups(groups.into_iter().filter(|name| !name.is_empty()));
    }
    if let Some(directory) = options.chroot {
        me = me.chroot(directory);
    }
    if options.chroot_home {
        me = me.chroot_home();
    }
    me.run_plain(driver, talk)
}

/// Says what it is, until it is told to stop.
async fn talk(me: PlainMe<String, Text>) -> Result<(), release::ipc::CallError> {
    me.master().call(&format!("pid {}", std::process::id())).await?;
    me.stopping().await;
    Ok(())
}
