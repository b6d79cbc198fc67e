//! Files generated from the parser: manual pages and completions.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::roff::{Roff, roman};

/// Write the manual pages, socketmaster.1, release.1 and one for each command, into a directory
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
  release completions fish > ~/.config/fish/completions/release.fish
  release completions bash socketmaster > /etc/bash_completion.d/socketmaster")]
pub(crate) struct Completions {
    shell: Shell,
    /// Of which program
    #[arg(default_value = "release", value_parser = ["release", "socketmaster"])]
    program: String,
}

impl Man {
    pub(crate) fn write(self, programs: impl IntoIterator<Item = Command>) -> ExitCode {
        let written = programs.into_iter().try_for_each(|program| {
            // `help` is no command of its own in a manual.
            let mut command = program.disable_help_subcommand(true);
            command.build();
            write_pages(&command, &self.directory)
        });
        match written {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let place = self.directory.display();
                let message = format!("release: cannot write pages to {place}: {error}\n");
                let _ = io::Write::write_all(&mut io::stderr(), message.as_bytes());
                ExitCode::FAILURE
            }
        }
    }
}

/// The page of a command, and the pages of its subcommands.
fn write_pages(command: &Command, directory: &Path) -> io::Result<()> {
    let mut commands = command.get_subcommands().filter(|command| !command.is_hide_set());
    commands.try_for_each(|command| write_pages(command, directory))?;
    let source = concat!("release ", env!("CARGO_PKG_VERSION"));
    let man = clap_mangen::Man::new(command.clone()).source(source);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let more = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    closing_sections(&more).to_writer(&mut page)?;
    std::fs::write(directory.join(man.get_filename()), page)
}

/// The part of `--help` behind the options, as sections: examples, notes, and the exit status.
fn closing_sections(text: &str) -> Roff {
    let mut page = Roff::new();
    let mut is_in_notes = false;
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        if let Some(examples) = paragraph.strip_prefix("Examples:") {
            page.control("SH", ["EXAMPLES"]).control("nf", []);
            let lines = examples.trim().lines().map(|line| roman(format!("{}\n", line.trim())));
            page.text(lines.collect::<Vec<_>>());
            page.control("fi", []);
        } else if let Some(status) = paragraph.strip_prefix("Exit status:") {
            page.control("SH", ["EXIT STATUS"]).text([roman(status.trim())]);
        } else {
            let heading = if is_in_notes { ("PP", vec![]) } else { ("SH", vec!["NOTES"]) };
            page.control(heading.0, heading.1).text([roman(paragraph)]);
            is_in_notes = true;
        }
    }
    page
}

impl Completions {
    pub(crate) fn print(self, programs: impl IntoIterator<Item = Command>) -> ExitCode {
        let named = |command: &Command| command.get_name() == self.program;
        let Some(mut command) = programs.into_iter().find(named) else { return ExitCode::FAILURE };
        let name = self.program;
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        // Whoever does not read it to the end has enough.
        let _ = io::Write::write_all(&mut io::stdout(), &script);
        ExitCode::SUCCESS
    }
}
