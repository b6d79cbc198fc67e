use std::io::{PipeReader, PipeWriter, Read};

use super::*;

fn pipe() -> (PipeReader, PipeWriter, StreamState) {
    let (reader, writer) = io::pipe().unwrap();
    let StandardStream { state, .. } = StandardStream::new(1);
    (reader, writer, state.into_inner().unwrap())
}

fn push(state: &mut StreamState, file: &PipeWriter, lines: &[u8]) -> bool {
    state.append(|queue| queue.extend_from_slice(lines));
    state.flush(file.as_fd())
}

#[test]
fn a_reader_that_has_stopped_gets_everything_once_it_reads() {
    let (mut reader, writer, mut state) = pipe();
    let line = [&[b'x'; 999][..], b"\n"].concat();
    for number in 0..1000 {
        assert_eq!(push(&mut state, &writer, &line), number < 64, "{number}");
    }
    assert!(state.unwritten() >= 900_000);
    let (mut text, mut block) = (Vec::new(), [0; 10_000]);
    while text.len() < 1_000_000 {
        let count = reader.read(&mut block).unwrap();
        text.extend_from_slice(&block[..count]);
        state.flush(writer.as_fd());
    }
    assert!(text.chunks(1000).all(|part| part == line));
    assert!(state.queue.is_empty() && state.queue.capacity() <= KEPT_CAPACITY);
}

#[test]
fn a_queue_that_is_never_empty_stays_small() {
    let (mut reader, writer, mut state) = pipe();
    let mut block = [b'x'; TURN];
    while state.unwritten() < ROOM {
        push(&mut state, &writer, &block);
    }
    for _ in 0..200 {
        reader.read_exact(&mut block).unwrap();
        push(&mut state, &writer, &block);
        assert!(state.unwritten() > 0);
    }
    let capacity = state.queue.capacity();
    assert!(capacity <= 4 * ROOM, "{capacity}");
}

#[test]
fn what_is_too_much_is_counted() {
    let (mut reader, writer, mut state) = pipe();
    let line = [&[b'x'; 999][..], b"\n"].concat();
    (0..5000).for_each(|_| {
        push(&mut state, &writer, &line);
    });
    assert!(state.unwritten() <= MOST + line.len());
    let lost = state.lost;
    assert!((2500..3000).contains(&lost), "{lost}");
    let mut text = vec![0; 1_000_000];
    let mut read = 0;
    while read < text.len() {
        read += reader.read(&mut text[read..]).unwrap();
        state.flush(writer.as_fd());
    }
    push(&mut state, &writer, b"more\n");
    let mut rest = Vec::new();
    while !rest.ends_with(b"more\n") {
        let count = reader.read(&mut text).unwrap();
        rest.extend_from_slice(&text[..count]);
        state.flush(writer.as_fd());
    }
    let told = format!("x\n{lost} lines are lost\nmore\n");
    assert!(rest.ends_with(told.as_bytes()));
    assert_eq!(rest.split(|byte| *byte == b'\n').count() as u64 + 1000 + lost - 3, 5000);
}

#[test]
fn lines_for_nobody_are_counted_once() {
    let (reader, writer, mut state) = pipe();
    drop(reader);
    for _ in 0..10 {
        assert!(push(&mut state, &writer, b"line\nline\n"));
    }
    assert_eq!(state.lost, 20);
}

#[test]
fn a_pipe_that_may_not_be_opened_is_written_as_well() {
    let (mut reader, writer, _) = pipe();
    for is_terminal in [false, true] {
        let outlet = Outlet::Shared { is_terminal };
        let mut count = 0;
        let why = loop {
            match outlet.write(writer.as_fd(), &[b'x'; 1000]) {
                Ok(written) => count += written,
                Err(error) => break error.kind(),
            }
        };
        assert_eq!(why, io::ErrorKind::WouldBlock);
        assert!(count > 32_768, "{count}");
        reader.read_exact(&mut vec![0; count]).unwrap();
    }
}

#[test]
fn as_many_are_woken_as_there_is_room_for_and_all_once_it_is_empty() {
    let (_reader, _writer, mut state) = pipe();
    let waiting = |state: &mut StreamState| {
        state.waiting = (0..20).map(|who| (who, Waker::noop().clone())).collect();
    };
    state.append(|queue| queue.resize(ROOM, b'x'));
    waiting(&mut state);
    assert_eq!(state.take_woken(false).len(), 0);
    state.written = TURN + 1;
    assert_eq!(state.take_woken(false).len(), 2);
    assert_eq!(state.waiting.front().map(|(who, _)| *who), Some(2));
    assert_eq!(state.take_woken(true).len(), 18);
}
