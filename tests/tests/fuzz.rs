//! The fuzz targets of `fuzz/` on random input: a few seconds of what a fuzzer does for hours (gate
//! G8). `FUZZ_SECONDS` gives it more.

use std::time::{Duration, Instant};

use release_core::fuzzing;
use release_tests::{Noise, Process};

/// More than the largest input needs, and far less than a length field can promise.
const MEMORY_KIB: u64 = 32 * 1024;

fn fuzz(seed: u64, target: fn(&[u8])) {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(2));
    let itself = Process(i32::try_from(std::process::id()).unwrap());
    let (peak, mut noise) = (itself.kib("VmHWM"), Noise::new(seed));
    let mut corpus = fuzzing::seeds();
    corpus.iter().for_each(|input| target(input));
    while Instant::now() < end {
        for _ in 0..200 {
            let input = mutated(&corpus, &mut noise);
            target(&input);
            if corpus.len() < 500 {
                corpus.push(input);
            } else if noise.below(10) == 0 {
                let place = noise.below(corpus.len());
                corpus[place] = input;
            }
        }
    }
    let grown = itself.kib("VmHWM").saturating_sub(peak);
    assert!(grown < MEMORY_KIB, "{grown} KiB");
}

/// One of the inputs with a few changes, or something new.
fn mutated(corpus: &[Vec<u8>], noise: &mut Noise) -> Vec<u8> {
    if noise.below(8) == 0 {
        let length = noise.below(600);
        return noise.bytes(length);
    }
    let mut input = corpus[noise.below(corpus.len())].clone();
    for _ in 0..=noise.below(4) {
        let place = noise.below(input.len() + 1);
        match noise.below(6) {
            0 => input.truncate(place),
            1 => input.insert(place, noise.bytes(1)[0]),
            2 if place < input.len() => input[place] ^= 1 << noise.below(8),
            3 if place < input.len() => input[place] = [0, 1, 0x7F, 0x80, 0xFF][noise.below(5)],
            4 => input.extend_from_slice(&corpus[noise.below(corpus.len())]),
            _ if place < input.len() => drop(input.drain(place..)),
            _ => {}
        }
    }
    input.truncate(20_000);
    input
}

#[test]
fn frames() {
    fuzz(1, fuzzing::frames);
}

#[test]
fn header() {
    fuzz(2, fuzzing::header);
}

#[test]
fn codecs() {
    fuzz(3, fuzzing::codecs);
}

#[test]
fn hello() {
    fuzz(4, fuzzing::hello);
}

#[test]
fn shapes() {
    fuzz(7, fuzzing::shapes);
}

#[test]
fn ring() {
    fuzz(8, fuzzing::ring);
}

#[test]
fn config() {
    fuzz(5, fuzzing::config);
}

#[test]
fn config_dump() {
    fuzz(6, fuzzing::config_dump);
}
