//! `state.json`: what no segment can say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use syncdata_formats::chain::{ChainTip, Verified};
use syncdata_formats::digest::Digest;
use syncdata_formats::head::{self, Head, Newest};
use syncdata_formats::layout::SegmentName;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Gap, Link, SourceKind};
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::{SnapshotId, SnapshotManifest};
use syncdata_formats::time::{Day, Timestamp};
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::{faults, small_file};

use super::durable::write_durably;
use super::stood::Stood;
use crate::capture::Memory;
use crate::capture::position::number_of;
use crate::capture::shape::ShapeMemory;
use crate::capture::since::CaptureMemory;
use crate::capture::watch::LastBatch;

/// Gaps and warnings of ten thousand tables make less.
const BYTES_MAX: usize = 64 << 20;

/// The part of a spool's state that cannot be read off its segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub archive_id: uuid::Uuid,
    pub source: Origin,
    /// The end of the chain, kept when the segment itself has left the spool.
    pub tip: Tip,
    /// The backup host has every segment up to this one; 0 when it has none.
    pub shipped: u64,
    pub shipped_at: Option<Timestamp>,
    /// All that committed before is archived or in the spool.
    pub covered_lsn: Lsn,
    /// The same by production's clock; `None` until the slot was read to its end for the first time.
    #[serde(default)]
    pub covered_at: Option<Timestamp>,
    /// Gaps that no snapshot has mended yet.
    #[serde(default)]
    pub gaps: Vec<Gap>,
    /// The newest snapshot in the archive when it was last listed.
    #[serde(default)]
    pub newest_snapshot: Option<HeldSnapshot>,
    /// The captured tables, as the last answer left them.
    #[serde(default)]
    pub memory: Memory,
    /// Since when tables are captured.
    #[serde(default)]
    pub captured: CaptureMemory,
    /// The shape of each captured table's rows.
    #[serde(default)]
    pub shapes: ShapeMemory,
    /// Of the end of the chain, the newest first: what head.json lists.
    #[serde(default)]
    pub recent: Vec<Recent>,
    /// Warnings about lost changes that the slot will repeat until it moves, by table.
    #[serde(default)]
    pub warned: BTreeMap<TableName, u64>,
    /// Where the slot stood when it gave them: elsewhere it gives others.
    #[serde(default)]
    pub warned_from: Option<Lsn>,
    /// How many transactions the slot has handed out: fewer than before means another slot of that name.
    #[serde(default)]
    pub slot_transactions: Option<u64>,
    /// The last commit of the last change file: a slot that offers it again offers the same one, or another history.
    #[serde(default)]
    pub last_commit: Option<ArchivedCommit>,
    /// The last transaction that the slot has up to `covered_lsn`, whatever it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_commit: Option<LastBefore>,
    /// The same where the chain ends, of a poll that read up to there: with a manifest that has no commit of its own,
    /// another one between the two is of another history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_before_tip: Option<LastBefore>,
    /// Why the source is not the one that was archived; stays until an operator decides.
    #[serde(default)]
    pub diverged: Option<String>,
    /// The clock of a head that speaks of positions of an earlier timeline: that one and older ones excuse nothing.
    #[serde(default)]
    pub former_head: Option<Timestamp>,
    /// What the source was made to write for us since its slot stood still.
    #[serde(default)]
    pub rereading: Option<Rereading>,
    /// What the daily prune goes by.
    #[serde(default)]
    pub keep: Option<Keep>,
    /// A change of the plugin has made a copy of the slot, or was about to, and has not dropped it yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub copies_slot: bool,
    /// Where the slot may stand.
    #[serde(default)]
    pub stood: Stood,
    /// Of triggers: what the next batch comes after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_batch: Option<LastBatch>,
    /// Of triggers: how far production itself says that it was read, at least. Less means that it has gone back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Lsn>,
}

/// A `keep_days` that the daemon has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Keep {
    pub days: Option<u32>,
    /// Of one that came in the place of another: when it was said what it removes.
    #[serde(default)]
    pub said_at: Option<Timestamp>,
}

/// Which transaction of the source a commit was: position, number and time together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ArchivedCommit {
    pub end_lsn: Lsn,
    pub xid: u32,
    pub ts: Timestamp,
}

/// A place of the stream, and the last transaction before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastBefore {
    pub place: Lsn,
    pub commit: ArchivedCommit,
    /// Which transactions a stream has at all is for its plugin to say. Not written for wal2json, as in manifests.
    #[serde(default, skip_serializing_if = "is_wal2json")]
    pub kind: SourceKind,
}

fn is_wal2json(kind: &SourceKind) -> bool {
    *kind == SourceKind::Wal2json
}

/// Answers of a slot that did not move meanwhile: each begins where the slot stands and repeats the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rereading {
    /// Where the slot stood.
    pub from: Lsn,
    /// Up to where it was read.
    pub upto: Lsn,
    /// The bytes of the last whole answer.
    pub answer_bytes: u64,
    /// The bytes of all answers together.
    pub spent_bytes: u64,
}

/// More are put together: what is stale, and which copy mends it, is then still known.
const GAPS_MAX: usize = 100;

/// A snapshot that the archive has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldSnapshot {
    pub id: SnapshotId,
    pub taken_at: Timestamp,
    pub tables: BTreeSet<TableName>,
    /// Its rows are as of here at the latest. Earlier versions did not note it.
    #[serde(default)]
    pub end_lsn: Lsn,
    #[serde(default)]
    pub timeline: u32,
}

/// Where the changes come from; a spool belongs to one slot of one database of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub system_identifier: String,
    pub timeline: u32,
    pub database: String,
    pub database_oid: u32,
    pub slot: String,
}

/// The end of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tip {
    /// The last segment; `None` before the first.
    pub last: Option<Last>,
    /// Where the next segment starts: the last one's end, or where the slot began.
    pub end_lsn: Lsn,
}

/// A segment near the end of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recent {
    pub segment: Link,
    pub day: Day,
    pub end_lsn: Lsn,
    /// Earlier versions did not note it.
    #[serde(default)]
    pub size: Option<head::Size>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Last {
    pub segment: Link,
    pub day: Day,
}

impl HeldSnapshot {
    pub(crate) fn of(manifest: SnapshotManifest) -> HeldSnapshot {
        let SnapshotManifest { id, taken_at, tables, end_lsn, source, .. } = manifest;
        HeldSnapshot {
            id,
            taken_at,
            tables: tables.into_keys().collect(),
            end_lsn,
            timeline: source.timeline,
        }
    }
}

impl Tip {
    pub(crate) fn after(verified: &Verified) -> Tip {
        let segment = Link { seq: verified.manifest().seq, sha256: verified.sha256() };
        Tip { last: Some(Last { segment, day: verified.day() }), end_lsn: verified.manifest().end_lsn }
    }

    pub(crate) fn seq(&self) -> u64 {
        self.last.map_or(0, |last| last.segment.seq.get())
    }
}

impl State {
    /// A spool without a segment, of a source that is read from `began` on.
    pub(crate) fn new(archive_id: uuid::Uuid, source: Origin, began: Lsn) -> State {
        State {
            archive_id,
            source,
            tip: Tip { last: None, end_lsn: began },
            shipped: 0,
            shipped_at: None,
            covered_lsn: began,
            covered_at: None,
            gaps: Vec::new(),
            newest_snapshot: None,
            memory: Memory::default(),
            captured: CaptureMemory::default(),
            shapes: ShapeMemory::default(),
            recent: Vec::new(),
            warned: BTreeMap::new(),
            warned_from: None,
            slot_transactions: None,
            last_commit: None,
            newest_commit: None,
            commit_before_tip: None,
            diverged: None,
            former_head: None,
            rereading: None,
            keep: None,
            copies_slot: false,
            stood: Stood::new(began),
            last_batch: None,
            acknowledged: None,
        }
    }

    /// What a new spool of that slot begins with, for tests: its changes begin at 0/10.
    #[cfg(test)]
    pub(crate) fn founded(slot: &str) -> State {
        let source = Origin {
            system_identifier: "7".into(),
            timeline: 1,
            database: "app".into(),
            database_oid: 5,
            slot: slot.into(),
        };
        State::new(uuid::Uuid::nil(), source, Lsn::from_u64(0x10))
    }

    /// The database in the place of the old one has none of its tables, whatever their numbers. What the chain was told
    /// stays.
    pub(crate) fn forget_tables(&mut self) {
        self.memory = self.memory.of_another_database();
        self.captured.forget_tables();
        self.shapes = ShapeMemory::default();
    }

    /// Another spool has read on from where this one was, and not of these tables.
    pub(crate) fn leave(&mut self, has_left: impl Fn(&TableName) -> bool) {
        let from = self.position();
        self.memory.leave(&has_left, from);
        self.captured.leave(&has_left, from);
    }

    /// The source is on that timeline, which left the one that was read last at `switch`. What was covered after that
    /// place, the source has lost, and writes other changes there.
    pub(crate) fn is_on(&mut self, timeline: u32, switch: Option<Lsn>, oldest: Option<u32>) {
        self.source.timeline = timeline;
        // Batches have positions of their own, and what one has shown was flushed.
        let is_of_wal = number_of(self.covered_lsn).is_none();
        let Some(switch) = switch.filter(|switch| is_of_wal && *switch < self.covered_lsn) else { return };
        self.rereading = None;
        self.go_back_to(switch, oldest);
    }

    /// What was covered after that place is to be read again: it may be another history now.
    pub(crate) fn go_back_to(&mut self, place: Lsn, oldest: Option<u32>) {
        if place >= self.covered_lsn {
            return;
        }
        self.former_head = self.covered_at;
        self.covered_lsn = place;
        self.stood.forget_after(place);
        self.gives_numbers_again(oldest);
    }

    /// The source gives numbers of transactions again: that they were seen is known of those before `oldest` only.
    pub(crate) fn gives_numbers_again(&mut self, oldest: Option<u32>) {
        if let Some(oldest) = oldest {
            self.memory.seen = self.memory.seen.take().map(|seen| seen.before(oldest));
        }
    }

    /// The slot is moved to nothing but what is covered, and that was covered up to `before`.
    pub(super) fn may_stand(&mut self, before: Lsn) {
        if self.covered_lsn != before {
            self.stood.at(self.covered_lsn);
        }
        self.stood.forget_upto(self.tip.end_lsn);
    }

    /// Base copies may end with batches that this spool has lost: no other batch takes their numbers.
    pub(crate) fn pass_over_batches(&mut self, ends: impl Iterator<Item = Lsn>) {
        let newest = ends.filter(|end| number_of(*end).is_some()).max().unwrap_or_default();
        self.covered_lsn = self.covered_lsn.max(newest);
    }

    /// Up to where the source's WAL has to be the same as when it was archived.
    pub(crate) fn needed_wal(&self) -> Lsn {
        match (&self.last_batch, number_of(self.tip.end_lsn)) {
            (Some(last), _) => last.wal,
            (None, Some(_)) => Lsn::ZERO,
            (None, None) => self.tip.end_lsn,
        }
    }

    /// All that committed up to here is safe at least in this spool.
    pub(crate) fn position(&self) -> Lsn {
        self.covered_lsn.max(self.tip.end_lsn)
    }

    /// A poll has read up to `place`, and `newest` is the last transaction that it met; `None` where it met none after
    /// what was known.
    pub(crate) fn has_read(
        &mut self,
        newest: Option<ArchivedCommit>,
        (before, place): (Lsn, Lsn),
        kind: SourceKind,
    ) {
        let known = self.newest_commit.filter(|known| known.place == before && known.kind == kind);
        let newest = newest.or(known.map(|known| known.commit));
        self.newest_commit = newest.map(|commit| LastBefore { place, commit, kind });
        if let Some(commit) = newest.filter(|newest| newest.end_lsn <= self.tip.end_lsn) {
            self.commit_before_tip = Some(LastBefore { place: self.tip.end_lsn, commit, kind });
        }
    }

    /// The last transaction up to the end of the chain, where the slot must have none between the two.
    pub(crate) fn last_before_tip(&self, kind: SourceKind) -> Option<ArchivedCommit> {
        let is_of_tip = |last: &LastBefore| last.place == self.tip.end_lsn && last.kind == kind;
        self.commit_before_tip.filter(is_of_tip).map(|last| last.commit)
    }

    /// Gaps that nobody mends are as many as there are reasons to tell them apart, and not as many as there were polls.
    pub(crate) fn add_gaps(&mut self, gaps: &[Gap]) {
        self.gaps.extend(gaps.iter().cloned());
        if self.gaps.len() <= GAPS_MAX {
            return;
        }
        let mut merged: Vec<Gap> = Vec::new();
        for gap in self.gaps.drain(..) {
            match merged.iter_mut().find(|known| known.tables == gap.tables) {
                Some(known) => {
                    known.from = known.from.min(gap.from);
                    known.to = known.to.max(gap.to);
                }
                None => merged.push(gap),
            }
        }
        self.gaps = merged;
    }

    /// Another answer of the slot that stands at `from`, which was read up to `upto`.
    pub(crate) fn read_again(&self, from: Option<Lsn>, upto: Lsn, answer_bytes: u64) -> Rereading {
        let from = from.unwrap_or_default();
        let spent =
            self.rereading.filter(|earlier| earlier.from == from).map_or(0, |earlier| earlier.spent_bytes);
        Rereading { from, upto, answer_bytes, spent_bytes: spent.saturating_add(answer_bytes) }
    }

    /// The chain has gone on by this segment.
    pub(crate) fn follow(&mut self, verified: &Verified) {
        self.tip = Tip::after(verified);
        self.covered_lsn = self.covered_lsn.max(self.tip.end_lsn);
        self.captured.told_by(verified.manifest());
        if let Some(last) = self.tip.last {
            let size = Some(head::Size::of(verified.manifest()));
            let recent = Recent { segment: last.segment, day: last.day, end_lsn: self.tip.end_lsn, size };
            self.recent.insert(0, recent);
            self.recent.truncate(Head::RECENT_MAX);
        }
    }

    /// What head.json lists of it: without a hole, from the end.
    pub(crate) fn recent(&self) -> Vec<head::Recent> {
        let mut next = self.tip.seq();
        let mut follows = |recent: &&Recent| {
            let fits = recent.segment.seq.get() == next;
            next = next.saturating_sub(1);
            fits
        };
        let listed = |recent: &Recent| {
            let name = SegmentName { seq: recent.segment.seq, end_lsn: recent.end_lsn };
            let segment = Newest { day: recent.day, name, sha256: recent.segment.sha256 };
            head::Recent { segment, size: recent.size }
        };
        self.recent.iter().take_while(&mut follows).map(listed).collect()
    }

    /// What the next manifest has to follow.
    pub(crate) fn chain_tip(&self) -> ChainTip {
        match self.tip.last {
            None => ChainTip::origin(self.archive_id),
            Some(last) => ChainTip::after(self.archive_id, last.segment, self.tip.end_lsn, last.day),
        }
    }
}

pub(super) fn read_state(root: &Path) -> Result<Option<State>> {
    let path = root.join("state.json");
    let Some(bytes) = small_file::read_own_if_there(&path, BYTES_MAX)? else { return Ok(None) };
    let refuse = |error: Error| {
        Error::new(Kind::Corrupt, format!("{} cannot be read", path.display()))
            .caused_by(error)
            .hint(super::MOVE_ASIDE)
    };
    decode(&bytes).map(Some).map_err(refuse)
}

/// The digest of all the rest: a position that a flipped bit moved must not pass for ours.
const CHECKSUM: &str = "checksum";

fn decode(bytes: &[u8]) -> Result<State> {
    let corrupt = |error: serde_json::Error| Error::new(Kind::Corrupt, error.to_string());
    let mut fields: Map<String, Value> = serde_json::from_slice(bytes).map_err(corrupt)?;
    // Spools of earlier versions have none.
    if let Some(checksum) = fields.remove(CHECKSUM)
        && checksum != digest_of(&fields)
    {
        return Err(Error::new(Kind::Corrupt, "it is not what its checksum says"));
    }
    serde_json::from_value(Value::Object(fields)).map_err(corrupt)
}

fn encode(state: &State) -> Vec<u8> {
    let value = serde_json::to_value(state).expect("a state has string keys only");
    let Value::Object(mut fields) = value else { unreachable!("a struct is an object") };
    let checksum = digest_of(&fields);
    fields.insert(CHECKSUM.to_owned(), checksum.into());
    let mut bytes = serde_json::to_vec_pretty(&fields).expect("values that came from a state");
    bytes.push(b'\n');
    bytes
}

/// Keys are sorted in it, whatever their order in the file.
fn digest_of(fields: &Map<String, Value>) -> String {
    Digest::of(&serde_json::to_vec(fields).expect("values have a text")).to_string()
}

pub(super) fn write_state(root: &Path, state: &State) -> Result<()> {
    let bytes = encode(state);
    // It would never be read again.
    if bytes.len() > BYTES_MAX {
        let message = format!("the state of the spool {} has {} bytes", root.display(), bytes.len());
        return Err(Error::new(Kind::BadInput, message).hint("capture fewer tables with one archiver"));
    }
    write_durably(&root.join("state.json"), &bytes)?;
    faults::hit("spool.state_written")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state that is understood is written and read again the same.
    #[test]
    fn fuzz_state() {
        syncdata_fuzz::replay("state", |bytes| {
            let Ok(state) = decode(bytes) else { return false };
            assert_eq!(decode(&encode(&state)).ok(), Some(state));
            true
        });
    }
}
