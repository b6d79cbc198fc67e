//! Manual pages and completions, as their readers take them.

use std::fs;
use std::process::{Command, Stdio};

use release_tests::Program;

#[test]
fn each_command_has_a_manual_page() {
    let program = Program::release().args(["man", "."]);
    let mut running = program.start();
    assert_eq!(running.wait().code(), Some(0), "{}", running.stderr());
    let page = |name: &str| fs::read_to_string(running.path(name)).expect("a page");
    assert!(page("release.1").contains("release\\-daemon(1)"));
    for (name, option) in [("run", "COMMAND"), ("ctl", "control"), ("daemon", "pid\\-file")] {
        let page = page(&format!("release-{name}.1"));
        assert!(page.starts_with(".ie") || page.starts_with(".TH"), "{page}");
        assert!(page.contains(option), "{page}");
        let sections = [".SH EXAMPLES\n", ".SH \"EXIT STATUS\"\n"];
        assert!(name == "run" || sections.iter().all(|section| page.contains(section)), "{page}");
    }
    let (code, said) = Program::release().args(["man", "/no/such"]).run();
    assert!(code == 1 && said.contains("cannot write pages to /no/such: No such file"), "{said}");
}

#[test]
fn shells_read_the_completions() {
    for (shell, expected) in [
        ("bash", "--pid-file"),
        ("zsh", "--pid-file"),
        ("fish", "pid-file"),
        ("elvish", "--pid-file"),
    ] {
        let program = Program::release().args(["completions", shell]);
        let path = program.path("script");
        let file = fs::File::create(&path).expect("a file");
        let program = program.with(|command| {
            command.stdout(Stdio::from(file));
        });
        let mut running = program.start();
        assert_eq!(running.wait().code(), Some(0), "{}", running.stderr());
        let script = fs::read_to_string(&path).expect("a script");
        assert!(script.contains(expected), "{shell}: {script}");
        if shell == "bash" {
            let read = Command::new("bash").arg("-n").arg(&path).status().expect("bash");
            assert!(read.success());
        }
    }
    let (code, said) = Program::release().args(["completions", "bsh"]).run();
    assert!(code == 2 && said.contains("bash"), "{said}");
}

/// What bash offers behind these words of a command line.
const COMPLETE: &str = r#"
eval "$("$1" completions bash "$2")"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
"_$1" "$1" "${@: -1}" "${@: -2:1}"
printf '%s\n' "${COMPREPLY[@]}" >&2
"#;

#[test]
fn a_shell_completes_values_and_the_other_program() {
    for (line, expected) in [
        (&["release", "run", "--stop-signal", ""][..], "TERM HUP INT QUIT USR1 USR2 WINCH NONE"),
        (&["release", "run", "--ready", ""], "notify ack fd"),
        (&["release", "run", "--respawn", "on"], "on-failure"),
        (&["socketmaster", "--sys"], "--syslog"),
    ] {
        let launcher = ["bash", "-c", COMPLETE, "bash"];
        let (code, said) = Program::release_under(&launcher).args(line).run();
        let offered: Vec<_> = said.split_whitespace().collect();
        assert_eq!((code, &*offered.join(" ")), (0, expected), "{line:?}");
    }
}

#[test]
fn help_teaches_and_mistakes_are_answered() {
    for command in ["run", "ctl", "daemon"] {
        let program = Program::release().args([command, "--help"]);
        let path = program.path("help");
        let file = fs::File::create(&path).expect("a file");
        let program = program.with(|command| {
            command.stdout(Stdio::from(file));
        });
        let mut running = program.start();
        assert_eq!(running.wait().code(), Some(0), "{}", running.stderr());
        let help = fs::read_to_string(&path).expect("help");
        let teaches = help.contains("Examples:") && help.contains("Exit status:");
        assert!(teaches || command == "run", "{help}");
    }
    let (code, said) = Program::release().args(["deamon", "--", "true"]).run();
    assert!(code == 2 && said.contains("'daemon'"), "{said}");
    let (code, said) = Program::release().args(["ctl", "--control", "x", "relaod"]).run();
    assert!(code == 2 && said.contains("'reload'"), "{said}");
}
