// The smallest master and worker, in one file: each worker introduces itself, the master answers.

use release::ipc::Request;
use release::{Exit, Master, Me, Workers, driver, is_worker, me};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Hello(String);

impl Request for Hello {
    type Response = String;
}

fn main() -> Exit {
    // The same executable is the master or a worker, depending on how it was started.
    if is_worker() { me().run(driver, worker) } else { master() }
}

fn master() -> Exit {
    let workers = Workers::same_executable("greeter", 2)
        .user("nobody") // when the master is root
        .answer(|worker, Hello(text)| async move {
            Ok(format!("you are worker {} (process {}): {text}", worker.id, worker.pid))
        });
    Master::new().workers(workers).run(driver)
}

async fn worker(me: Me<(), Hello>) -> Result<(), release::ipc::CallError> {
    let answer = me.master().call(&Hello("hello, master".into())).await?;
    eprintln!("{answer}");
    me.ready()?;
    me.stopping().await;
    Ok(())
}
