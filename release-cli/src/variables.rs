//! The environment of programs, said alike for `release run` and `release daemon`.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use release_core::{Environment, Error, ErrorKind, check_for_root, look_up_to_start};

/// The program's environment.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Variables {
    /// A variable for the program: NAME=VALUE, or NAME as it is here, also where nothing else is kept
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<Pair>,
    /// A file with one NAME=VALUE or NAME a line, as it stands there; `#` begins a comment line
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    pub(crate) env_file: Vec<PathBuf>,
    /// Nothing of the environment that this was started with
    #[arg(long)]
    pub(crate) env_clear: bool,
    /// Variables of other settings, which these replace.
    #[arg(skip)]
    under: Option<Box<Self>>,
}

/// An environment variable, if it has a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) value: Option<OsString>,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.into())),
            None => (text, std::env::var_os(text)),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err("a variable is written NAME=VALUE, or NAME for the one of here".to_owned());
        }
        Ok(Self { name: name.to_owned(), value })
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| error.to_string())
}

impl Variables {
    /// The environment before [`pairs`](Variables::pairs), for a program that runs as another user or not.
    pub(crate) fn base(&self, has_user: bool) -> Environment {
        match (self.env_clear, has_user) {
            (false, _) => Environment::inherit(),
            (true, true) => Environment::keep(["HOME", "USER", "LOGNAME", "SHELL"]),
            (true, false) => Environment::keep([""; 0]),
        }
    }

    /// Sets variables, a file or none of this environment.
    pub(crate) fn new(env: Vec<Pair>, env_file: Vec<PathBuf>, env_clear: bool) -> Self {
        Self { env, env_file, env_clear, under: None }
    }

    /// Adds variables of other settings. These here win, those of a file, too.
    pub(crate) fn over(mut self, other: Self) -> Self {
        self.env_clear |= other.env_clear;
        let under = match self.under.take() {
            Some(under) => under.over(other),
            None => other,
        };
        self.under = Some(Box::new(under));
        self
    }

    /// Returns the variables; a later one replaces an earlier one.
    pub(crate) fn pairs(&self) -> Result<Vec<(String, OsString)>, Error> {
        let mut pairs = self.under.as_ref().map_or(Ok(Vec::new()), |under| under.pairs())?;
        let files = self.env_file.iter().map(|path| read(path));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let all = files.into_iter().flatten().chain(self.env.iter().cloned());
        pairs.extend(all.filter_map(|pair| Some((pair.name, pair.value?))));
        Ok(pairs)
    }
}

fn read(path: &Path) -> Result<Vec<Pair>, Error> {
    let place = path.display();
    let wrong = |message: String| Error::new(ErrorKind::Usage, message);
    let cannot = |why: String| wrong(format!("cannot read the variables in {place}: {why}"));
    let text = look_up_to_start(&format!("variables in {place}"), || {
        let mut file = File::open(path).map_err(|error| cannot(error.to_string()))?;
        // What a program loads that root runs is in its environment.
        check_for_root(path, &file)
            .map_err(|why| cannot(format!("root would obey it, and {why}")))?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|error| cannot(error.to_string()))?;
        Ok::<_, Error>(text)
    })?;
    let lines = (1..).zip(text.lines().map(str::trim_start));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let pair = |(number, line): (usize, &str)| {
        line.parse().map_err(|why: String| wrong(format!("{place}:{number}: {why}")))
    };
    lines.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_variables_wins_over_variables_of_other_settings() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("variables");
        std::fs::write(&path, "A=command line\nB=command line\n").unwrap();
        let env = |text: &str| vec![text.parse().unwrap()];
        let command_line = Variables::new(env("B=option"), vec![path], false);
        let section = Variables::new(env("A=section"), Vec::new(), false);
        let shared =
            Variables::new(vec!["A=x".parse().unwrap(), "C=x".parse().unwrap()], Vec::new(), true);
        let all = command_line.over(section).over(shared);
        assert!(all.env_clear);
        let last =
            |name: &str| all.pairs().unwrap().into_iter().rfind(|pair| pair.0 == name).unwrap().1;
        assert_eq!([last("A"), last("B"), last("C")], ["command line", "option", "x"]);
    }

    #[test]
    fn a_file_has_one_variable_a_line() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("variables");
        let of = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Variables::new(Vec::new(), vec![path.clone()], false).pairs()
        };
        let pairs = of("# A comment\n\n  A=1\nB= \"x\" #y\nC=\nNO_SUCH_VARIABLE\nA=2\n").unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (&**name, value.to_str())).collect();
        let expected = [("A", "1"), ("B", " \"x\" #y"), ("C", ""), ("A", "2")];
        assert_eq!(pairs, expected.map(|(name, value)| (name, Some(value))));
        let why = of("A=1\nexport B=2\n").unwrap_err().to_string();
        assert!(why.contains("variables:2: a variable is written"), "{why}");
        let gone = Variables::new(Vec::new(), vec!["/no/such".into()], false);
        assert!(gone.pairs().unwrap_err().to_string().contains("/no/such: No such file"));
    }
}
