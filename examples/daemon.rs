// A program of one's own as a daemon, without workers: a pid file, a log that logrotate may move, and
// an orderly stop.
//
// ```sh
// cargo build --example daemon
// target/debug/examples/daemon /tmp/daemon.pid /tmp/daemon.log   # comes back when it is up
// mv /tmp/daemon.log /tmp/daemon.log.1 && kill -USR1 $(cat /tmp/daemon.pid)
// kill $(cat /tmp/daemon.pid)
// ```

use std::time::Duration;

use futures_util::future::{Either, select};
use release::{Daemon, Exit, Master, MasterHandle, driver};

fn main() -> Exit {
    let mut arguments = std::env::args().skip(1);
    let (Some(pid_file), Some(log)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: daemon PID_FILE LOG_FILE");
        return Exit::success();
    };
    Master::new()
        .background(Daemon::new().output(&log).error(&log))
        .lock_file(pid_file)
        .main(work)
        .run(driver)
}

async fn work(master: MasterHandle) -> Result<(), std::io::Error> {
    println!("up");
    let mut stopping = master.stopping();
    loop {
        // Whatever the program is for.
        let work = master.rt().sleep(Duration::from_secs(1));
        match select(std::pin::pin!(work), &mut stopping).await {
            Either::Left(_) => println!("still there"),
            Either::Right(_) => break,
        }
    }
    // What takes its time, until the stop deadline; the pid file is removed afterwards.
    println!("saving");
    master.rt().sleep(Duration::from_millis(100)).await;
    println!("saved");
    Ok(())
}
