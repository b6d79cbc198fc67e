//! The buffer against a model: a vector and a size. Reading and writing sockets is tested on every
//! backend, with the sockets.

use proptest::prelude::*;
use release_core::buffer::Buffer;

#[test]
fn lengths_and_sizes() {
    let buffer = Buffer::create(3);
    assert_eq!((buffer.size(), buffer.length(), buffer.contents()), (3, 0, &[][..]));
    let buffer = Buffer::make(3, b'x');
    assert_eq!((buffer.size(), buffer.length(), buffer.contents()), (3, 3, &b"xxx"[..]));
    let mut buffer = Buffer::of_string("ab");
    assert_eq!((buffer.size(), buffer.length()), (2, 2));
    buffer.add_char(b'c');
    buffer.add_buffer(&Buffer::of_string("de"));
    assert_eq!((buffer.size(), buffer.length()), (5, 5));
    assert_eq!(buffer.to_str(), Ok("abcde"));
    assert!(Buffer::make(1, 0xff).to_str().is_err());
    // No larger than was asked for, whatever was allocated.
    assert!(Buffer::create(1).set(1, 0).is_err());
    assert!(Buffer::create(0).set(0, 0).is_err());
}

#[test]
fn nothing_is_read_that_was_not_written() {
    let mut buffer = Buffer::create(8);
    assert!(buffer.get(0).is_err());
    assert!(buffer.sub(0, 1).is_err());
    buffer.set(3, b'd').unwrap();
    assert_eq!(buffer.contents(), b"\0\0\0d");
    assert!(buffer.get(4).is_err());
    assert_eq!(buffer.sub(4, 0), Ok(&[][..]));
    assert!(buffer.sub(5, 0).is_err());
    assert!(buffer.sub(1, usize::MAX).is_err());
}

#[test]
fn bytes_are_found() {
    let buffer = Buffer::of_string("a-b-");
    assert_eq!(buffer.index(b'-'), Some(1));
    assert_eq!(buffer.index_from(1, b'-'), Some(1));
    assert_eq!(buffer.index_from(2, b'-'), Some(3));
    assert_eq!(buffer.index(b'c'), None);
    assert_eq!(buffer.index_from(4, b'-'), None);
    assert_eq!(buffer.index_from(usize::MAX, b'-'), None);
}

#[test]
fn a_blit_is_all_or_nothing() {
    let from = Buffer::of_string("hello");
    let mut to = Buffer::create(6);
    from.blit(1, &mut to, 2, 3).unwrap();
    assert_eq!(to.contents(), b"\0\0ell");
    assert!(from.blit(3, &mut to, 0, 3).is_err());
    assert!(from.blit(0, &mut to, 2, 5).is_err());
    assert!(from.blit(0, &mut to, usize::MAX, 1).is_err());
    from.blit(5, &mut to, 6, 0).unwrap();
    assert_eq!(to.contents(), b"\0\0ell");
}

/// What is done to a buffer.
#[derive(Clone, Debug)]
enum Step {
    Add(Vec<u8>),
    Set(usize, u8),
    Blit(Vec<u8>, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some = || proptest::collection::vec(any::<u8>(), 0..6);
    let step = prop_oneof![
        some().prop_map(Step::Add),
        (0_usize..30, any::<u8>()).prop_map(|(offset, byte)| Step::Set(offset, byte)),
        (some(), 0_usize..30).prop_map(|(bytes, offset)| Step::Blit(bytes, offset)),
    ];
    proptest::collection::vec(step, 0..20)
}

/// Bytes over a vector of which `size` bytes may be written; whether they fit.
fn put(model: &mut Vec<u8>, size: usize, offset: usize, bytes: &[u8]) -> bool {
    let end = offset + bytes.len();
    if end > size {
        return false;
    }
    if !bytes.is_empty() {
        model.resize(model.len().max(end), 0);
        model[offset..end].copy_from_slice(bytes);
    }
    true
}

proptest! {
    #[test]
    fn it_is_a_vector_with_a_size(size in 0_usize..20, steps in steps()) {
        let (mut buffer, mut model, mut model_size) = (Buffer::create(size), vec![], size);
        for step in steps {
            match step {
                Step::Add(bytes) => {
                    buffer.add_bytes(&bytes);
                    model.extend_from_slice(&bytes);
                    model_size = model_size.max(model.len());
                }
                Step::Set(offset, byte) => {
                    let fits = put(&mut model, model_size, offset, &[byte]);
                    prop_assert_eq!(buffer.set(offset, byte).is_ok(), fits);
                }
                Step::Blit(bytes, offset) => {
                    let fits = put(&mut model, model_size, offset, &bytes);
                    let from = Buffer::of_string(&bytes);
                    prop_assert_eq!(from.blit(0, &mut buffer, offset, bytes.len()).is_ok(), fits);
                }
            }
            prop_assert_eq!(buffer.contents(), &model[..]);
            prop_assert_eq!(buffer.size(), model_size);
        }
        for offset in 0..40 {
            prop_assert_eq!(buffer.get(offset).ok(), model.get(offset).copied());
        }
    }
}
