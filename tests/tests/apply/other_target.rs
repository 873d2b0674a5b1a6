//! The seam of targets holds for a second one: rows in memory, found by the text of their key, and the checkpoint in the
//! same commit. It takes a whole archive, each change exactly once, wherever a kill strikes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use syncdata_applier::apply::lookahead::Ahead;
use syncdata_applier::apply::transaction::{self, Rules};
use syncdata_applier::archive::source::Source;
use syncdata_applier::batch::{Batch, Cell, Record};
use syncdata_applier::plan::Scope;
use syncdata_applier::plan::group::GroupName;
use syncdata_applier::plan::position::Checkpoint;
use syncdata_applier::plan::state::{State, TableState};
use syncdata_applier::table::{Column, Shape, Table, TextEquality, UniqueIndex};
use syncdata_applier::target::{Outcome, Positions, Target, Violation};
use syncdata_archive::{ArchiveHandle, DirectoryArchive};
use syncdata_formats::change::Op;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_service::config::OnError;
use syncdata_tests::Forge;
use tokio::sync::Notify;

/// Segments of the archive; each is a transaction of its own here.
const SEGMENTS: usize = 5;

#[tokio::test]
async fn an_archive_arrives_in_a_target_that_is_no_database() {
    let archive = Forged::new();
    let disk = Disk::default();
    archive.life(&disk, None).await.expect("nothing is in its way");
    assert_whole(&disk);
}

#[tokio::test]
async fn every_change_arrives_once_wherever_a_kill_strikes() {
    let archive = Forged::new();
    for kill in [Kill::InBatch, Kill::BeforeCommit, Kill::AfterCommit] {
        for transaction in 1..=SEGMENTS {
            let disk = Disk::default();
            archive.life(&disk, Some((kill, transaction))).await.expect_err("it is killed");
            let committed = if kill == Kill::AfterCommit { transaction } else { transaction - 1 };
            assert_eq!(disk.read().checkpoint.seq(), committed as u64, "{kill:?} in {transaction}");

            archive.life(&disk, None).await.expect("the next life goes on");
            assert_whole(&disk);
        }
    }
}

#[tokio::test]
async fn lives_that_are_all_killed_at_their_first_transaction_get_there_too() {
    let archive = Forged::new();
    let disk = Disk::default();
    for _ in 0..SEGMENTS {
        for kill in [Kill::InBatch, Kill::BeforeCommit, Kill::AfterCommit] {
            archive.life(&disk, Some((kill, 1))).await.expect_err("it is killed");
        }
    }
    archive.life(&disk, None).await.expect("nothing is left to do");
    assert_whole(&disk);
}

#[tokio::test]
async fn a_checkpoint_that_somebody_else_has_moved_is_not_passed() {
    let archive = Forged::new();
    let disk = Disk::default();
    archive.life(&disk, None).await.expect("nothing is in its way");
    let source = archive.source();
    let error = archive.pass(&source, &mut Memory::new(&disk, None), Checkpoint::default()).await;
    assert_eq!(error.expect_err("it is at the end").kind(), Kind::Locked);
    assert_whole(&disk);
}

/// Every row with its note and how many changes have made it: a change that came twice would count.
fn assert_whole(disk: &Disk) {
    let copy = disk.read();
    let rows: Vec<(&str, &str, u64)> = copy
        .rows
        .iter()
        .map(|(key, row)| (key.as_str(), row.values[1].as_deref().unwrap_or("NULL"), row.changes))
        .collect();
    assert_eq!(rows, [("1", "eins", 3), ("2", "two again", 1), ("30", "thirty", 3), ("4", "NULL", 1)]);
    assert_eq!(copy.checkpoint.seq(), SEGMENTS as u64);
    assert_eq!(copy.position, Some(copy.checkpoint.end_lsn()));
}

struct Forged {
    folder: tempfile::TempDir,
}

impl Forged {
    fn new() -> Forged {
        let folder = tempfile::tempdir().expect("a folder");
        let mut forge = Forge::new(folder.path());
        forge.relation("users", &["id integer not null", "note text"], &["id"]);
        forge.relation("orders", &["id integer not null"], &["id"]);
        let insert = |id: u32, note: &str| {
            format!(r#"{{"table":"users","op":"INSERT","data":{{"id":{id},"note":{note}}}}}"#)
        };
        let update = |id: u32, to: u32, note: &str| {
            format!(
                r#"{{"table":"users","op":"UPDATE","data":{{"id":{to},"note":"{note}"}},"old_keys":{{"id":{id}}}}}"#
            )
        };
        let delete = |id: u32| format!(r#"{{"table":"users","op":"DELETE","old_keys":{{"id":{id}}}}}"#);
        // Of another group.
        let order = |id: u32| format!(r#"{{"table":"orders","op":"INSERT","data":{{"id":{id}}}}}"#);
        let segments = [
            vec![vec![insert(1, r#""one""#), order(1), insert(2, r#""two""#)], vec![update(1, 1, "uno")]],
            vec![vec![insert(3, r#""three""#), delete(2)], vec![order(2)]],
            vec![vec![update(3, 30, "moved")], vec![insert(2, r#""two again""#)]],
            vec![vec![update(1, 1, "eins")]],
            vec![vec![insert(4, "null"), update(30, 30, "thirty")]],
        ];
        assert_eq!(segments.len(), SEGMENTS);
        for transactions in &segments {
            forge.segment(transactions);
        }
        Forged { folder }
    }

    fn source(&self) -> Source {
        let archive = DirectoryArchive::new(self.folder.path());
        let archive = ArchiveHandle::spawn(Box::new(archive)).expect("a thread");
        Source::new(archive, self.folder.path().join("cache"), 1 << 20, None).expect("a cache")
    }

    /// A process from its start to its end, or to the kill: what it had in memory is gone then.
    async fn life(&self, disk: &Disk, kill: Option<(Kill, usize)>) -> Result<()> {
        let source = self.source();
        let mut target = Memory::new(disk, kill);
        let killed = Arc::clone(&target.killed);
        let checkpoint = disk.read().checkpoint;
        tokio::select! {
            done = self.pass(&source, &mut target, checkpoint) => done,
            () = killed.notified() => Err(Error::new(Kind::Io, "killed")),
        }
    }

    async fn pass(&self, source: &Source, target: &mut Memory, mut checkpoint: Checkpoint) -> Result<()> {
        let archive_id = source.identity().await?.archive_id;
        let listing = source.list(None).await?;
        let names = listing.names().filter(|(_, name)| name.seq.get() > checkpoint.seq()).collect();
        let stream = source.stream(checkpoint.tip(archive_id), names, None, BTreeSet::from([users()]));

        let rules = Rules { apply_batch_changes: 1, on_error: OnError::Stop, metric_freq: Duration::ZERO };
        let mut ahead = Ahead::new(stream, rules.apply_batch_changes, Memory::prepare);
        while let Some(group) = ahead.group().await {
            let group = group?;
            let scope = Scope::Live(GroupName::DEFAULT);
            transaction::apply(target, &rules, &checkpoint, &scope, &group, Some(&mut ahead)).await?;
            checkpoint = Checkpoint::after(&group.last().expect("it has one").segment);
            for fetched in &group {
                fetched.clean()?;
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    /// Half of a batch is written.
    InBatch,
    /// All is written, nothing is committed.
    BeforeCommit,
    /// It is committed, and nobody is told.
    AfterCommit,
}

/// What a kill leaves.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Contents>>);

impl Disk {
    fn read(&self) -> Contents {
        self.0.lock().expect("nobody panics").clone()
    }
}

#[derive(Clone, Default)]
struct Contents {
    /// By the text of their key.
    rows: BTreeMap<String, Row>,
    position: Option<Lsn>,
    checkpoint: Checkpoint,
}

#[derive(Clone)]
struct Row {
    values: Vec<Option<String>>,
    changes: u64,
}

struct Memory {
    disk: Disk,
    /// The transaction that is under way.
    work: Option<Contents>,
    /// And in which transaction of this life.
    kill: Option<(Kill, usize)>,
    transactions: usize,
    killed: Arc<Notify>,
}

impl Memory {
    fn new(disk: &Disk, kill: Option<(Kill, usize)>) -> Memory {
        Memory { disk: disk.clone(), work: None, kill, transactions: 0, killed: Arc::default() }
    }

    fn is_killed(&self, kill: Kill) -> bool {
        self.kill == Some((kill, self.transactions))
    }

    /// Everything that is under way is dropped where it stands.
    async fn die(&self) {
        self.killed.notify_one();
        std::future::pending::<()>().await;
    }

    fn work(&mut self) -> &mut Contents {
        self.work.as_mut().expect("a transaction is under way")
    }
}

impl Contents {
    /// A change that comes twice meets what it left the first time.
    fn take(&mut self, batch: &Batch, record: &Record) {
        let target = &batch.tables[record.table].target;
        let key = |values: &[Option<String>]| {
            let texts =
                target.key.columns.iter().map(|&column| values[column].clone().expect("no NULL in a key"));
            texts.collect::<Vec<_>>().join("\u{1f}")
        };
        let mut old = vec![None; target.table.columns.len()];
        overlay(&mut old, batch, batch.old_keys(record));
        match record.op {
            Op::Insert => {
                overlay(&mut old, batch, batch.data(record));
                let before = self.rows.insert(key(&old), Row { values: old, changes: 1 });
                assert!(before.is_none(), "a row was inserted twice");
            }
            Op::Update => {
                let mut row = self.rows.remove(&key(&old)).expect("the row that an UPDATE is about");
                overlay(&mut row.values, batch, batch.data(record));
                row.changes += 1;
                self.rows.insert(key(&row.values), row);
            }
            Op::Delete => drop(self.rows.remove(&key(&old)).expect("the row that a DELETE is about")),
            Op::Truncate => self.rows.clear(),
        }
    }
}

fn overlay(values: &mut [Option<String>], batch: &Batch, fields: impl Iterator<Item = (usize, Cell)>) {
    for (column, cell) in fields {
        values[column] = batch.value(cell).map(str::to_owned);
    }
}

impl Target for Memory {
    type Prepared = Batch;

    fn prepare(batch: Batch) -> Batch {
        batch
    }

    async fn begin(&mut self) -> Result<()> {
        assert!(self.work.is_none(), "one transaction at a time");
        self.work = Some(self.disk.read());
        self.transactions += 1;
        Ok(())
    }

    async fn claim(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        match self.work().checkpoint == *checkpoint {
            true => Ok(()),
            false => Err(Error::new(Kind::Locked, "the checkpoint has moved")),
        }
    }

    async fn states(&mut self) -> Result<BTreeMap<TableName, TableState>> {
        let state = TableState { position: self.work().position, ..TableState::new(State::Live) };
        let mut states = BTreeMap::from([(users(), state)]);
        // What is of another group takes nothing, whatever it lacks.
        let others = [("orders", State::Live), ("bills", State::Quarantined)];
        states.extend(others.map(|(name, state)| {
            let group = "night".parse().expect("a name");
            let position = Some(Lsn::from_u64(1));
            (name.parse().expect("a name"), TableState { group, position, ..TableState::new(state) })
        }));
        Ok(states)
    }

    async fn tables(&mut self, names: &[TableName]) -> Result<BTreeMap<TableName, Arc<Table>>> {
        assert_eq!(names, [users()]);
        Ok(BTreeMap::from([(users(), Arc::new(users_table()))]))
    }

    async fn other_values(&mut self, _: &Table, _: &[(usize, Option<String>)]) -> Result<Option<usize>> {
        Ok(None)
    }

    async fn write(&mut self, batch: &Batch) -> Result<Outcome> {
        for (number, record) in batch.records.iter().enumerate() {
            if number == batch.records.len() / 2 && self.is_killed(Kill::InBatch) {
                self.die().await;
            }
            self.work().take(batch, record);
        }
        Ok(Outcome::Applied(BTreeMap::new()))
    }

    async fn check(&mut self, _: &[&Table]) -> Result<Option<Violation>> {
        Ok(None)
    }

    async fn commit(&mut self, positions: &Positions) -> Result<()> {
        assert_eq!(positions.moved, [users()]);
        let mut work = self.work.take().expect("a transaction is under way");
        work.position = Some(positions.end.lsn);
        work.checkpoint = positions.checkpoint.clone().expect("live tables move with the checkpoint");
        if self.is_killed(Kill::BeforeCommit) {
            self.die().await;
        }
        *self.disk.0.lock().expect("nobody panics") = work;
        if self.is_killed(Kill::AfterCommit) {
            return Err(Error::new(Kind::Unreachable, "the commit was not answered"));
        }
        Ok(())
    }

    async fn roll_back(&mut self) {
        self.work = None;
    }
}

fn users() -> TableName {
    TableName::from_archive("users").expect("a name")
}

fn users_table() -> Table {
    let column = |name: &str, type_name: &str, not_null: bool| Column {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        plain_type: type_name.to_owned(),
        expression: None,
        computed_otherwise_in: None,
        altered_in: 0,
        rewrites: false,
        base_type: type_name.to_owned(),
        text_equality: TextEquality::Exact,
        equality: "=".to_owned(),
        attnum: 0,
        is_loose: false,
        has_own_equality: false,
        is_by_name: false,
        has_own_cast: false,
        not_null,
        has_default: false,
        generated: false,
        identity_always: false,
        identity: false,
    };
    Table {
        name: users(),
        oid: 0,
        shape: Shape::Ordinary,
        columns: vec![column("id", "integer", true), column("note", "text", false)],
        unique: vec![UniqueIndex { columns: vec![0], immediate: true, overlaps: false, is_loose: false }],
        referenced_by: Vec::new(),
        acts_on_delete: false,
        acts_on_update: false,
        source_columns: Default::default(),
        paired: Default::default(),
        source_key: None,
    }
}
