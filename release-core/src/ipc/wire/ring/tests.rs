use std::sync::Arc;
use std::thread;

use proptest::prelude::*;

use super::*;

mod model;

type Heap = Arc<[AtomicU64]>;

fn heap() -> Heap {
    (0..words_for(SIZE)).map(|_| AtomicU64::new(0)).collect()
}

fn ends(heap: &Heap) -> (RingWriter<Heap>, RingReader<Heap>) {
    (RingWriter::new(Arc::clone(heap)), RingReader::new(Arc::clone(heap)))
}

const SIZE: u32 = 64;

fn stream(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|number| u8::try_from(number % 251).unwrap()).collect()
}

proptest! {
    #[test]
    fn bytes_come_in_order_however_they_are_cut(
        steps in prop::collection::vec((0_usize..80, 1_usize..80), 1..200),
        start in prop_oneof![0_u64..100, u64::MAX - 100..=u64::MAX],
    ) {
        let heap = heap();
        heap[WRITTEN].store(start, Relaxed);
        heap[READ].store(start, Relaxed);
        let mut writer = RingWriter::at(heap.clone(), [start; 2]).unwrap();
        let mut reader = RingReader::at(heap, [start; 2]).unwrap();
        let (mut written, mut read) = (0, 0);
        for (write, space) in steps {
            let room = writer.room().unwrap();
            prop_assert_eq!(room, 64 - (written - read));
            let count = write.min(room);
            writer.write(&stream(written, count));
            prop_assert_eq!(reader.waiting().unwrap(), written - read, "not before it is published");
            let _ = writer.publish();
            written += count;
            let mut bytes = vec![0; space];
            let count = reader.read(&mut bytes).unwrap();
            prop_assert_eq!(count, space.min(written - read));
            prop_assert_eq!(&bytes[..count], &stream(read, count)[..]);
            prop_assert!(bytes[count..].iter().all(|byte| *byte == 0));
            read += count;
        }
    }

    #[test]
    fn whatever_the_other_side_writes_no_number_is_taken_that_cannot_be(
        steps in prop::collection::vec((0_usize..3, any::<u8>(), any::<u64>()), 1..100),
    ) {
        let heap = heap();
        let (mut writer, mut reader) = ends(&heap);
        for (action, small, any) in steps {
            let place = [WRITTEN, READ, ASLEEP][action];
            let now = heap[place].load(Relaxed);
            let value = if small < 200 { now.wrapping_add(u64::from(small) % 70) } else { any };
            heap[place].store(value, Relaxed);
            if let Ok(room) = writer.room() {
                prop_assert!(room <= 64);
                writer.write(&vec![7; room]);
                let _ = writer.publish();
            }
            let mut space = [0; 100];
            if let Ok(count) = reader.read(&mut space) {
                prop_assert!(count <= 64);
            }
            let _ = reader.fall_asleep();
        }
    }
}

#[test]
fn a_number_that_goes_back_or_runs_ahead_is_refused() {
    let heap = heap();
    let (mut writer, mut reader) = ends(&heap);
    writer.write(&[7; 10]);
    let _ = writer.publish();
    assert_eq!(reader.waiting(), Ok(10));
    for written in [9, 0, 65, u64::MAX] {
        heap[WRITTEN].store(written, Relaxed);
        assert_eq!(reader.read(&mut [0; 100]), Err(BadIndex), "{written}");
    }
    for read in [11, 100, u64::MAX] {
        heap[READ].store(read, Relaxed);
        assert_eq!(writer.room(), Err(BadIndex), "{read}");
    }
    heap[READ].store(4, Relaxed);
    assert_eq!(writer.room(), Ok(58));
    heap[READ].store(3, Relaxed);
    assert_eq!(writer.room(), Err(BadIndex));
}

#[test]
fn impossible_numbers_of_another_process_image_are_refused() {
    let heap = heap();
    assert!(RingReader::at(heap.clone(), [65, 0]).is_none());
    assert!(RingWriter::at(heap.clone(), [0, 1]).is_none());
    assert!(RingReader::at(heap, [70, 6]).is_some());
}

#[test]
fn two_threads_pass_a_stream_and_the_reader_is_woken_each_time_it_sleeps() {
    const TOTAL: usize = 300_000;
    let (mut writer, mut reader) = ends(&heap());
    let reading = thread::current();
    let writing = thread::spawn(move || {
        let mut written = 0;
        while written < TOTAL {
            let room = writer.room().unwrap();
            let count = room.min(1 + written % 40).min(TOTAL - written);
            writer.write(&stream(written, count));
            written += count;
            if writer.publish() {
                reading.unpark();
            }
            if count == 0 {
                thread::yield_now();
            }
        }
    });
    let (mut read, mut space) = (0, [0; 50]);
    while read < TOTAL {
        let count = reader.read(&mut space).unwrap();
        assert_eq!(space[..count], stream(read, count));
        read += count;
        if count == 0 && reader.fall_asleep().unwrap() {
            thread::park();
        }
    }
    writing.join().unwrap();
}
