//! The bell of a ring: when a signal is silenced.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

use super::super::rings::{KnownSignals, Signalled, hear};
use crate::ipc::wire::ring::{RingReader, RingWriter, words_for};
use crate::sys::bell;
use crate::sys::shared_memory::SharedMemory;

const BYTES: u32 = 4096;

#[test]
fn a_signal_is_silenced_only_if_it_is_reported_twice() {
    let (memory, bell) = (SharedMemory::new(words_for(BYTES)).unwrap(), bell::create().unwrap());
    let file = memory.as_fd().try_clone_to_owned().unwrap();
    let mut writer = RingWriter::new(SharedMemory::of_peer(file, words_for(BYTES)).unwrap());
    let mut reader = RingReader::new(memory);
    let mut known = KnownSignals::None;
    for _ in 0..2 {
        assert!(reader.fall_asleep().unwrap());
        writer.write(b"bytes");
        assert!(writer.publish());
        bell::ring(bell.as_fd()).unwrap();
        assert!(matches!(hear(bell.as_fd(), &mut reader, &mut known), Ok((Signalled::Bytes, _))));
        assert_eq!(reader.read(&mut [0; 100]), Ok(5));
        known = KnownSignals::Both;
        let blocks = |heard: io::Result<_>| heard.is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
        assert!(blocks(hear(bell.as_fd(), &mut reader, &mut known)));
        assert!(bell::rings(bell.as_fd()).unwrap(), "an edge-triggered runtime waits now");
        assert!(matches!(hear(bell.as_fd(), &mut reader, &mut known), Ok((Signalled::Bytes, _))));
        assert!(!bell::rings(bell.as_fd()).unwrap(), "another one has reported it again");
        assert!(blocks(hear(bell.as_fd(), &mut reader, &mut known)));
        bell::ring(bell.as_fd()).unwrap();
        assert!(matches!(hear(bell.as_fd(), &mut reader, &mut known), Ok((Signalled::Nothing, _))));
        assert!(!bell::rings(bell.as_fd()).unwrap());
    }
}
