//! Archives made by hand: what the applier would find if production had done just that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syncdata_formats::change::{Commit, Record};
use syncdata_formats::digest::Digest;
use syncdata_formats::floor::Floor;
use syncdata_formats::head::{Head, Newest};
use syncdata_formats::identity::{ArchiveIdentity, IdentitySource};
use syncdata_formats::layout::{SegmentName, SegmentSeq};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{
    Column, FORMAT, Gap, Generated, Identity, Link, Manifest, Relation, ReplicaIdentity, Since, Source,
    SourceKind,
};
use syncdata_formats::name::TableName;
use syncdata_formats::segment::SegmentWriter;
use syncdata_formats::snapshot::{
    Blocks, Part, PartKind, PartName, Seen, SnapshotId, SnapshotManifest, SnapshotSource, TableCopy, compress,
};
use syncdata_formats::time::{Day, Timestamp};
use uuid::Uuid;

/// Bytes of WAL between two transactions.
const STEP: u64 = 0x100;

/// Writes segments one after the other, each following the one before.
#[derive(Debug)]
pub struct Forge {
    dir: PathBuf,
    archive_id: Uuid,
    previous: Option<Link>,
    end_lsn: Lsn,
    xid: u32,
    clock: Timestamp,
    /// Of the folder: that of the last commit, never earlier than the one before.
    day: Day,
    relations: BTreeMap<TableName, Relation>,
    /// Tables that were described and are in no manifest's `capture_since` yet.
    new_tables: BTreeSet<TableName>,
    since: BTreeMap<TableName, Since>,
    gaps: Vec<Gap>,
    /// Parts of the newest snapshot with their rows, by table.
    copied: BTreeMap<TableName, Vec<(Part, Vec<u8>)>>,
    degraded: Vec<String>,
    server_version: String,
}

/// Where a forged segment lies.
#[derive(Clone, Debug)]
pub struct Forged {
    pub manifest: PathBuf,
    pub file: PathBuf,
    /// The end of each of its transactions.
    pub commits: Vec<Lsn>,
}

impl Forge {
    /// A new archive in that folder, with its archive.json.
    pub fn new(dir: &Path) -> Forge {
        let forge = Forge {
            dir: dir.to_owned(),
            archive_id: Uuid::new_v4(),
            previous: None,
            end_lsn: Lsn::from_u64(0x16B_3D00),
            xid: 700,
            clock: "2026-02-05T10:30:00Z".parse().expect("a time"),
            day: Day::EPOCH,
            relations: BTreeMap::new(),
            new_tables: BTreeSet::new(),
            since: BTreeMap::new(),
            gaps: Vec::new(),
            copied: BTreeMap::new(),
            degraded: Vec::new(),
            server_version: source().server_version,
        };
        let identity = ArchiveIdentity {
            format: FORMAT,
            archive_id: forge.archive_id,
            source: IdentitySource {
                system_identifier: "7300000000000000001".into(),
                database: "app".into(),
                slot: "syncdata_slot".into(),
            },
            created_at: forge.clock,
            archiver: "forged".into(),
        };
        write(&dir.join("archive.json"), &identity.encode());
        forge
    }

    /// Describes a table in all segments from here on: `name type`, with ` not null`, then ` always`, ` generated` or
    /// ` virtual` at the end.
    pub fn relation(&mut self, table: &str, columns: &[&str], key: &[&str]) {
        self.relation_with(table, columns, key, ReplicaIdentity::Default);
    }

    pub fn relation_with(&mut self, table: &str, columns: &[&str], key: &[&str], identity: ReplicaIdentity) {
        let columns = columns.iter().map(|text| column(text)).collect();
        let key = key.iter().map(|&name| name.to_owned()).collect();
        // Its key has stood all the time. With the identity that tables have by themselves that says nothing.
        let key_kept = identity != ReplicaIdentity::Default;
        self.describe(table, Relation { key_kept, ..Relation::new(columns, key, identity) });
    }

    /// The same with all that a catalog says.
    pub fn describe(&mut self, table: &str, relation: Relation) {
        if self.relations.insert(name(table), relation).is_none() {
            self.new_tables.insert(name(table));
        }
    }

    /// The table had rows when its capture began: with the next segment.
    pub fn had_rows(&mut self, table: &str) {
        self.new_tables.remove(&name(table));
        self.since.insert(name(table), Since { lsn: self.end_lsn, empty: false });
    }

    /// As the next manifest says it, if something has changed.
    fn capture_since(&mut self, start_lsn: Lsn) -> BTreeMap<TableName, Since> {
        if self.previous.is_some() && self.new_tables.is_empty() {
            return BTreeMap::new();
        }
        let new = std::mem::take(&mut self.new_tables);
        self.since.extend(new.into_iter().map(|table| (table, Since { lsn: start_lsn, empty: true })));
        self.since.clone()
    }

    /// What the source cannot say, in all segments from here on.
    pub fn degraded(&mut self, what: &[&str]) {
        self.degraded = what.iter().map(|&what| what.to_owned()).collect();
    }

    /// Of production's PostgreSQL, in all segments from here on.
    pub fn server_version(&mut self, version: &str) {
        version.clone_into(&mut self.server_version);
    }

    /// The next segment declares that all changes of these tables since the last one are lost.
    pub fn gap(&mut self, tables: &[&str]) {
        let from = self.end_lsn;
        self.end_lsn = Lsn::from_u64(from.as_u64() + STEP);
        let tables = tables.iter().map(|table| name(table)).collect();
        self.gaps.push(Gap { from, to: self.end_lsn, reason: "forged".into(), tables: Some(tables) });
    }

    /// A segment of these transactions. A row is its line without `lsn` and `ts`:
    /// `{"table":"users","op":"DELETE","old_keys":{"id":1}}`.
    pub fn segment<R: AsRef<str>>(&mut self, transactions: &[Vec<R>]) -> Forged {
        self.segment_of(transactions)
    }

    /// The same of transactions that need not be in memory.
    pub fn segment_of<R: AsRef<str>>(
        &mut self,
        transactions: impl IntoIterator<Item = impl IntoIterator<Item = R>>,
    ) -> Forged {
        self.segment_at(transactions, &[])
    }

    /// The same, with the times of the commits.
    pub fn segment_at<R: AsRef<str>>(
        &mut self,
        transactions: impl IntoIterator<Item = impl IntoIterator<Item = R>>,
        times: &[String],
    ) -> Forged {
        let start_lsn = self.previous.map_or(Lsn::from_u64(0x16B_3D00), |_| self.last_end());
        let mut writer = SegmentWriter::new(Vec::new(), 3, start_lsn).expect("memory can be written");
        let mut commits = Vec::new();
        for (number, rows) in transactions.into_iter().enumerate() {
            if let Some(time) = times.get(number) {
                self.set_clock(time);
            }
            self.transaction(rows, &mut writer);
            commits.push(self.end_lsn);
        }
        let (bytes, summary) = writer.finish().expect("all transactions are closed");
        let name = SegmentName { seq: self.next_seq(), end_lsn: summary.end_lsn };
        let capture_since = self.capture_since(start_lsn);
        let named = |table: &&TableName| summary.tables.contains_key(table);
        let relations = self.relations.iter().filter(|(table, _)| named(table));
        let manifest = Manifest {
            format: FORMAT,
            archive_id: self.archive_id,
            seq: name.seq,
            previous: self.previous,
            file: Some(summary.change_file(name)),
            records: summary.records,
            transactions: summary.transactions,
            tables: summary.tables.clone(),
            start_lsn,
            end_lsn: summary.end_lsn,
            span: Some(summary.span),
            source: Source {
                degraded: self.degraded.clone(),
                server_version: self.server_version.clone(),
                ..source()
            },
            capture: self.relations.keys().cloned().collect(),
            capture_since,
            relations: relations.map(|(table, relation)| (table.clone(), relation.clone())).collect(),
            gaps: std::mem::take(&mut self.gaps),
            proof: None,
            created_at: self.clock,
            archiver: "forged".into(),
        };
        self.publish(&manifest, &bytes, commits)
    }

    /// Where the archive ends.
    pub fn position(&self) -> Lsn {
        self.end_lsn
    }

    /// The number of the next transaction.
    pub fn next_xid(&self) -> u32 {
        self.xid
    }

    /// What lies before this segment is pruned: floor.json says so, and the files are gone.
    pub fn prune_before(&self, first: &Forged) {
        let bytes = fs::read(&first.manifest).expect("the segment is there");
        let kept = Manifest::decode(&bytes).expect("it is sound");
        let floor = Floor {
            format: FORMAT,
            archive_id: self.archive_id,
            seq: kept.seq,
            previous: kept.previous,
            pruned_at: self.clock,
        };
        write(&self.dir.join("floor.json"), &floor.encode());
        let day = first.manifest.parent().expect("a day's folder");
        for entry in fs::read_dir(day).expect("the folder is ours") {
            let path = entry.expect("it can be listed").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("ours").to_owned();
            if name < kept.name().to_string() {
                fs::remove_file(path).expect("ours");
            }
        }
    }

    /// A snapshot of these tables as they are now, each row as COPY prints it: `1\tone`.
    pub fn snapshot(&mut self, tables: &[(&str, &[&str])]) -> PathBuf {
        let (xid, now) = (u64::from(self.xid), self.end_lsn);
        self.snapshot_between(now, now, Seen { xmin: xid, xmax: xid, xip: Vec::new() }, tables)
    }

    /// One that was taken between two positions. Parts have two rows; those that an earlier snapshot has are
    /// referred to, others are deltas from its parts where there are such.
    pub fn snapshot_between(
        &mut self,
        start_lsn: Lsn,
        end_lsn: Lsn,
        snapshot: Seen,
        tables: &[(&str, &[&str])],
    ) -> PathBuf {
        self.clock = Timestamp::from_micros(self.clock.as_micros() + 1_000_000).expect("a second later");
        let id = SnapshotId::new(start_lsn, self.clock);
        let mut copies = BTreeMap::new();
        for (table, rows) in tables {
            copies.insert(name(table), self.copy_of(&id, &name(table), rows));
        }
        let source = source();
        let manifest = SnapshotManifest {
            format: FORMAT,
            archive_id: self.archive_id,
            id: id.clone(),
            start_lsn,
            end_lsn,
            snapshot,
            taken_at: self.clock,
            source: SnapshotSource {
                system_identifier: source.system_identifier,
                timeline: source.timeline,
                database: source.database,
                server_version: source.server_version,
                slot: source.slot,
                settings: source.settings,
            },
            tables: copies,
            created_at: self.clock,
            archiver: "forged".into(),
        };
        let bytes = manifest.encode();
        write(&self.dir.join(id.digest().as_str()), &SnapshotManifest::digest_file(&bytes));
        write(&self.dir.join(id.manifest().as_str()), &bytes);
        self.dir.join(id.folder().as_str())
    }

    fn copy_of(&mut self, id: &SnapshotId, table: &TableName, rows: &[&str]) -> TableCopy {
        let relation = self.relations[table].clone();
        let earlier = self.copied.remove(table).unwrap_or_default();
        let mut copied = Vec::new();
        for (place, rows) in rows.chunks(2).enumerate() {
            let content: Vec<u8> = rows.iter().map(|row| format!("{row}\n")).collect::<String>().into_bytes();
            let same = earlier.iter().find(|(_, before)| *before == content);
            let part = match (same, earlier.get(place)) {
                (Some((part, _)), _) => part.clone(),
                (None, base) => self.part(id, rows.len() as u64, &content, base),
            };
            copied.push((part, content));
        }
        let parts: Vec<Part> = copied.iter().map(|(part, _)| part.clone()).collect();
        self.copied.insert(table.clone(), copied);
        let travels = relation.columns.iter().filter(|c| c.generated != Some(Generated::Virtual));
        TableCopy {
            columns: travels.map(|column| column.name.clone()).collect(),
            relation,
            rows: rows.len() as u64,
            content_bytes: parts.iter().map(|part| part.content_bytes).sum(),
            parts,
            sequences: BTreeMap::new(),
        }
    }

    fn part(&self, id: &SnapshotId, rows: u64, content: &[u8], base: Option<&(Part, Vec<u8>)>) -> Part {
        let kind = if base.is_some() { PartKind::Delta } else { PartKind::Whole };
        let name = PartName { snapshot: id.clone(), content: Digest::of(content), kind };
        let (mut files, body) = match base {
            None => (Vec::new(), content.to_vec()),
            Some((part, before)) => {
                let delta = Blocks::of(before, part.rows).delta(content).expect("a delta");
                (part.files.clone(), delta)
            }
        };
        let (bytes, file) = compress(&name, &body, 3).expect("memory");
        write(&self.dir.join(name.path().as_str()), &bytes);
        files.push(file);
        Part {
            rows,
            content_bytes: content.len() as u64,
            content_sha256: Digest::of(content),
            first_key: None,
            files,
        }
    }

    /// head.json says that this is all there is.
    pub fn head(&self) {
        self.head_covering(Timestamp::now());
    }

    /// The same of an archiver that has said nothing since.
    pub fn head_covering(&self, covered_at: Timestamp) {
        let newest = self.previous.map(|link| Newest {
            day: self.day,
            name: SegmentName { seq: link.seq, end_lsn: self.end_lsn },
            sha256: link.sha256,
        });
        let head = Head {
            archive_id: self.archive_id,
            newest,
            recent: Vec::new(),
            covered_lsn: self.end_lsn,
            covered_at,
            not_captured: Vec::new(),
            stood: Vec::new(),
            archiver: "forged".into(),
        };
        write(&self.dir.join("head.json"), &head.encode());
    }

    fn transaction<R: AsRef<str>>(
        &mut self,
        rows: impl IntoIterator<Item = R>,
        writer: &mut SegmentWriter<Vec<u8>>,
    ) {
        let (lsn, ts) = (self.end_lsn, self.clock);
        let mut changes = 0;
        for row in rows {
            changes += 1;
            let open = row.as_ref().strip_suffix('}').expect("a row is a JSON object");
            let line = format!("{open},\"lsn\":\"{lsn}\",\"ts\":\"{ts}\"}}\n");
            let record = Record::parse(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error:?}"));
            let Record::Row(parsed) = record else { panic!("{line} is no row") };
            writer.row(&name(&parsed.table), parsed.op, line.as_bytes()).expect("memory can be written");
        }
        self.end_lsn = Lsn::from_u64(self.end_lsn.as_u64() + STEP);
        let commit = Commit { xid: self.xid, changes, lsn, end_lsn: self.end_lsn, ts };
        writer.commit(&commit).expect("a transaction as counted");
        self.xid += 1;
        self.day = self.day.max(ts.day());
        self.clock = Timestamp::from_micros(self.clock.as_micros() + 1_000_000).expect("a second later");
    }

    fn publish(&mut self, manifest: &Manifest, bytes: &[u8], commits: Vec<Lsn>) -> Forged {
        let (name, encoded) = (manifest.name(), manifest.encode());
        let forged = Forged {
            file: self.dir.join(name.file(self.day).as_str()),
            manifest: self.dir.join(name.manifest(self.day).as_str()),
            commits,
        };
        write(&forged.file, bytes);
        write(&forged.manifest, &encoded);
        self.previous = Some(Link { seq: name.seq, sha256: Digest::of(&encoded) });
        self.head();
        forged
    }

    fn last_end(&self) -> Lsn {
        self.gaps.iter().map(|gap| gap.from).min().unwrap_or(self.end_lsn)
    }

    fn next_seq(&self) -> SegmentSeq {
        self.previous.map_or(SegmentSeq::FIRST, |link| link.seq.next())
    }

    /// When the next transaction commits.
    pub fn now(&self) -> Timestamp {
        self.clock
    }

    /// The next transaction commits then: an earlier time is a clock that went back.
    pub fn set_clock(&mut self, time: &str) {
        self.clock = time.parse().expect("a time");
    }
}

fn name(table: &str) -> TableName {
    TableName::from_archive(table).expect("a table name as the archive writes it")
}

fn column(text: &str) -> Column {
    let (name, mut rest) = text.split_once(' ').expect("a name and a type");
    let mut take = |ending: &str| {
        let stripped = rest.strip_suffix(ending);
        rest = stripped.unwrap_or(rest);
        stripped.is_some()
    };
    let generated = match (take(" generated"), take(" virtual")) {
        (true, _) => Some(Generated::Stored),
        (_, true) => Some(Generated::Virtual),
        _ => None,
    };
    let identity = take(" always").then_some(Identity::Always);
    let not_null = take(" not null");
    // A space in a name is written as a control character, which no name here has otherwise.
    Column {
        name: name.replace('\u{1}', " "),
        type_name: rest.into(),
        not_null,
        generated,
        identity,
        ..Column::default()
    }
}

fn source() -> Source {
    Source {
        kind: SourceKind::Wal2json,
        system_identifier: "7300000000000000001".into(),
        timeline: 1,
        database: "app".into(),
        server_version: "15.18".into(),
        slot: "syncdata_slot".into(),
        plugin: "wal2json 2.5".into(),
        settings: BTreeMap::new(),
        degraded: Vec::new(),
        order: None,
        batch: None,
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a file of the archive")).expect("the folder is writable");
    fs::write(path, bytes).expect("the folder is writable");
}
