use serde_json::Value;

use super::*;

/// What masters of each released version, and of this one, leave: the last one is this version's.
const GOLDEN: [&str; 1] = [include_str!("tests/state-1.json")];

const ADVICE: &str = "\
What a master leaves to its next version has changed. Running masters of released versions still leave
it as the files in `state/tests` say:
  - a new field has a default for when it is missing: `#[serde(default)]`, or an `Option`;
  - a field or variant that somebody has left is not renamed, and its meaning does not change;
  - where that cannot be, count `VERSION` up: upgrades from older versions are refused in their trial.
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
    let mut whole: Value = serde_json::from_slice(&envelope(GOLDEN[0], 99)).unwrap();
    let (parent, name) = path.rsplit_once('/').unwrap();
    let parent = whole.pointer_mut(&format!("/state{parent}")).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => parent.insert(name.to_owned(), value),
        None => parent.remove(name),
    };
    whole.to_string().into_bytes()
}

#[test]
fn a_field_that_is_not_known_is_passed_over_and_one_that_may_be_missing_may() {
    for place in ["", "/summary", "/kept", "/kept/workers/0", "/kept/workers/0/link"] {
        understand(&changed(&format!("{place}/new"), Some(7.into()))).unwrap();
    }
    for path in ["/summary/files", "/kept/particulars", "/kept/workers/0/output", "/kept/streams"] {
        understand(&changed(path, None)).unwrap();
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
