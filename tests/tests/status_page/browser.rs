//! A real browser: Chromium without a window, over the pipe of its debugging protocol.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use release_tests::eventually;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(super) struct Browser {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    session: Option<String>,
    last: u64,
    _profile: TempDir,
}

impl Browser {
    /// Opens a page.
    pub(super) fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a directory");
        // It reads requests from descriptor 3 and writes answers to descriptor 4.
        let pipes = "exec 3<&0 4>&1 </dev/null >/dev/null 2>&1; exec \"$@\"";
        let mut child = Command::new("sh")
            .args(["-c", pipes, "sh", "chromium", "--headless=new", "--no-sandbox"])
            .args(["--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-extensions", "--disable-background-networking"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("Chromium starts");
        let requests = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut browser =
            Self { child, requests, answers, session: None, last: 0, _profile: profile };
        let target = browser.ask("Target.createTarget", &json!({ "url": url }));
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.ask("Target.attachToTarget", &target);
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        browser
    }

    fn ask(&mut self, method: &str, parameters: &Value) -> Value {
        self.last += 1;
        let mut request = json!({ "id": self.last, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            request["sessionId"] = json!(session);
        }
        self.requests.write_all(format!("{request}\0").as_bytes()).expect("Chromium reads");
        loop {
            let mut answer = Vec::new();
            self.answers.read_until(0, &mut answer).expect("Chromium answers");
            assert!(answer.pop().is_some(), "Chromium has gone after {request}");
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            // The others are events.
            if answer["id"] == self.last {
                assert!(answer["error"].is_null(), "{request}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// The value of an expression.
    pub(super) fn value(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true });
        self.ask("Runtime.evaluate", &asked)["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub(super) fn awaits(&mut self, expression: &str) {
        eventually(&format!("{expression} in the browser"), || self.value(expression) == true);
    }

    /// Returns a picture of a window of this width, with light or dark colours.
    pub(super) fn picture(&mut self, width: u32, scheme: &str) -> Vec<u8> {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.ask("Emulation.setEmulatedMedia", &json!({ "features": features }));
        let size =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 2, "mobile": false });
        self.ask("Emulation.setDeviceMetricsOverride", &size);
        let taken = self.ask("Page.captureScreenshot", &json!({}));
        decode(taken["data"].as_str().expect("a picture"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).expect("a process"));
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Base64.
fn decode(text: &str) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let values = text.bytes().map_while(|letter| LETTERS.iter().position(|one| *one == letter));
    let values: Vec<_> = values.collect();
    let mut bytes = Vec::new();
    for four in values.chunks(4) {
        let bits = four.iter().fold(0, |bits, value| bits << 6 | value) << (6 * (4 - four.len()));
        bytes.extend((1..four.len()).map(|place| u8::try_from(bits >> (24 - 8 * place) & 0xff)));
    }
    bytes.into_iter().map(|byte| byte.expect("eight bits")).collect()
}
