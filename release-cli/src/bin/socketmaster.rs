//! The program `socketmaster`.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    release_cli::socketmaster()
}
