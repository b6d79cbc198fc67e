use std::iter;

use serde_json::Value;

use super::*;

/// What masters of each released version, and of this one, leave: the last one is this version's.
const GOLDEN: [&str; 1] = [include_str!("tests/state-1.json")];

const ADVICE: &str = "\
What a master leaves to its next version has changed: see the rules in `release-core/src/kept/mod.rs`.
Running masters of released versions still leave it as the files in `state/tests` say:
  - a new field has a default for when it is missing: `#[serde(default)]`, or an `Option`;
  - a field or variant that somebody has left is not renamed, and its meaning does not change;
  - where that cannot be, count `kept::VERSION` up: upgrades from older versions are refused in their trial.
Then, if the last file belongs to a version that was released, add another one with this text to GOLDEN;
otherwise put it in the place of the last:
";

/// As a whole, with this descriptor in every place.
fn envelope(golden: &str, descriptor: i32) -> Vec<u8> {
    // Between versions of another protocol there is no upgrade, whatever the rest is.
    let golden = golden.replace("\"PROTOCOL\"", &PROTOCOL.to_string());
    let mut parts = golden.split("\"place\"");
    let mut state = parts.next().unwrap().to_owned();
    let mut descriptors = Vec::new();
    for part in parts {
        state = format!("{state}{}{part}", descriptors.len());
        descriptors.push(descriptor);
    }
    format!("{{\"descriptors\":{descriptors:?},\"state\":{state}}}").into_bytes()
}

#[test]
fn what_released_versions_leave_is_understood() {
    for golden in GOLDEN {
        understand(&envelope(golden, 99)).unwrap();
    }
}

#[test]
fn what_this_version_leaves_is_as_it_was() {
    let golden = GOLDEN[GOLDEN.len() - 1];
    let nothing = || Ok(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
    let (summary, kept) = decode_with(&envelope(golden, 99), |_| nothing()).unwrap();
    let (bytes, descriptors) = encode(summary, kept).unwrap();
    let written: Envelope<Value> = serde_json::from_slice(&bytes).unwrap();
    let expected: Envelope<Value> = serde_json::from_slice(&envelope(golden, 99)).unwrap();
    assert_eq!(descriptors.len(), expected.descriptors.len());
    let text = || serde_json::to_string_pretty(&written.state).unwrap();
    assert!(written.state == expected.state, "{ADVICE}{}", text());
}

/// With another value at a path in it.
fn changed(path: &str, value: Option<Value>) -> Vec<u8> {
    let mut whole = golden();
    change(&mut whole, path, value);
    whole.to_string().into_bytes()
}

fn golden() -> Value {
    serde_json::from_slice(&envelope(GOLDEN[0], 99)).unwrap()
}

fn change(whole: &mut Value, path: &str, value: Option<Value>) {
    let (parent, name) = path.rsplit_once('/').unwrap();
    let parent = whole.pointer_mut(&format!("/state{parent}")).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => parent.insert(name.to_owned(), value),
        None => parent.remove(name),
    };
}

/// A version that knew none of the fields that have a default.
#[test]
fn what_an_older_version_leaves_is_read_with_defaults() {
    let mut older = golden();
    let groups = ["deaths", "died_too_fast", "is_gone"].map(|it| format!("pool/groups/0/{it}"));
    let workers = ["early_deaths", "failed_starts", "serving/limits", "due"];
    let workers = workers.map(|it| format!("pool/workers/0/{it}"));
    let summary = ["open_files", "lock", "files", "tried_files", "left"].map(str::to_owned);
    let summary = summary.into_iter().chain(groups).chain(workers);
    let options = ["arguments", "variables", "processors", "nice", "limits"];
    let options = options.map(|it| format!("particulars/0/1/given/{it}"));
    let rest = [
        "listeners",
        "controls",
        "image",
        "signals",
        "late_signals",
        "streams",
        "metrics",
        "journal",
    ];
    let rest = rest.map(str::to_owned).into_iter().chain(options);
    let worker =
        ["link", "output", "metrics", "sandbox", "ending"].map(|it| format!("workers/0/{it}"));
    let worker = worker.into_iter().chain(["workers/1/readiness".to_owned()]);
    let child = iter::once("children/0/ending".to_owned());
    let kept = rest.chain(worker).chain(child).map(|it| format!("/kept/{it}"));
    for path in summary.map(|it| format!("/summary/{it}")).chain(kept) {
        change(&mut older, &path, None);
    }
    let nothing = |_| Ok(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
    let (summary, kept) = decode_with(older.to_string().as_bytes(), nothing).unwrap();
    assert_eq!((summary.open_files, summary.left.is_none()), (None, true));
    assert!(summary.files.0.is_empty() && summary.pool.groups[0].deaths.is_empty());
    assert_eq!(summary.pool.workers[0].failed_starts, 0);
    assert!(kept.listeners.is_empty() && kept.image.is_none() && kept.signals.is_empty());
    assert!(kept.metrics.is_empty() && kept.journal.counts.is_empty());
    assert!(kept.workers[0].sandbox.is_none() && kept.workers[1].readiness.is_none());
    assert!(kept.workers[0].link.is_none() && !kept.workers[1].is_told);
    assert!(kept.particulars[0].1.options.limits.is_empty());
    assert!(kept.streams.iter().all(|it| it.bytes.is_empty() && it.lost == 0));
}

#[test]
fn a_field_that_is_not_known_is_passed_over_and_one_that_may_be_missing_may() {
    for place in ["", "/summary", "/kept", "/kept/workers/0", "/kept/workers/0/link"] {
        understand(&changed(&format!("{place}/new"), Some(7.into()))).unwrap();
    }
    for path in ["/summary/files", "/kept/particulars", "/kept/workers/0/output", "/kept/streams"] {
        understand(&changed(path, None)).unwrap();
    }
    for field in ["ring", "hands_on"] {
        understand(&changed(&format!("/kept/workers/0/link/limits/{field}"), None)).unwrap();
    }
}

#[test]
fn what_cannot_be_read_is_refused_in_the_trial_in_words() {
    for path in ["/summary/pool/workers/0/rank", "/kept/workers/0/pid", "/kept/controls/0/path"] {
        let reason = understand(&changed(path, None)).unwrap_err().report();
        assert!(reason.contains("cannot read what the running master leaves"), "{reason}");
        let name = path.rsplit_once('/').unwrap().1;
        assert!(reason.contains(&format!("missing field `{name}`")), "{reason}");
    }
    let outward = "/kept/workers/0/link/mode/CallsWithRings/outward";
    for (path, value) in [
        ("/kept/workers/0/link/mode/CallsWithRings/bytes", Value::from(4095)),
        ("/kept/workers/0/link/mode/CallsWithRings/inward/ring/numbers", vec![5000, 10].into()),
        (&format!("{outward}/ring/numbers"), vec![10, 11].into()),
        (&format!("{outward}/before_turn"), 7.into()),
        (&format!("{outward}/way"), "Ring".into()),
    ] {
        let reason = understand(&changed(path, Some(value))).unwrap_err().report();
        assert!(reason.contains("the state of a connection makes no sense"), "{path}: {reason}");
    }
    let numbers = Some(vec![7].into());
    let reason = understand(&changed("/kept/workers/0/link/numbers", numbers)).unwrap_err();
    assert!(reason.report().contains("the state of a connection makes no sense"));
}

#[test]
fn another_format_or_protocol_is_refused_in_words_that_name_both() {
    let reason = understand(&changed("/version", Some(7.into()))).unwrap_err().report();
    assert!(reason.contains("hands over in format 7, the new version takes format 1"), "{reason}");
    let reason = understand(&changed("/summary/protocol", Some(77.into()))).unwrap_err().report();
    let expected = format!("running workers speak protocol 77, the new version {PROTOCOL}");
    assert!(reason.contains(&expected), "{reason}");
    let other = Some("other".into());
    let reason = understand(&changed("/summary/way_back", other)).unwrap_err().report();
    assert!(reason.contains("there would be no way back"), "{reason}");
}

#[test]
fn what_is_cut_is_an_error() {
    let bytes = envelope(GOLDEN[0], 99);
    for length in (0..bytes.len()).step_by(7) {
        assert!(understand(&bytes[..length]).is_err(), "{length} bytes");
    }
}
