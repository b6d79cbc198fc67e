//! Log files that operators move away: every line is in one of the files, once and whole.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use release_tests::{Answer, Running};

/// What workers and master write to.
const NAMES: [&str; 2] = ["out", "err"];

/// The files that were moved away, in their order.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    moved: Mutex<[Vec<PathBuf>; 2]>,
    /// Nobody may write to these any more: their lengths.
    done: Mutex<HashMap<PathBuf, u64>>,
}

impl Logs {
    /// Moves the files away that are there, as logrotate does; and says which ones are away.
    pub(crate) fn move_away(&self, running: &Running) -> Vec<PathBuf> {
        let mut moved = self.moved.lock().expect("the files");
        for (name, moved) in NAMES.into_iter().zip(&mut *moved) {
            let (path, to) = (running.path(name), running.path(&format!("{name}.{}", moved.len())));
            if path.is_file() {
                fs::rename(path, &to).expect("the file is moved");
                moved.push(to);
            }
        }
        moved.concat()
    }

    /// Puts something in the way of both.
    pub(crate) fn obstruct(&self, running: &Running) {
        // The other operator may have them opened again meanwhile.
        while !NAMES.iter().all(|name| running.path(name).is_dir()) {
            self.move_away(running);
            for path in NAMES.map(|name| running.path(name)) {
                let _ = fs::create_dir(path);
            }
        }
    }

    pub(crate) fn clear(running: &Running) {
        for path in NAMES.map(|name| running.path(name)) {
            let _ = fs::remove_dir(path);
        }
    }

    /// "ok" was answered: nobody writes to these any more.
    pub(crate) fn are_done(&self, files: Vec<PathBuf>) {
        let mut done = self.done.lock().expect("the files");
        for path in files {
            let length = length(&path);
            let before = *done.entry(path.clone()).or_insert(length);
            assert_eq!(length, before, "somebody writes to {path:?}, which was moved away");
        }
    }

    /// All files of this name, in the order of what was written to them.
    fn files(&self, number: usize, running: &Running) -> Vec<PathBuf> {
        let moved = self.moved.lock().expect("the files")[number].clone();
        moved.into_iter().chain([running.path(NAMES[number])]).collect()
    }

    /// The log of the master.
    pub(crate) fn text(&self, running: &Running) -> String {
        let texts = self.files(1, running).into_iter().map(fs::read_to_string);
        texts.map(Result::unwrap_or_default).collect()
    }

    /// How often each answer was written, now that nobody writes any more.
    pub(crate) fn answers(&self, running: &Running) -> HashMap<Answer, usize> {
        let done = std::mem::take(&mut *self.done.lock().expect("the files"));
        for (path, before) in done {
            assert_eq!(length(&path), before, "somebody has written to {path:?} after the \"ok\"");
        }
        let mut answers = HashMap::new();
        for path in self.files(0, running).into_iter().chain(self.files(1, running)) {
            let text = fs::read_to_string(&path).expect("text");
            assert!(text.is_empty() || text.ends_with('\n'), "{path:?} ends in a line");
            for line in
                text.lines().filter(|line| line.contains("worker=") && line.contains(" seq="))
            {
                *answers.entry(parse(line)).or_default() += 1;
            }
        }
        answers
    }
}

fn length(path: &Path) -> u64 {
    path.metadata().expect("a file").len()
}

/// `release run` writes who has written it before.
fn parse(line: &str) -> Answer {
    let (prefix, text) = line.split_at(line.find("worker=").unwrap_or_default());
    let answer = Answer::parse(text).filter(|answer| {
        let is_prefix = prefix == format!("[{} {}] ", answer.worker, answer.pid);
        text.split(' ').count() == 3 && (prefix.is_empty() || is_prefix)
    });
    answer.unwrap_or_else(|| panic!("no whole line: {line:?}"))
}
