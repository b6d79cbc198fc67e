// A master that starts with one worker, and with one more at every SIGHUP.
//
// ```sh
// cargo run --example prefork_simple                  # prints what to send it
// kill -HUP PID; ps -ef | grep '[w]orker greeter'     # worker greeter id=0, worker greeter id=1
// ```
//
// SIGHUP stays what it is everywhere, a reload: workers that run get new processes, and what
// observes it asks for one worker more. To start one without replacing the others,
// send TTIN; TTOU stops one.

use futures_channel::mpsc::unbounded;
use futures_util::StreamExt;
use release::supervise::Report;
use release::{Error, Exit, Master, Me, Workers, driver, is_worker, log, me};
use serde::{Deserialize, Serialize};

const GROUP: &str = "greeter";

/// What a worker is given: a type of the program's own, which goes over the IPC socket.
#[derive(Serialize, Deserialize)]
struct Greeting {
    text: String,
}

fn main() -> Exit {
    if is_worker() { me().run(driver, worker) } else { master() }
}

fn master() -> Exit {
    if let Err(error) = log::stderr() {
        return error.into();
    }
    eprintln!("send SIGHUP to {} to start another worker", std::process::id());
    let workers = Workers::same_executable(GROUP, 1)
        .user("nobody") // when the master is root
        .context(|id| Greeting { text: format!("Hello. I'm worker {id}.") });
    let (hang_up, mut hang_ups) = unbounded();
    Master::new()
        .workers(workers)
        .observe(move |report| {
            if let Report::Reloaded { .. } = report {
                // Fails when the master ends.
                let _ = hang_up.unbounded_send(());
            }
        })
        .main(|master| async move {
            while let Some(()) = hang_ups.next().await {
                let size = u32::try_from(master.status().len()).unwrap_or(u32::MAX);
                if let Err(error) = master.scale(GROUP, size.saturating_add(1)).await {
                    tracing::error!(reason = error.report(), "no more workers than before");
                }
            }
            Ok::<(), Error>(())
        })
        .run(driver)
}

async fn worker(me: Me<Greeting>) -> Result<(), release::ipc::SendError> {
    eprintln!("{}", me.context().text);
    me.ready()?;
    me.stopping().await;
    Ok(())
}
