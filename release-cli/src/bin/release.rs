//! The program `release`.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    release_cli::release()
}
