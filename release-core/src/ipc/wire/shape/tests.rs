//! What shapes are traced, and how two of them differ.

use std::collections::{BTreeMap, HashSet};
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::*;
use crate::ipc::{Codec, Descriptor, Never, Postcard};

fn shape<T: Serialize + DeserializeOwned>() -> Shape {
    Shape::of::<T>().unwrap()
}

/// The text of a shape that is known as a whole.
fn text<T: Serialize + DeserializeOwned>() -> String {
    let shape = shape::<T>();
    assert_eq!(shape.gap(), None, "{shape}");
    shape.to_string()
}

fn refusal<T: Serialize + DeserializeOwned>() -> String {
    Shape::of::<T>().unwrap_err().to_string()
}

mod old {
    use super::*;

    #[derive(Serialize, Deserialize)]
    pub(super) enum Ask {
        Touch,
        Read,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Point {
        pub(super) x: u32,
        pub(super) y: u32,
    }
}

/// The difference between a type of `old` and a type that is defined here, which may be inside of
/// others. The macro is written with braces so that a definition may stay in one line.
macro_rules! differs {
    ($rule:expr, $old:ty => $new:ty: $item:item) => {{
        #[derive(Serialize, Deserialize)]
        $item
        shape::<$new>().difference(&shape::<$old>(), $rule).map(
            |Difference { place, old, new, how }| format!("{place}: {old} -> {new} ({how})"),
        )
    }};
}

const MORE: Rule = Rule::MoreAtTheEnd;

#[test]
fn a_change_of_variants_is_told_in_words() {
    let found = differs! { MORE, old::Ask => Ask: enum Ask { Touch, Delete, Read } };
    assert_eq!(found.unwrap(), "variant 1 of `Ask`: `Read` -> `Delete` (added)");
    let found = differs! { MORE, old::Ask => Ask: enum Ask { Read } };
    assert_eq!(found.unwrap(), "variant 0 of `Ask`: `Touch` -> `Read` (removed)");
    let found = differs! { MORE, old::Ask => Ask: enum Ask { Read, Touch } };
    assert_eq!(found.unwrap(), "variant 0 of `Ask`: `Touch` -> `Read` (in another order)");
    let found = differs! { MORE, old::Ask => Ask: enum Ask { Touch, Load } };
    assert_eq!(found.unwrap(), "variant 1 of `Ask`: `Read` -> `Load` (renamed or replaced)");
    let found = differs! { MORE, old::Ask => Ask: enum Ask { Touch } };
    assert_eq!(found.unwrap(), "variant 1 of `Ask`: `Read` -> not there (removed)");
    let found = differs! { MORE, old::Ask => Ask: enum Ask { Touch, Read(u8) } };
    assert_eq!(found.unwrap(), "field 0 of `Ask::Read`: not there -> `0` (added)");
}

#[test]
fn a_variant_at_the_end_is_for_readers_only() {
    let more = |rule| differs! { rule, old::Ask => Ask: enum Ask { Touch, Read, Delete } };
    assert_eq!(more(Rule::MoreAtTheEnd), None);
    assert_eq!(more(Rule::Same).unwrap(), "variant 2 of `Ask`: not there -> `Delete` (added)");
}

#[test]
fn a_change_of_fields_is_told_in_words() {
    let found = differs! { MORE, old::Point => Point: struct Point { x: u32, y: u32, z: u32 } };
    assert_eq!(found.unwrap(), "field 2 of `Point`: not there -> `z` (added)");
    let found = differs! { MORE, old::Point => Point: struct Point { y: u32, x: u32 } };
    assert_eq!(found.unwrap(), "field 0 of `Point`: `x` -> `y` (in another order)");
    let found = differs! { MORE, old::Point => Point: struct Point { x: u32, y: u64 } };
    assert_eq!(found.unwrap(), "field `y` of `Point`: u32 -> u64 ()");
    let found = differs! { MORE, old::Point => Place: struct Place { x: u32, y: u32 } };
    assert_eq!(found.unwrap(), "the type: struct `Point` -> struct `Place` ()");
    let found = differs! {
        MORE, Vec<(u8, Option<old::Point>)> => Vec<(u8, Option<Point>)>:
        struct Point { x: u32, y: Option<u32> }
    };
    assert_eq!(found.unwrap(), "field `y` of `Point`: u32 -> Option<u32> ()");
    let difference = shape::<(u8, u16)>().difference(&shape::<[u8; 2]>(), MORE).unwrap();
    assert_eq!(difference.place, "part 1 of the type");
}

#[derive(Serialize, Deserialize)]
enum Tree {
    Both(Box<Self>, Box<Self>),
    Named { name: String, below: Vec<Self> },
    Leaf(Inner),
    Last,
}

#[derive(Serialize, Deserialize)]
enum Inner {
    One(u8),
    Two(Deep),
}

#[derive(Serialize, Deserialize)]
enum Deep {
    A,
    B(bool),
    C { list: Option<Box<Linked>> },
}

#[derive(Serialize, Deserialize)]
struct Linked {
    tree: Option<Box<Tree>>,
    next: Option<Box<Self>>,
}

#[test]
fn all_variants_of_types_inside_of_types_are_found_also_when_they_contain_themselves() {
    assert_eq!(
        text::<Tree>(),
        "Tree { Both { 0: Tree, 1: Tree }, Named { name: str, below: [Tree] }, \
         Leaf { 0: Inner }, Last }; Inner { One { 0: u8 }, Two { 0: Deep } }; \
         Deep { A, B { 0: bool }, C { list: Option<Linked> } }; \
         Linked { tree: Option<Tree>, next: Option<Linked> }"
    );
}

#[derive(Serialize, Deserialize)]
struct Generic<T>(T, PhantomData<T>);

#[test]
fn types_of_the_standard_library_are_known() {
    assert_eq!(text::<()>(), "()");
    assert_eq!(text::<[u8; 32]>(), "[u8; 32]");
    assert_eq!(text::<BTreeMap<String, HashSet<char>>>(), "{str: [char]}");
    assert_eq!(text::<(NonZeroU32, Box<str>, Box<[i8]>)>().as_str(), "(u32, str, [i8])");
    assert_eq!(text::<Duration>(), "Duration { secs: u64, nanos: u32 }");
    assert!(text::<SystemTime>().starts_with("SystemTime {"));
    assert_eq!(text::<PathBuf>(), "str");
    let address = text::<(IpAddr, SocketAddr)>();
    assert!(address.contains("V4 { 0: [u8; 4] }") && address.contains("V6"), "{address}");
    assert_eq!(text::<Result<u8, String>>(), "Result { Ok { 0: u8 }, Err { 0: str } }");
    assert_eq!(text::<Never>(), "Never { }");
    assert_eq!(text::<std::ffi::CString>(), "bytes");
    assert_eq!(
        text::<(Generic<u8>, Generic<String>)>(),
        "(Generic, Generic); Generic { 0: u8, 1: PhantomData }; PhantomData { }; \
         Generic { 0: str, 1: PhantomData }; PhantomData { }"
    );
}

#[test]
fn a_descriptor_is_no_number() {
    let with = text::<(u32, Option<Descriptor>)>();
    assert_eq!(with, "(u32, Option<Descriptor>); Descriptor { 0: u32 }");
    let (number, descriptor) = (shape::<Vec<u32>>(), shape::<Vec<Descriptor>>());
    let difference = descriptor.difference(&number, Rule::Same).unwrap();
    assert_eq!((&*difference.old, &*difference.new), ("u32", "Descriptor"));
}

#[test]
fn what_the_format_has_no_place_for_is_refused() {
    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        RequestNumber(u32),
    }
    #[derive(Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        RequestNumber { number: u32 },
    }
    #[derive(Serialize, Deserialize)]
    #[serde(tag = "t", content = "c")]
    enum Adjacent {
        One(u32),
        Two { a: String },
    }
    #[derive(Serialize, Deserialize)]
    struct Flat {
        #[serde(flatten)]
        rest: BTreeMap<String, u8>,
    }
    #[derive(Serialize, Deserialize)]
    enum Outer {
        Fine(u8),
        Here { inside: Option<Vec<Untagged>> },
    }
    for reason in [
        refusal::<Untagged>(),
        refusal::<Tagged>(),
        refusal::<Adjacent>(),
        refusal::<Flat>(),
        refusal::<Outer>(),
    ] {
        assert!(reason.contains("`tag`, `untagged` and `flatten`"), "{reason}");
    }
    assert!(refusal::<Outer>().contains("Outer`: "), "{}", refusal::<Outer>());
}

#[test]
fn what_is_read_and_not_written_is_refused() {
    #[derive(Serialize, Deserialize)]
    struct Skips {
        #[serde(skip_serializing_if = "Option::is_none")]
        email: Option<String>,
        admin: u8,
    }
    #[derive(Serialize, Deserialize)]
    struct SkipsZero {
        #[serde(skip_serializing_if = "is_zero")]
        count: u32,
    }
    fn is_zero(count: &u32) -> bool {
        *count == 0
    }
    #[derive(Serialize, Deserialize)]
    struct SkipsInATuple(#[serde(skip_serializing_if = "Vec::is_empty")] Vec<u8>, u8);
    #[derive(Serialize, Deserialize)]
    struct Never {
        #[serde(skip_serializing)]
        #[allow(dead_code)]
        password: String,
        id: u32,
    }
    #[derive(Serialize, Deserialize)]
    enum Variants {
        A,
        #[serde(skip)]
        #[allow(dead_code)]
        B,
        C,
        D,
    }
    let reason = refusal::<Skips>();
    assert!(reason.contains("field `email` is left out"), "{reason}");
    let reason = refusal::<SkipsZero>();
    assert!(reason.contains("field `count` is left out"), "{reason}");
    for reason in [refusal::<SkipsInATuple>(), refusal::<Never>(), refusal::<Variants>()] {
        assert!(reason.contains("writes something else than it reads"), "{reason}");
    }
}

#[test]
fn what_serde_can_do_without_harm_is_allowed() {
    #[derive(Default, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Fine {
        #[serde(skip)]
        _cache: u32,
        #[serde(default, rename = "id")]
        number: u32,
        is_open: bool,
    }
    assert_eq!(text::<Fine>(), "Fine { id: u32, isOpen: bool }");
}

/// Takes texts of one kind only, and has more behind it.
#[derive(Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Strange(String);

impl TryFrom<String> for Strange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "xyzzy" { Ok(Self(text)) } else { Err("not the word".to_owned()) }
    }
}

impl From<Strange> for String {
    fn from(strange: Strange) -> Self {
        strange.0
    }
}

impl Clone for Strange {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[test]
fn a_type_that_takes_no_sample_leaves_a_gap_and_the_rest_is_known() {
    #[derive(Serialize, Deserialize)]
    enum Ask {
        One(u8),
        Word { word: Strange, number: u32 },
        Two(Deep),
    }
    let shape = shape::<Ask>();
    assert_eq!(shape.gap(), Some("`Ask::Word`: not the word"));
    let known = "Ask { One { 0: u8 }, Word { word: str, number: ? }, Two { 0: Deep } }; Deep";
    assert!(shape.to_string().starts_with(known), "{shape}");
    assert_eq!(shape.difference(&shape.clone(), Rule::Same), None);
}

#[test]
fn special_texts_and_numbers_are_found_by_trying() {
    #[derive(Clone, Serialize, Deserialize)]
    #[serde(try_from = "u16", into = "u16")]
    struct Even(u16);
    impl TryFrom<u16> for Even {
        type Error = &'static str;
        fn try_from(number: u16) -> Result<Self, &'static str> {
            if number > 0 && number.is_multiple_of(2) { Ok(Self(number)) } else { Err("odd") }
        }
    }
    impl From<Even> for u16 {
        fn from(even: Even) -> Self {
            even.0
        }
    }
    #[derive(Clone, Serialize, Deserialize)]
    #[serde(try_from = "String", into = "String")]
    struct Address(IpAddr);
    impl TryFrom<String> for Address {
        type Error = std::net::AddrParseError;
        fn try_from(text: String) -> Result<Self, Self::Error> {
            text.parse().map(Self)
        }
    }
    impl From<Address> for String {
        fn from(address: Address) -> Self {
            address.0.to_string()
        }
    }
    assert_eq!(text::<(Even, Address, Even, bool)>(), "(u16, str, u16, bool)");
}

#[test]
fn a_type_without_end_or_that_panics_is_a_gap() {
    #[derive(Serialize, Deserialize)]
    struct Endless {
        next: Box<Self>,
    }
    #[derive(Serialize)]
    struct Panics;
    impl<'de> Deserialize<'de> for Panics {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            panic!("not now")
        }
    }
    assert_eq!(shape::<Endless>().gap(), Some("`Endless`: it has too many parts"));
    assert_eq!(shape::<(u8, Panics)>().gap(), Some("a panic: not now"));
}

#[test]
fn unknown_equals_all_and_names_are_compared() {
    let (unknown, ask) = (Shape::unknown(), shape::<old::Ask>());
    assert_eq!(unknown.difference(&ask, Rule::Same), None);
    assert_eq!(ask.difference(&unknown, Rule::Same), None);
    let (one, two) = (Shape::named("orders 1"), Shape::named("orders 2"));
    assert_eq!(one.difference(&one, Rule::Same), None);
    let difference = two.difference(&one, Rule::Same).unwrap();
    assert_eq!((&*difference.old, &*difference.new), ("orders 1", "orders 2"));
}

#[test]
fn a_shape_comes_back_from_its_bytes() {
    let shape = shape::<(Tree, BTreeMap<u8, Descriptor>)>();
    let mut bytes = Vec::new();
    Postcard.encode(&shape, &mut bytes).unwrap();
    let back: Shape = Postcard.decode(&bytes).unwrap();
    assert_eq!(back.to_string(), shape.to_string());
    assert_eq!(back.difference(&shape, Rule::Same), None);
}

/// Variants that are added at the end leave the bytes of the others as they are.
#[test]
fn what_an_older_version_writes_is_read_where_a_variant_was_added_at_the_end() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Old {
        Touch,
        Read { id: u32, tail: Vec<Option<Self>> },
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename = "Old")]
    enum New {
        Touch,
        Read { id: u32, tail: Vec<Option<Self>> },
        Delete(String),
    }
    assert_eq!(shape::<New>().difference(&shape::<Old>(), Rule::MoreAtTheEnd), None);
    let mut bytes = Vec::new();
    let old = Old::Read { id: 7, tail: vec![None, Some(Old::Touch)] };
    Postcard.encode(&old, &mut bytes).unwrap();
    let new = New::Read { id: 7, tail: vec![None, Some(New::Touch)] };
    assert_eq!(Codec::<New>::decode(&Postcard, &bytes).unwrap(), new);
    let mut again = Vec::new();
    Postcard.encode(&new, &mut again).unwrap();
    assert_eq!(again, bytes);
    bytes.clear();
    Postcard.encode(&New::Delete("x".to_owned()), &mut bytes).unwrap();
    assert!(Codec::<Old>::decode(&Postcard, &bytes).is_err(), "it is no other request");
}
