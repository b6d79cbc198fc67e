//! What the codecs carry, and what they say of the rest.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

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
        RequestNumber(u32),
    }
    #[derive(Serialize, serde::Deserialize)]
    struct Outer {
        #[serde(flatten)]
        inner: BTreeMap<String, u8>,
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

#[test]
fn the_work_of_elements_that_take_no_bytes_is_bounded() {
    let claim = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    fn refusal<T: Serialize + DeserializeOwned>(payload: &[u8]) -> String {
        Codec::<T>::decode(&Postcard, payload).map(drop).unwrap_err().to_string()
    }
    for reason in [
        refusal::<Vec<()>>(&claim),
        refusal::<HashSet<()>>(&claim),
        refusal::<BTreeMap<(), [u8; 0]>>(&claim),
        refusal::<Vec<Vec<()>>>(&[[1].as_slice(), &claim].concat()),
        refusal::<Vec<u64>>(&claim),
    ] {
        assert!(reason.contains("a sequence claims 18446744073709551615 elements"), "{reason}");
    }
    // A thousand sequences of a thousand each: every one of them is less than the bytes that are
    // left.
    let many = [0xe7, 0x07].repeat(1000);
    let reason = refusal::<Vec<Vec<()>>>(&[[0xe8, 0x07].as_slice(), &many].concat());
    assert!(reason.contains("more than 1024 elements of the message take no bytes"), "{reason}");
}

#[test]
fn what_is_refused_when_it_comes_is_not_sent() {
    let mut payload = Vec::new();
    Postcard.encode(&(vec![(); 1024], 7_u8), &mut payload).unwrap();
    assert_eq!(Codec::<(Vec<()>, u8)>::decode(&Postcard, &payload).unwrap().0.len(), 1024);
    for value in [vec![vec![(); 1025]], vec![vec![(); 1000]; 2]] {
        let reason = Postcard.encode(&value, &mut Vec::new()).unwrap_err().to_string();
        assert!(reason.contains("more than 1024 elements"), "{reason}");
    }
}

#[test]
fn a_field_that_is_left_out_is_an_error_at_the_sender() {
    #[derive(Serialize, serde::Deserialize)]
    struct User {
        #[serde(skip_serializing_if = "Option::is_none")]
        email: Option<String>,
        admin: u8,
    }
    let user = |email| User { email, admin: 0 };
    let reason = Postcard.encode(&user(None), &mut Vec::new()).unwrap_err().to_string();
    assert!(reason.contains("field `email` is left out"), "{reason}");
    assert!(Postcard.encode(&user(Some("a".to_owned())), &mut Vec::new()).is_ok());
    /// Says that it has more than it gives, or less.
    struct Liar(usize);
    impl Serialize for Liar {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeTuple;
            let mut tuple = serializer.serialize_tuple(self.0)?;
            tuple.serialize_element(&1)?;
            tuple.end()
        }
    }
    for count in [0, 2] {
        let error = encode(&Liar(count), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("all fields of a value or none"), "{error}");
    }
}

proptest! {
    #![proptest_config(crate::cases::cases(256))]

    #[test]
    fn bytes_mean_what_they_do_elsewhere(payload: Vec<u8>) {
        type Value = (Option<i64>, (u128, i16), Vec<(String, char)>);
        let theirs = postcard::take_from_bytes::<Value>(&payload).ok();
        let theirs = theirs.filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value);
        prop_assert_eq!(Codec::<Value>::decode(&Postcard, &payload).ok(), theirs);
    }

    #[test]
    fn integers_are_read_as_elsewhere(payload in prop::collection::vec(0x7c_u8..=0x83, 0..24)) {
        fn agrees<T: DeserializeOwned + Serialize + PartialEq>(payload: &[u8]) -> bool {
            let theirs = postcard::take_from_bytes::<T>(payload).ok();
            let theirs = theirs.filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value);
            Codec::<T>::decode(&Postcard, payload).ok() == theirs
        }
        prop_assert!(agrees::<u16>(&payload) && agrees::<i16>(&payload));
        prop_assert!(agrees::<u32>(&payload) && agrees::<i32>(&payload));
        prop_assert!(agrees::<u64>(&payload) && agrees::<i64>(&payload));
        prop_assert!(agrees::<u128>(&payload) && agrees::<i128>(&payload));
        let list = [&[2], payload.as_slice()].concat();
        prop_assert!(agrees::<Vec<u64>>(&list) && agrees::<BTreeMap<u8, i64>>(&list));
    }

    #[test]
    fn sequences_in_sequences_come_back(
        value: (Vec<u8>, Vec<Vec<u64>>, BTreeMap<u32, Vec<i128>>, Option<Vec<(bool, u16)>>),
    ) {
        let mut payload = Vec::new();
        Postcard.encode(&value, &mut payload).unwrap();
        prop_assert_eq!(&payload, &postcard::to_stdvec(&value).unwrap());
        prop_assert_eq!(Postcard.decode(&payload), Ok(value));
    }

    #[test]
    fn values_are_written_as_elsewhere(
        value: (Option<i64>, (u128, i16, f32), Vec<(String, char, bool)>),
    ) {
        let mut ours = Vec::new();
        Postcard.encode(&value, &mut ours).unwrap();
        prop_assert_eq!(&ours, &postcard::to_stdvec(&value).unwrap());
        type Value = (Option<i64>, (u128, i16, f32), Vec<(String, char, bool)>);
        let (back, pair, list): Value = Postcard.decode(&ours).unwrap();
        prop_assert_eq!((back, pair.0, pair.1), (value.0, value.1.0, value.1.1));
        prop_assert_eq!(pair.2.to_bits(), value.1.2.to_bits());
        prop_assert_eq!(list, value.2);
    }
}
