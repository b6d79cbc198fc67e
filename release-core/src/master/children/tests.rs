//! Children that are told to end twice, too late, or leave processes behind.

use std::time::Instant;

use super::*;
use crate::ChildCommand;
use crate::rt::local::Local;
use crate::rt::{Driver, run};

const LONG: Duration = Duration::from_secs(600);

async fn until(rt: &Rt, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "it did not happen: {what}");
        rt.sleep(Duration::from_millis(5)).await;
    }
}

async fn started(children: &Children, name: &str, script: &str) -> ChildHandle {
    let (answer, started) = oneshot::channel();
    let command = Box::new(ChildCommand::new("sh", ["-c", script]).prepare().unwrap());
    children.start(ChildRequest { name: name.to_owned(), command, answer }, LONG);
    started.await.unwrap().unwrap()
}

/// Lives on whatever it is told, from the moment when the file exists.
fn deaf(file: &std::path::Path) -> String {
    format!("trap '' TERM; echo > {}; while :; do sleep 0.05; done", file.display())
}

fn on_local<F: Future<Output = ()>>(test: impl FnOnce(Rt, Children) -> F) {
    let driver = Local::new().unwrap();
    let rt = driver.handle();
    run(&driver, test(rt.clone(), Children::new(&rt)));
}

#[test]
fn a_child_that_has_ended_is_told_nothing() {
    on_local(async |_rt, children| {
        let child = started(&children, "short", "exit 3").await;
        assert_eq!(child.exit().await, ExitStatus::Code(3));
        assert_eq!(child.stop().await, ExitStatus::Code(3));
        assert!(!child.child.state().is_told, "its number may belong to another process");
    });
}

#[test]
fn a_child_that_was_told_before_has_no_more_time_than_its_master() {
    let place = tempfile::tempdir().unwrap();
    on_local(async |rt, children| {
        let file = place.path().join("deaf");
        let child = started(&children, "deaf", &deaf(&file)).await;
        until(&rt, "it is deaf", || file.exists()).await;
        let told = child.clone();
        let stopping = rt.spawn(async move { told.stop().await });
        until(&rt, "it is told", || child.child.state().is_told).await;
        assert_eq!(children.end(Duration::from_millis(50)).await, 1, "it was not killed");
        assert!(matches!(stopping.await, ExitStatus::Signal { number: 9, .. }));
    });
}

#[test]
fn the_exit_of_a_child_whose_group_lives_on_is_kept_and_the_next_version_ends_the_group() {
    let place = tempfile::tempdir().unwrap();
    on_local(async |rt, children| {
        let file = place.path().join("deaf");
        let script = format!("(sh -c \"{}\") & wait", deaf(&file));
        let child = started(&children, "forker", &script).await;
        until(&rt, "one of its group is deaf", || file.exists()).await;
        let told = child.clone();
        let stopping = rt.spawn(async move { told.stop().await });
        let is_reaped =
            |kept: &KeptChild| kept.ending.as_ref().is_some_and(|it| it.reaped.is_some());
        until(&rt, "it is reaped", || is_reaped(&children.freeze().unwrap()[0])).await;
        let kept = children.freeze().unwrap();
        let ending = kept[0].ending.as_ref().unwrap();
        let exit = ending.reaped.as_ref().map(|(exit, _)| exit);
        assert!(matches!(exit, Some(kept::Exit::Signal { number: 15, .. })), "{kept:?}");
        assert_eq!((kept[0].exit.is_some(), ending.told), (false, Some(15)));

        let next = Children::new(&rt);
        next.inherit(kept, Duration::from_millis(50));
        let exit = next.named("forker").unwrap();
        let exit = rt.timeout(Duration::from_secs(60), exit.exit()).await;
        assert!(matches!(exit, Ok(ExitStatus::Signal { number: 15, .. })), "{exit:?}");
        let stopped = rt.timeout(Duration::from_secs(60), stopping).await;
        assert!(stopped.is_ok(), "the rest of its group is not killed");
    });
}
