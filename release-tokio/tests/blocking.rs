//! What runs in tokio's pool of threads for blocking calls.

use std::thread;
use std::time::{Duration, Instant};

use release_tokio::rt::run;

#[test]
fn a_blocking_call_that_never_ends_does_not_keep_the_process() {
    let driver = release_tokio::driver().expect("a driver");
    run(&driver, async {
        let (started, starting) = tokio::sync::oneshot::channel();
        tokio::task::spawn_blocking(move || {
            started.send(()).expect("it is waited for");
            loop {
                thread::park();
            }
        });
        starting.await.expect("it starts");
    });
    let began = Instant::now();
    drop(driver);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
