//! What reloads of real servers under `release run` lose: clients ask without a pause, with a new
//! connection for each request, then on connections that they keep as long as the server does.
//!
//! ```sh
//! cargo bench --bench servers                     # a hundred reloads each
//! cargo bench --bench servers -- --quick          # three
//! cargo bench --bench servers -- uvicorn          # of those with such a name
//! ```

use release_tests::servers::{self, Served};
use release_tests::{Backend, CLIENTS, Connections, Count, Program};

type Start = fn() -> Served;

const SERVERS: [(&str, Start); 10] = [
    ("nginx", servers::nginx),
    ("Node", servers::node),
    ("gunicorn, sync", || servers::gunicorn("sync")),
    ("gunicorn, gthread", || servers::gunicorn("gthread")),
    ("gunicorn, asgi", || servers::gunicorn("asgi")),
    ("gunicorn, uvicorn's worker", || servers::gunicorn("uvicorn.workers.UvicornWorker")),
    ("uvicorn, ?each", servers::uvicorn),
    ("uvicorn, one socket", servers::uvicorn_with_one_socket),
    ("uvicorn, patient", servers::patient_uvicorn),
    ("the example service", || Some(Program::new(Backend::Tokio, "service").serve(2))),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let reloads = if arguments.iter().any(|argument| argument == "--quick") { 3 } else { 100 };
    let names: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    println!("{CLIENTS} clients, {reloads} reloads\n");
    println!("| | connections | requests | lost | to send again | time of a reload |");
    println!("|---|---|---:|---:|---:|---:|");
    for (name, start) in SERVERS {
        if !names.is_empty() && !names.iter().any(|wanted| name.contains(wanted.as_str())) {
            continue;
        }
        for (connections, said) in [(Connections::New, "new"), (Connections::Kept, "kept")] {
            let Some((mut server, address)) = start() else { continue };
            let (count, each) = server.count_reloads(address, connections, reloads);
            let Count { answered, lost, to_send_again } = count;
            println!("| {name} | {said} | {answered} | {lost} | {to_send_again} | {each:.0?} |");
            server.stop();
        }
    }
}
