//! The program `socketmaster`, for the tests.

fn main() -> std::process::ExitCode {
    release_cli::socketmaster()
}
