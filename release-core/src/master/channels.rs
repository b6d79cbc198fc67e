//! Which groups have channels to which.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::group::Group;
use crate::process::channels::{Callees, Channels};
use crate::{Error, ErrorKind};

/// Connects the groups that have channels. Half of `stop_deadline` is for callers to end before the
/// workers that they call.
pub(super) fn connect(groups: &mut [Group], stop_deadline: Duration) -> Result<(), Error> {
    let callees = callees(groups)?;
    if callees.is_empty() {
        return Ok(());
    }
    let mut members: BTreeSet<_> = callees.keys().cloned().collect();
    members.extend(callees.values().flatten().cloned());
    if let Some(circle) = circle(&callees) {
        let message = format!(
            "worker groups that call each other in a circle can wait for each other without end: {}",
            circle.join(", ")
        );
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let channels = Arc::new(Channels::new(callees, stop_deadline / 2));
    for group in groups.iter_mut().filter(|group| members.contains(&group.name)) {
        if !group.has_calls() {
            let message = format!(
                "worker group `{}`: channels need call mode; commands and workers in plain mode have \
                 none",
                group.name
            );
            return Err(Error::new(ErrorKind::Usage, message));
        }
        group.services.channels = Some(Arc::clone(&channels));
    }
    Ok(())
}

fn callees(groups: &[Group]) -> Result<Callees, Error> {
    let mut callees = Callees::new();
    for (group, other) in groups.iter().flat_map(|it| it.channel_to.iter().map(move |to| (it, to)))
    {
        let known = groups.iter().find(|it| *it.name == **other);
        let callee = known.ok_or_else(|| {
            let message = format!(
                "worker group `{}` has a channel to `{other}`, and there is no group of that name",
                group.name
            );
            Error::new(ErrorKind::Usage, message)
        })?;
        let of_group = callees.entry(Arc::clone(&group.name)).or_default();
        of_group.insert(Arc::clone(&callee.name));
    }
    Ok(callees)
}

/// Returns the groups that are in a circle, or call one, if there are any.
fn circle(callees: &Callees) -> Option<Vec<String>> {
    let mut left = callees.clone();
    loop {
        let before = left.len();
        let callers: BTreeSet<_> = left.keys().cloned().collect();
        left.retain(|_, called| called.iter().any(|group| callers.contains(group)));
        if left.is_empty() {
            return None;
        }
        if left.len() == before {
            return Some(left.into_keys().map(|name| format!("`{name}`")).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Workers;
    use crate::master::workers::IntoGroup;

    fn connected(groups: Vec<Workers>) -> Result<Vec<bool>, String> {
        let groups =
            groups.into_iter().map(|group| Box::new(group.user("nobody")).into_group(false));
        let mut groups = groups.collect::<Result<Vec<_>, _>>().map_err(|error| error.report())?;
        connect(&mut groups, Duration::ZERO).map_err(|error| error.report())?;
        Ok(groups.iter().map(|group| group.services.channels.is_some()).collect())
    }

    fn group(name: &str) -> Workers {
        Workers::same_executable(name, 1)
    }

    #[test]
    fn groups_with_channels_are_connected_and_no_others() {
        let web = || group("web").channel_to("resolver").channel_to("cache");
        let cache = group("cache").channel_to("resolver");
        let groups = vec![web(), group("resolver"), group("mail"), cache];
        assert_eq!(connected(groups), Ok(vec![true, true, false, true]));
        assert_eq!(connected(vec![group("web")]), Ok(vec![false]));
    }

    #[test]
    fn channels_that_cannot_be_are_refused() {
        let refusal = |groups| connected(groups).expect_err("a refusal");
        let unknown = refusal(vec![group("web").channel_to("resolve")]);
        assert!(unknown.contains("`web`") && unknown.contains("`resolve`"), "{unknown}");
        let command = Workers::command("resolver", 1, "/bin/true", [""; 0]);
        let plain = refusal(vec![group("web").channel_to("resolver"), command]);
        assert!(plain.contains("`resolver`: channels need call mode"), "{plain}");
        let itself = refusal(vec![group("web").channel_to("web")]);
        assert!(itself.ends_with("without end: `web`"), "{itself}");
        let circle = refusal(vec![
            group("a").channel_to("b"),
            group("b").channel_to("c"),
            group("c").channel_to("b"),
        ]);
        assert!(circle.ends_with("`a`, `b`, `c`"), "{circle}");
    }
}
