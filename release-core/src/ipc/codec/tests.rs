//! What the codecs carry, and what they say of the rest.

use super::*;

/// A type whose values may be as deep as their encoding is long.
#[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
struct Nested(Option<Box<Self>>);

fn nested(depth: usize) -> Vec<u8> {
    let mut payload = vec![1; depth];
    payload.push(0);
    payload
}

#[test]
fn a_nesting_bomb_is_an_error_and_honest_nesting_is_not() {
    let decode = |depth| Codec::<Nested>::decode(&Postcard, &nested(depth));
    assert!(decode(64).is_ok());
    let error = decode(16 << 20).unwrap_err().to_string();
    assert!(error.contains("nested too deeply"), "{error}");
}

#[test]
fn a_type_that_it_cannot_carry_is_told_so() {
    #[derive(Serialize, serde::Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u32),
    }
    #[derive(Serialize, serde::Deserialize)]
    struct Outer {
        #[serde(flatten)]
        inner: std::collections::BTreeMap<String, u8>,
    }
    let error = Codec::<Either>::decode(&Postcard, &[7]).map(drop).unwrap_err().to_string();
    assert!(error.contains("untagged"), "{error}");
    let outer = Outer { inner: [("a".to_owned(), 1)].into() };
    let error = Postcard.encode(&outer, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("flatten"), "{error}");
}

#[test]
fn what_follows_a_message_and_what_is_missing_are_errors() {
    let decode = |payload| Codec::<(u8, String)>::decode(&Postcard, payload);
    assert_eq!(decode(b"\x07\x02ab").unwrap(), (7, "ab".to_owned()));
    assert!(decode(b"\x07\x02abc").unwrap_err().to_string().contains("1 bytes follow"));
    assert!(decode(b"\x07\x02a").is_err());
    assert!(decode(b"\x07\xff\xff\xff\xff\x0f").is_err(), "a length of 4 GiB");
}
