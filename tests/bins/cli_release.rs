//! The program `release`, for the tests.

fn main() -> std::process::ExitCode {
    release_cli::release()
}
