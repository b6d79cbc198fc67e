// Counts the words of files: a pool of workers without privileges does it, each with one file at a time.
//
// ```sh
// target/debug/examples/jobs README.md docs/*.md
// ```
//
// The master reads the files and the workers only see their text. A text whose worker dies, or takes
// longer than two seconds, gets another worker once.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use release::ipc::{Refused, Request};
use release::jobs::Jobs;
use release::{Exit, Master, MasterHandle, Me, Workers, driver, is_worker, me};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Count {
    text: String,
}

impl Request for Count {
    type Response = usize;
}

fn main() -> Exit {
    if is_worker() { worker() } else { master() }
}

async fn count(Count { text }: Count) -> Result<usize, Refused> {
    Ok(text.split_whitespace().count())
}

fn worker() -> Exit {
    me().run_answering(driver, count, |me: Me| async move {
        me.ready()?;
        // The master asks for the end when no job is in hand any more.
        me.stopping().await;
        Ok::<(), release::ipc::SendError>(())
    })
}

fn master() -> Exit {
    let jobs = Jobs::new().queue(8);
    let workers = Workers::same_executable("count", 4)
        .user("nobody") // when the master is root
        .requests()
        .jobs(&jobs);
    Master::new().workers(workers).main(|master| count_all(master, jobs)).run(driver)
}

async fn count_all(master: MasterHandle, jobs: Jobs<Count>) -> std::io::Result<()> {
    let mut running = FuturesUnordered::new();
    let paths: Vec<_> = std::env::args().skip(1).collect();
    for path in paths {
        let text = std::fs::read_to_string(&path)?;
        let mut job =
            jobs.submit(Count { text }).timeout(Duration::from_secs(2)).attempts(2).start();
        // The queue is full: no further file is read until there is room.
        job.accepted().await.map_err(std::io::Error::other)?;
        running.push(async move { (path, job.await) });
    }
    while let Some((path, counted)) = running.next().await {
        match counted {
            Ok(words) => println!("{words:7} {path}"),
            Err(error) => println!("{error}: {path}"),
        }
    }
    master.stop();
    Ok(())
}
