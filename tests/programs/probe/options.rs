//! What a worker has for itself, read from a file: in each line a worker, an option, its values.

use std::path::Path;

use release::{Resource, WorkerOptions};

/// The options of one worker; a file that does not exist gives nobody any.
pub(crate) fn of(worker: u32, file: &Path) -> WorkerOptions {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let own = lines.filter(|(id, _)| *id == worker.to_string());
    own.fold(WorkerOptions::default(), |options, (_, option)| {
        let mut words = option.split_whitespace();
        let mut word = || words.next().unwrap_or_default();
        match word() {
            "argument" => options.argument(word()),
            "variable" => options.variable(word(), word()),
            "processors" => options.processors(words.map(number)),
            "nice" => options.nice(number(word())),
            "files" => options.limit(Resource::OpenFiles, number(word()), number(word())),
            "core" => options.limit(Resource::CoreSize, number(word()), number(word())),
            "space" => options.limit(Resource::AddressSpace, number(word()), number(word())),
            "processes" => options.limit(Resource::Processes, number(word()), number(word())),
            "size" => options.limit(Resource::FileSize, number(word()), number(word())),
            other => panic!("told to `{other}`"),
        }
    })
}

fn number<N: std::str::FromStr>(word: &str) -> N {
    word.parse().unwrap_or_else(|_| panic!("`{word}` is no number that is expected here"))
}
