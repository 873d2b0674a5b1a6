//! A table made anew from the archive alone, beside the live one: as of the cut, and then as of the checkpoint.
//! Production is asked for nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use syncdata_formats::chain::Verified;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::layout::SegmentSeq;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Relation;
use syncdata_formats::name::TableName;
use syncdata_formats::proof::{Buckets, Cut, Layout, MarkedTable};
use syncdata_service::progress::{Progress, Unit};
use uuid::Uuid;

use super::digest;
use crate::archive::source::Source;
use crate::archive::stretch::stretch;
use crate::load::columns::{bridge, first_said, old_values, told};
use crate::load::{self, Base, Copy, Halt, Known, Refusal, shadow};
use crate::plan::offer::{Choice, Offer};
use crate::plan::position::Applied;
use crate::plan::state::Want;
use crate::plan::{GapName, concerns};
use crate::table::Table;
use crate::target::postgres::apply::Writer;
use crate::target::postgres::cursor::Cursor;
use crate::target::postgres::local::Local;

/// What the archive says of a table.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    /// Of the table as of the cut; `None`: no base is old enough for it.
    pub at_cut: Option<Buckets>,
    /// As of the checkpoint.
    pub copy: Copy,
    pub base: String,
    /// Where it begins, if it is a base copy.
    pub base_lsn: Option<Lsn>,
}

/// What is to be made.
pub(crate) struct Wanted<'a> {
    pub local: &'a Local,
    pub source: &'a Source,
    pub archive_id: Uuid,
    /// The last segment that was applied; `None`: all that is here came with base copies.
    pub applied: Option<Applied>,
    pub table: Arc<Table>,
    /// Its own position: a base copy may have brought it further than the checkpoint is.
    pub reached: Lsn,
    /// Where a proof speaks of it.
    pub proved: Option<(Cut, MarkedTable)>,
}

impl Wanted<'_> {
    /// Inside a transaction that somebody else ends. Refused: the archive does not say how the table is.
    pub(super) async fn make(&self) -> Result<Rebuilt, Halt> {
        let newest = self.newest_base().await?;
        let Some((cut, marked)) = self.proved.as_ref().filter(|(cut, _)| !base_is_from_before(&newest, cut))
        else {
            let shadow = self.shadow().await?;
            return self.make_from(newest, shadow, None).await;
        };
        // What the stream never said may have come with the newer base: only it says how the table is now, and only an
        // older one how it was at the cut.
        let at_cut = self.made_at(cut, marked).await?;
        let shadow = self.shadow().await?;
        let rebuilt = self.make_from(newest, shadow, None).await?;
        Ok(Rebuilt { at_cut, ..rebuilt })
    }

    /// In a shadow that is there already: making one locks the live table until the transaction ends.
    pub(crate) async fn make_in(&self, shadow: Arc<Table>) -> Result<Rebuilt, Halt> {
        let base = self.newest_base().await?;
        self.make_from(base, shadow, None).await
    }

    /// Takes the place of an earlier one.
    async fn shadow(&self) -> Result<Arc<Table>> {
        shadow::make(self.local.session.client(), &self.table, 0).await
    }

    /// The table as it was there; `None`: the archive does not say.
    async fn made_at(&self, cut: &Cut, marked: &MarkedTable) -> Result<Option<Buckets>> {
        let Some(base) = self.base_before(cut).await? else { return Ok(None) };
        let shadow = self.shadow().await?;
        match self.make_from(base, shadow, Some(cut)).await {
            Ok(made) => {
                let (client, layout) = (self.local.session.client(), Layout::of(&marked.relation));
                Ok(Some(digest::rows(client, &made.copy.shadow, &layout, marked.k, drop).await?))
            }
            Err(Halt::Failed(error)) => Err(error),
            Err(Halt::Refused(Refusal { reason, .. })) => {
                tracing::info!(table = %self.table.name, reason, "the archive does not say how it was at the cut");
                Ok(None)
            }
        }
    }

    /// As of the checkpoint, or as of `end`.
    async fn make_from(&self, base: Base, shadow: Arc<Table>, end: Option<&Cut>) -> Result<Rebuilt, Halt> {
        let name = &self.table.name;
        let mut known = base.known();
        let mut segments = match self.applied {
            Some(applied) => {
                stretch(self.source, self.archive_id, applied.link, applied.end_lsn, known.upto).await?
            }
            None => Vec::new(),
        };
        // Before anything is cut off: where the archive begins later than all that is wanted, nothing would be left to tell.
        if let Some(reason) = begins_late(&base, &segments, known.upto) {
            return Err(Halt::refused(name, reason));
        }
        if let Some(end) = end {
            segments.truncate(segments.partition_point(|segment| segment.manifest().seq <= end.seq));
        }
        if let Some(reason) = unreachable_from(&base, &segments, name, known.upto) {
            return Err(Halt::refused(name, reason));
        }
        let client = self.local.session.client();
        let mut copy = load::fill(self.local, self.source, &base, &self.table, shadow).await?;
        self.bridge(&base, &mut copy, &segments).await?;

        let (until_cut, after) = self.parted(&segments, &base);
        let mut copies = BTreeMap::from([(name.clone(), copy)]);
        self.catch_up(until_cut, &mut known, &mut copies).await?;
        let at_cut = match self.proved.as_ref().filter(|(cut, _)| base_is_from_before(&base, cut)) {
            Some((_, marked)) if end.is_none() => {
                let (layout, shadow) = (Layout::of(&marked.relation), &copies[name].shadow);
                Some(digest::rows(client, shadow, &layout, marked.k, drop).await?)
            }
            _ => None,
        };
        self.catch_up(after, &mut known, &mut copies).await?;
        let copy = copies.remove(name).expect("nobody takes it away");
        let base_lsn = match &base {
            Base::Snapshot(snapshot) => Some(snapshot.start_lsn),
            Base::Start { .. } => None,
        };
        Ok(Rebuilt { at_cut, copy, base: base.name(), base_lsn })
    }

    /// What a resync would begin with.
    async fn newest_base(&self) -> Result<Base, Halt> {
        let name = &self.table.name;
        match self.choose(self.reached, Want::Auto).await? {
            Choice::Snapshot(snapshot) => Ok(Base::Snapshot(snapshot)),
            Choice::Start(from) => Ok(Base::Start { from }),
            Choice::Wait(id) => {
                let place = self.reached;
                let reason =
                    format!("snapshot {id} is from after {place}: sync first, or have a new proof made");
                Err(Halt::refused(name, reason))
            }
            Choice::Nothing(reason) => Err(Halt::refused(name, reason)),
        }
    }

    /// Only one from before the cut can say how the table was there.
    async fn base_before(&self, cut: &Cut) -> Result<Option<Base>> {
        let applied = self.applied.map_or(self.reached, |applied| applied.end_lsn);
        let chosen = match self.choose(cut.end_lsn.min(applied), Want::Auto).await? {
            // All snapshots came later: perhaps it needs none.
            Choice::Wait(_) => self.choose(cut.end_lsn, Want::Start).await?,
            chosen => chosen,
        };
        Ok(match chosen {
            Choice::Snapshot(snapshot) => Some(Base::Snapshot(snapshot)),
            Choice::Start(from) => Some(Base::Start { from }),
            Choice::Wait(_) | Choice::Nothing(_) => None,
        })
    }

    async fn choose(&self, reached: Lsn, want: Want) -> Result<Choice> {
        let snapshots = self.source.snapshots(self.archive_id).await?;
        let floor = self.source.floor().await?;
        let since = Cursor::of(&self.local.meta).capture_since(self.local.session.client()).await?;
        let offer = Offer { snapshots: &snapshots, floor: floor.as_ref(), reached, since: &since };
        Ok(offer.choose(&self.table.name, want))
    }

    /// The segments up to the cut, and those after it.
    fn parted<'s>(&self, segments: &'s [Verified], base: &Base) -> (&'s [Verified], &'s [Verified]) {
        let place = match &self.proved {
            Some((cut, _)) if base_is_from_before(base, cut) => {
                segments.partition_point(|segment| segment.manifest().seq <= cut.seq)
            }
            _ => segments.len(),
        };
        segments.split_at(place)
    }

    /// Rows of the base are older than columns which came later: they get what such rows have at the source.
    async fn bridge(&self, base: &Base, copy: &mut Copy, segments: &[Verified]) -> Result<(), Halt> {
        let name = &self.table.name;
        let manifests = segments.iter().map(Verified::manifest);
        let since = told(manifests, name, Some(&copy.relation), base.end());
        let Some(now) = since.last().map(|told| told.relation.clone()) else { return Ok(()) };
        let now = first_said(now, since.iter().map(|told| told.relation.clone()));
        let is_first = matches!(base, Base::Start { .. });
        let before = match is_first {
            true => since[0].relation.clone(),
            false => Relation::clone(&copy.relation),
        };
        let values = bridge(&before, &since, &now).map_err(|reason| {
            Halt::refused(name, format!("{} is older than the table as it is: {reason}", base.name()))
        })?;
        let values = if is_first { old_values(&now) } else { values };
        copy.add_columns(&now);
        match shadow::fill_old_rows(self.local.session.client(), copy, &values, !is_first).await? {
            Some(reason) => Err(Halt::refused(name, reason)),
            None => Ok(()),
        }
    }

    async fn catch_up(
        &self,
        segments: &[Verified],
        known: &mut Known,
        copies: &mut BTreeMap<TableName, Copy>,
    ) -> Result<(), Halt> {
        let mut writer = Writer::new(self.local.replica);
        writer.begin(self.local.session.client()).await?;
        let bytes =
            segments.iter().filter_map(|segment| segment.manifest().file.as_ref()).map(|file| file.bytes);
        let mut progress = Progress::start("applying changes", Unit::Bytes, Some(bytes.sum()));
        for segment in segments {
            let manifest = segment.manifest();
            if manifest.tables.contains_key(&self.table.name) {
                let fetched = [self.source.fetch_file(segment.clone()).await?];
                let session = &self.local.session;
                let done = load::catch_up::catch_up(session, &mut writer, &fetched, known, copies).await;
                fetched.iter().try_for_each(|fetched| fetched.clean())?;
                let missing = done?.missing;
                if !missing.is_empty() {
                    let (seq, rows): (_, u64) = (manifest.seq, missing.values().sum());
                    let reason = format!("segment {seq} changes {rows} rows that the archive does not have");
                    return Err(Halt::refused(&self.table.name, reason));
                }
            }
            known.upto = known.upto.max(manifest.end_lsn);
            progress.add(manifest.file.as_ref().map_or(0, |file| file.bytes));
        }
        progress.finish();
        Ok(())
    }
}

fn base_is_from_before(base: &Base, cut: &Cut) -> bool {
    match base {
        Base::Snapshot(snapshot) => snapshot.end_lsn <= cut.end_lsn,
        Base::Start { .. } => true,
    }
}

fn begins_late(base: &Base, segments: &[Verified], upto: Lsn) -> Option<String> {
    let first = segments.first()?.manifest();
    let is_late = first.start_lsn > upto && first.seq != SegmentSeq::FIRST;
    is_late.then(|| format!("the archive begins at {}, after {}", first.start_lsn, base.name()))
}

/// Why changes between the base and the checkpoint are not all there.
fn unreachable_from(base: &Base, segments: &[Verified], table: &TableName, upto: Lsn) -> Option<String> {
    let manifests = || segments.iter().map(Verified::manifest);
    if matches!(base, Base::Snapshot(_))
        && let Some(manifest) = manifests().find(|manifest| !manifest.capture.contains(table))
    {
        return Some(format!("segment {} did not capture it", manifest.seq));
    }
    let mut gaps = manifests().flat_map(|manifest| &manifest.gaps);
    let lost = gaps.find(|gap| gap.to > upto && concerns(gap, table))?;
    Some(format!("changes {} of it are lost ({})", GapName::from(lost), lost.reason))
}

pub(super) fn not_applied() -> Error {
    Error::new(Kind::NotFound, "nothing was applied here yet")
        .hint(
            "syncdata-applier sync applies what the archive has; where production is idle, a proof makes the first segment: \
             syncdata-archiver proof",
        )
}
