//! Files made to break the parser: each gives a clear error soon.

use std::time::{Duration, Instant};

use super::messages;
use crate::config::{Config, Spec, key};

/// Far more than a check takes, even on a busy machine and without optimization; far less than an
/// algorithm that is quadratic in the length.
const SOON: Duration = Duration::from_secs(20);

fn errors(text: impl AsRef<[u8]>) -> crate::config::Errors {
    let start = Instant::now();
    let errors = Config::parse("x", text, &Spec::new().key(key("key"))).expect_err("a bad file");
    let took = start.elapsed();
    assert!(took < SOON, "{took:?}");
    assert!(errors.to_string().len() < 100_000);
    errors
}

#[test]
fn many_brackets() {
    for open in ["[", "key = [", "key = [1, [", "["] {
        let errors = errors(open.to_owned() + &"[".repeat(60_000));
        assert!(errors.count() < 5, "{errors}");
    }
    let balanced = format!("key = {}{}", "[".repeat(60_000), "]".repeat(60_000));
    assert_eq!(messages(&errors(balanced)), "lists are nested more than 16 deep");
}

#[test]
fn quotes_without_end() {
    // Each line begins a string whose end would be searched to the end of the file.
    let lines = "\\\"\n".repeat(60_000);
    errors(format!("key = \"x\n{lines}"));
    errors(format!("key = \"x\n{lines}\"x"));
    errors("key = /\\/\n".repeat(60_000));
}

#[test]
fn one_long_line() {
    for unit in
        ["[", "a", "a ", "a=", "a=1 ", "\"", "/", "#", "=", "1,", "[a] ", "a = [b ", "\u{e9}"]
    {
        errors(unit.repeat(60_000 / unit.len()));
    }
}

#[test]
fn secrets_everywhere() {
    let spec = Spec::new().key(key("password").secret());
    for (unit, length) in
        [("password \n", 1_000_000), ("password = \"", 100_000), ("pasword [ ", 100_000)]
    {
        let text = unit.repeat(length / unit.len());
        let start = Instant::now();
        assert!(Config::parse("x", text, &spec).is_err());
        assert!(start.elapsed() < SOON, "{unit}: {:?}", start.elapsed());
    }
}

#[test]
fn many_values_on_one_line() {
    for element in ["1", "\"\"", "a", "[]", "1s", "a:1"] {
        let list = vec![element; 30_000].join(",");
        let start = Instant::now();
        assert!(super::value(&format!("[{list}]")).is_ok());
        assert!(start.elapsed() < SOON);
    }
}

#[test]
fn expensive_regular_expressions() {
    let many = vec!["/a/"; 1001].join(", ");
    assert_eq!(
        messages(&errors(format!("key = [{many}]"))),
        "a file holds at most 1000 regular expressions"
    );
    let long = errors(format!("key = /{}/", "a".repeat(100_000)));
    assert!(messages(&long).ends_with("it is too large: it has over 65536 bytes"), "{long}");
    errors(format!("key = /{}/", "(a{100}){100}".repeat(1000)));
}

#[test]
fn many_errors_are_counted() {
    let errors = errors("key = 1\n".to_owned() + &"wrong = 1\n".repeat(1000));
    assert_eq!(errors.problems().len(), 100);
    assert_eq!(errors.count(), 1000 + 999);
    assert!(errors.to_string().ends_with("\nand 1899 more"));
}

#[test]
fn bytes_that_are_no_text() {
    let nul = errors(b"key = 1\nother\0 = 2".as_slice());
    assert_eq!((nul.problems()[0].line(), nul.problems()[0].column()), (Some(2), Some(6)));
    assert!(messages(&nul).contains("NUL"), "{nul}");
    let latin = errors(b"\xc3\xa9\xc3\xa9 = \"caf\xe9\"\n".as_slice());
    assert_eq!((latin.problems()[0].line(), latin.problems()[0].column()), (Some(1), Some(10)));
    assert!(messages(&latin).contains("0xe9 is not UTF-8"), "{latin}");
    let cut = errors(b"key = \"\xf0\x9f\x98".as_slice());
    assert_eq!(cut.problems()[0].column(), Some(8));
}

#[test]
fn nothing_in_a_file_commands_the_terminal() {
    let text =
        "key = \"\x1b[2J\u{202e}\u{9b}\u{200b}\" \x07\nk\u{202e} = 1\n\x1b]0;x\x07 = 2\nk\u{a0}= 5";
    let report = errors(text).to_string();
    let printed = |character: char| !crate::config::printable::is_hidden(character);
    assert!(report.chars().all(|character| character == '\n' || printed(character)), "{report:?}");
}
