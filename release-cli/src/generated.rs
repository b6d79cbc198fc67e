//! What is made from the parser: manual pages and completions.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;

/// Write the manual pages, release.1 and one for each command, into a directory
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The directory, such as /usr/local/share/man/man1
    directory: PathBuf,
}

/// Print a shell's completions of commands and options
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  release completions bash > /etc/bash_completion.d/release
  release completions zsh > /usr/local/share/zsh/site-functions/_release
  release completions fish > ~/.config/fish/completions/release.fish")]
pub(crate) struct Completions {
    shell: Shell,
}

impl Man {
    pub(crate) fn write(self, command: Command) -> ExitCode {
        match write_pages(command, &self.directory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("release: cannot write pages to {}: {error}", self.directory.display());
                ExitCode::FAILURE
            }
        }
    }
}

fn write_pages(command: Command, directory: &Path) -> io::Result<()> {
    // `help` is no command of its own in a manual.
    clap_mangen::generate_to(command.disable_help_subcommand(true), directory)
}

impl Completions {
    pub(crate) fn print(self, mut command: Command) -> ExitCode {
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        // Whoever does not read it to the end has enough.
        let _ = io::Write::write_all(&mut io::stdout(), &script);
        ExitCode::SUCCESS
    }
}
