//! Measurements that wait to be sent: in order, on disk, bounded.
//!
//! The training thread pushes; the reporter peeks, sends, and acknowledges. The file holds records of a
//! little-endian u32 length and a wire-format measurement; it is emptied whenever everything has been sent. A new
//! process of the worker does not read it: its trials are released by then, and fenced.

use std::fs::{File, OpenOptions};
use std::io::{self, Error, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kapell_rpc::v1::Measurement;
use prost::Message;
use tokio::sync::Notify;

/// Measurements that may wait; beyond it training pauses until some are sent. About 15 MB.
const WAITING_MAX: usize = 100_000;
/// How often a pausing thread looks whether it is to stop.
const GLANCE: Duration = Duration::from_millis(100);
const RECORD_BYTES_MAX: usize = 4096;

#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    room: Condvar,
    news: Notify,
    waiting_max: usize,
}

#[derive(Debug)]
struct Queue {
    file: File,
    /// Offsets of the first record not yet sent, and of the end.
    start: u64,
    end: u64,
    waiting: usize,
    closed: bool,
}

/// The oldest measurements, and how far they reach.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) measurements: Vec<Measurement>,
    /// There are no more, and no more will come.
    pub(crate) is_last: bool,
    next: u64,
}

impl Outbox {
    /// An empty outbox in this file.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Self::with_bound(path, WAITING_MAX)
    }

    fn with_bound(path: &Path, waiting_max: usize) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path)?;
        let queue = Mutex::new(Queue { file, start: 0, end: 0, waiting: 0, closed: false });
        Ok(Self { queue, room: Condvar::new(), news: Notify::new(), waiting_max })
    }

    /// Appends a measurement. Blocks while the outbox is full, unless `give_up` says so: then nothing is
    /// appended, and the answer is false.
    pub(crate) fn push(&self, measurement: &Measurement, give_up: impl Fn() -> bool) -> io::Result<bool> {
        let mut queue = self.lock();
        while queue.waiting >= self.waiting_max {
            if give_up() {
                return Ok(false);
            }
            queue = self.room.wait_timeout(queue, GLANCE).unwrap_or_else(PoisonError::into_inner).0;
        }
        let body = measurement.encode_to_vec();
        let length = u32::try_from(body.len()).map_err(|_| Error::from(ErrorKind::InvalidData))?;
        let record = [&length.to_le_bytes(), body.as_slice()].concat();
        queue.file.write_all_at(&record, queue.end)?;
        queue.end += record.len() as u64;
        queue.waiting += 1;
        drop(queue);
        self.news.notify_one();
        Ok(true)
    }

    /// No more measurements will come.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.news.notify_one();
    }

    /// Waits for measurements and gives the oldest, at most `max`; none when closed and everything is sent.
    /// They stay until acknowledged.
    pub(crate) async fn peek(&self, max: usize) -> io::Result<Option<Batch>> {
        loop {
            {
                let queue = self.lock();
                if queue.waiting > 0 {
                    return queue.read(max).map(Some);
                }
                if queue.closed {
                    return Ok(None);
                }
            }
            self.news.notified().await;
        }
    }

    /// These have been sent.
    pub(crate) fn acknowledge(&self, batch: &Batch) -> io::Result<()> {
        let mut queue = self.lock();
        queue.start = batch.next;
        queue.waiting = queue.waiting.saturating_sub(batch.measurements.len());
        if queue.waiting == 0 {
            queue.file.set_len(0)?;
            (queue.start, queue.end) = (0, 0);
        }
        drop(queue);
        self.room.notify_one();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn read(&self, max: usize) -> io::Result<Batch> {
        let is_last = self.closed && self.waiting <= max;
        let mut batch = Batch { measurements: Vec::new(), is_last, next: self.start };
        for _ in 0..self.waiting.min(max) {
            let mut length = [0; 4];
            self.file.read_exact_at(&mut length, batch.next)?;
            let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
            if length > RECORD_BYTES_MAX {
                return Err(Error::new(ErrorKind::InvalidData, "the outbox is damaged"));
            }
            let mut body = vec![0; length];
            self.file.read_exact_at(&mut body, batch.next + 4)?;
            batch.measurements.push(Measurement::decode(body.as_slice())?);
            batch.next += 4 + length as u64;
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(epoch: u32) -> Measurement {
        Measurement { epoch, val_loss: 0.1 * f64::from(epoch), ..Default::default() }
    }

    fn epochs(batch: &Batch) -> Vec<u32> {
        batch.measurements.iter().map(|m| m.epoch).collect()
    }

    #[tokio::test]
    async fn measurements_come_in_order_and_stay_until_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::create(&dir.path().join("outbox")).unwrap();
        for epoch in 1..=5 {
            assert!(outbox.push(&measured(epoch), || false).unwrap());
        }
        assert_eq!(epochs(&outbox.peek(2).await.unwrap().unwrap()), [1, 2]);
        let batch = outbox.peek(2).await.unwrap().unwrap();
        assert_eq!(epochs(&batch), [1, 2]);
        assert_eq!(batch.measurements[1].val_loss.to_bits(), 0.2_f64.to_bits());
        outbox.acknowledge(&batch).unwrap();
        let batch = outbox.peek(10).await.unwrap().unwrap();
        assert_eq!(epochs(&batch), [3, 4, 5]);
        outbox.acknowledge(&batch).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("outbox")).unwrap().len(), 0);
        outbox.push(&measured(6), || false).unwrap();
        outbox.close();
        let batch = outbox.peek(10).await.unwrap().unwrap();
        assert_eq!(epochs(&batch), [6]);
        outbox.acknowledge(&batch).unwrap();
        assert!(outbox.peek(10).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_full_outbox_holds_the_pusher_until_there_is_room_or_it_gives_up() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = std::sync::Arc::new(Outbox::with_bound(&dir.path().join("outbox"), 2).unwrap());
        for epoch in 1..=2 {
            outbox.push(&measured(epoch), || false).unwrap();
        }
        assert!(!outbox.push(&measured(3), || true).unwrap(), "it gave up");
        let pusher = std::thread::spawn({
            let outbox = outbox.clone();
            move || outbox.push(&measured(3), || false).unwrap()
        });
        let batch = outbox.peek(1).await.unwrap().unwrap();
        outbox.acknowledge(&batch).unwrap();
        assert!(pusher.join().unwrap());
        assert_eq!(epochs(&outbox.peek(9).await.unwrap().unwrap()), [2, 3]);
    }
}
