//! Crash tests: the machine loses power at every write, in the middle of every write, and with any
//! part of what was not yet synced; what was acknowledged is there, and whole.

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::disk::Disk;
use super::{Expect, Key, Store, Write, WriteError};

#[derive(Debug, Clone)]
enum Op {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

/// A file in memory that remembers what was done to it.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<Tape>>);

#[derive(Debug, Default)]
struct Tape {
    image: Vec<u8>,
    ops: Vec<Op>,
    /// Writes and syncs fail, as on a full or broken disk.
    broken: bool,
}

impl Tape {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Write(at, data) => {
                let end = *at as usize + data.len();
                if self.image.len() < end {
                    self.image.resize(end, 0);
                }
                self.image[*at as usize..end].copy_from_slice(data);
            }
            Op::Length(n) => self.image.resize(*n as usize, 0),
            Op::Sync => {}
        }
    }
}

impl Recorder {
    fn record(&self, op: Op) -> io::Result<()> {
        let mut tape = self.0.lock().unwrap();
        if tape.broken {
            return Err(io::Error::from_raw_os_error(28));
        }
        tape.apply(&op);
        tape.ops.push(op);
        Ok(())
    }

    fn at(&self) -> usize {
        self.0.lock().unwrap().ops.len()
    }

    fn of(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Tape {
            image,
            ..Tape::default()
        })))
    }

    /// The file after some operations.
    fn replay<'a>(ops: impl Iterator<Item = &'a Op>) -> Self {
        let mut tape = Tape::default();
        ops.for_each(|op| tape.apply(op));
        Self::of(tape.image)
    }
}

impl redb::StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().image.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let tape = self.0.lock().unwrap();
        let end = offset as usize + out.len();
        let found = tape
            .image
            .get(offset as usize..end)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.record(Op::Length(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.record(Op::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.record(Op::Write(offset, data.to_vec()))
    }
}

fn key(name: &str) -> Key {
    Key::new("configmaps", "ns", name)
}

fn change(name: &str, expect: Expect, step: Option<usize>) -> Write {
    let value = step.map(|n| {
        json!({"metadata": {"name": name, "namespace": "ns"}, "step": n, "pad": "x".repeat(n * 37 % 900)})
    });
    Write {
        key: key(name),
        expect,
        value,
        durable: true,
    }
}

/// What an acknowledged state holds: name and step.
type State = Vec<(String, i64)>;

fn state(store: &Store) -> State {
    let list = store.list("configmaps", "", &super::Selector::all());
    list.items
        .iter()
        .map(|o| (o.name().to_owned(), o.int_at("/step").unwrap()))
        .collect()
}

/// Writes, and after each write the position on the tape and the state that was acknowledged.
async fn history(tape: &Recorder) -> Vec<(usize, State)> {
    let store = Store::start(Disk::on(tape.clone()).unwrap()).unwrap();
    let mut out = vec![(tape.at(), state(&store))];
    for step in 0..24 {
        let name = ["a", "b", "c"][step % 3];
        let expect = store
            .get(&key(name))
            .map_or(Expect::Absent, |o| Expect::Version(o.resource_version()));
        let gone = step % 7 == 6 && expect != Expect::Absent;
        store
            .write(change(name, expect, (!gone).then_some(step)))
            .await
            .unwrap();
        out.push((tape.at(), state(&store)));
    }
    store.close();
    out
}

/// Recovers from an image and holds it against what was acknowledged when the power went: that
/// state, or the next one, which was being written.
fn check(image: Recorder, cut: usize, history: &[(usize, State)], what: &str) {
    let acknowledged = history.iter().rposition(|(at, _)| *at <= cut);
    let Some(last) = acknowledged else {
        // Before the database was made there is nothing to lose, but it must not be stuck either.
        return;
    };
    let store = Disk::on(image)
        .and_then(Store::start)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    let found = state(&store);
    let next = history.get(last + 1).map(|(_, s)| s);
    assert!(
        found == history[last].1 || Some(&found) == next,
        "{what}: {found:?} after step {last}"
    );
    store.close();
}

#[tokio::test]
async fn power_loss_at_every_write_loses_nothing_acknowledged() {
    let tape = Recorder::default();
    let history = history(&tape).await;
    let ops = tape.0.lock().unwrap().ops.clone();
    for cut in 0..=ops.len() {
        check(
            Recorder::replay(ops[..cut].iter()),
            cut,
            &history,
            &format!("cut at {cut}"),
        );
        let Some(Op::Write(at, data)) = ops.get(cut) else {
            continue;
        };
        let torn = Op::Write(*at, data[..data.len() / 2].to_vec());
        let image = Recorder::replay(ops[..cut].iter().chain([&torn]));
        check(image, cut, &history, &format!("torn at {cut}"));
    }
}

#[tokio::test]
async fn power_loss_with_writes_out_of_order_loses_nothing_acknowledged() {
    let tape = Recorder::default();
    let history = history(&tape).await;
    let ops = tape.0.lock().unwrap().ops.clone();
    let mut seed = 1u64;
    for cut in 0..=ops.len() {
        let synced = ops[..cut]
            .iter()
            .rposition(|op| matches!(op, Op::Sync))
            .unwrap_or(0);
        // Of what was not synced, any part may have reached the disk.
        let kept: Vec<&Op> = ops[..cut]
            .iter()
            .enumerate()
            .filter(|(i, op)| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *i <= synced || seed >> 63 == 0 || matches!(op, Op::Length(_))
            })
            .map(|(_, op)| op)
            .collect();
        check(
            Recorder::replay(kept.into_iter()),
            cut,
            &history,
            &format!("reordered at {cut}"),
        );
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_heals_when_there_is_room() {
    let tape = Recorder::default();
    let store = Store::start(Disk::on(tape.clone()).unwrap()).unwrap();
    store
        .write(change("a", Expect::Absent, Some(1)))
        .await
        .unwrap();
    let before = state(&store);
    tape.0.lock().unwrap().broken = true;
    let version = store.get(&key("a")).unwrap().resource_version();
    for write in [
        change("b", Expect::Absent, Some(2)),
        change("a", Expect::Version(version), None),
    ] {
        let refused = store.write(write).await.unwrap_err();
        assert!(matches!(refused, WriteError::Disk(_)), "{refused}");
    }
    assert_eq!(state(&store), before, "what was refused is not to be seen");
    assert!(store.check().await.is_err(), "it still is");
    tape.0.lock().unwrap().broken = false;
    store.check().await.unwrap();
    let written = tape.at();
    store.check().await.unwrap();
    assert_eq!(tape.at(), written, "nothing is written where all is well");
    store
        .write(change("c", Expect::Absent, Some(3)))
        .await
        .unwrap();
    let after = state(&store);
    store.close();
    let image = tape.0.lock().unwrap().image.clone();
    let again = Store::start(Disk::on(Recorder::of(image)).unwrap()).unwrap();
    assert_eq!(state(&again), after);
    again.close();
}
