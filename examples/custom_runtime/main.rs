// The service on an executor of our own making: `executor.rs`, less than a hundred lines.
//
// ```sh
// cargo run --example custom_runtime -- conformance
// cargo run --example custom_runtime -- --listen 127.0.0.1:8080
// ```

#[path = "../service/app/mod.rs"]
mod app;
mod executor;

use std::process::{ExitCode, Termination};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("conformance") {
        // Panics with the name of the promise that is not kept.
        release::rt::conformance::run(executor::driver);
        println!("the executor keeps every promise");
        return ExitCode::SUCCESS;
    }
    app::run(executor::driver).report()
}
