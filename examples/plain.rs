// Plain mode, for programs in other languages: a master whose workers are Python, and a worker that
// a master in Python can start.
//
// ```sh
// cargo run --example plain -- examples/python/worker.py
// cargo build --example plain && python3 examples/python/master.py target/debug/examples/plain --worker
// ```

use release::ipc::{CallError, Text};
use release::{Exit, Master, PlainMe, Workers, driver, log, me};

fn main() -> Exit {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().unwrap_or_else(|| "examples/python/worker.py".to_owned());
    if first == "--worker" { worker(arguments.next()) } else { master(&first) }
}

fn master(script: &str) -> Exit {
    if let Err(error) = log::stderr() {
        return error.into();
    }
    let workers = Workers::program("python", 2, "/usr/bin/python3", [script])
        .requests::<String>()
        .codec(Text)
        .user("nobody") // when the master is root
        .plain(|worker, text: String| async move {
            Ok(format!("you are worker {}, and said: {text}", worker.id))
        });
    Master::new().workers(workers).run(driver)
}

/// `login` is needed when the one who starts it is root.
fn worker(login: Option<String>) -> Exit {
    let worker = me().codec(Text);
    let worker = if let Some(login) = login { worker.user(login) } else { worker };
    worker.run_plain(driver, ask)
}

async fn ask(me: PlainMe<String, Text>) -> Result<(), CallError> {
    for question in ["one", "two", "bye"] {
        let answer = me.master().call(&question.to_owned()).await?;
        eprintln!("the master answered: {answer}");
    }
    me.stopping().await;
    Ok(())
}
