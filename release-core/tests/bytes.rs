//! Integers as bytes and back: vectors for every integer in both orders, ranges, and a property.

use std::fmt::Debug;

use proptest::prelude::*;
use release_core::buffer::Buffer;
use release_core::bytes::{BigEndian, Endian, Integer, LittleEndian};

/// Every function, with one integer and its bytes in network order.
fn check<I: Integer + PartialEq + Debug>(value: I, big: &[u8]) {
    let little: Vec<u8> = big.iter().rev().copied().collect();
    assert_eq!(I::SIZE, big.len());
    check_order::<BigEndian, I>(value, big, little[0]);
    check_order::<LittleEndian, I>(value, &little, little[0]);
}

fn check_order<O: Endian, I: Integer + PartialEq + Debug>(value: I, bytes: &[u8], lowest: u8) {
    let mut buffer = Buffer::create(0);
    O::write(value, &mut buffer);
    assert_eq!(buffer.contents(), bytes);
    assert_eq!(O::read(&buffer), Ok(value));

    let mut buffer = Buffer::of_string("xy");
    O::write(value, &mut buffer);
    O::write_byte(value, &mut buffer);
    assert_eq!(buffer.contents(), [b"xy", bytes, &[lowest]].concat());
    assert_eq!(O::read_at(&buffer, 2), Ok(value));

    let mut around = vec![7; I::SIZE + 2];
    assert_eq!(O::write_at(value, &mut around, 1), Ok(()));
    assert_eq!(around, [&[7], bytes, &[7]].concat());
    assert_eq!(O::read_at(around, 1), Ok(value));

    for offset in [I::SIZE, 1, usize::MAX, usize::MAX - I::SIZE + 1] {
        let mut exact = bytes.to_vec();
        let error = O::read_at::<I>(&exact, offset).expect_err("out of range");
        assert_eq!((error.offset, error.count, error.available), (offset, I::SIZE, I::SIZE));
        assert_eq!(O::write_at(value, &mut exact, offset), Err(error));
        assert_eq!(exact, bytes);
    }
    assert!(O::read::<I>(&bytes[1..]).is_err());
    assert!(O::read::<I>([]).is_err());
}

#[test]
fn vectors() {
    check(0x80_u8, &[0x80]);
    check(-128_i8, &[0x80]);
    check(0x0102_u16, &[1, 2]);
    check(65535_u16, &[0xff, 0xff]);
    check(-2_i16, &[0xff, 0xfe]);
    check(i16::MIN, &[0x80, 0]);
    check(0x0102_0304_u32, &[1, 2, 3, 4]);
    check(u32::MAX, &[0xff; 4]);
    check(-2_i32, &[0xff, 0xff, 0xff, 0xfe]);
    check(i32::MAX, &[0x7f, 0xff, 0xff, 0xff]);
    check(0x0102_0304_0506_0708_u64, &[1, 2, 3, 4, 5, 6, 7, 8]);
    check(-2_i64, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]);
    let sixteen: [u8; 16] = std::array::from_fn(|index| u8::try_from(index).unwrap() + 1);
    check(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10_u128, &sixteen);
    check(1_u128, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    check(-1_i128, &[0xff; 16]);
}

#[test]
fn an_error_says_what_there_was() {
    let error = BigEndian::read_at::<u32>([0; 6], 3).unwrap_err();
    assert_eq!(error.to_string(), "out of range: 4 bytes at offset 3, but there are 6");
    let error = std::io::Error::from(error);
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

proptest! {
    #[test]
    fn what_was_written_is_read(
        before in proptest::collection::vec(any::<u8>(), 0..20),
        values in any::<(u8, i8, u16, i16, u32, i32, u64, i64, u128, i128)>(),
    ) {
        macro_rules! both_orders {
            ($($value:expr),*) => {$(
                let mut buffer = Buffer::of_string(&before);
                BigEndian::write($value, &mut buffer);
                LittleEndian::write($value, &mut buffer);
                let second = before.len() + size_of_val(&$value);
                prop_assert_eq!(BigEndian::read_at(&buffer, before.len()), Ok($value));
                prop_assert_eq!(LittleEndian::read_at(&buffer, second), Ok($value));
                prop_assert_eq!(&buffer.contents()[before.len()..second], $value.to_be_bytes());
                prop_assert_eq!(&buffer.contents()[second..], $value.to_le_bytes());
            )*};
        }
        both_orders!(values.0, values.1, values.2, values.3, values.4);
        both_orders!(values.5, values.6, values.7, values.8, values.9);
    }

    #[test]
    fn no_offset_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40), offset: usize) {
        for offset in [offset, offset % 50, usize::MAX - offset % 50] {
            let fits = offset.checked_add(8).is_some_and(|end| end <= bytes.len());
            prop_assert_eq!(BigEndian::read_at::<u64>(&bytes, offset).is_ok(), fits);
            prop_assert_eq!(LittleEndian::write_at(1_i64, &mut bytes.clone(), offset).is_ok(), fits);
        }
    }
}
