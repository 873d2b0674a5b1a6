//! From finished change files to segments of the spool: names, manifests, and last a manifest for a gap that lies
//! after them.

use std::collections::BTreeMap;

use syncdata_formats::Result;
use syncdata_formats::layout::SegmentName;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{FORMAT, Gap, Manifest, OpCounts, Relation, Source, SourceKind};
use syncdata_formats::name::TableName;
use syncdata_formats::proof::Cut;
use syncdata_formats::segment::Summary;
use syncdata_formats::signature::SigningKey;
use syncdata_formats::time::Timestamp;
use tracing::{info, warn};

use crate::capture::Capture;
use crate::capture::position::NAME;
use crate::segment::absent::each_once;
use crate::segment::cut::{Place, Search};
use crate::segment::scratch::Scratch;
use crate::segment::segmenter::{Finished, Harvest};
use crate::source::Described;
use crate::spool::{Spool, State};

/// What manifests say beside the changes.
#[derive(Clone, Debug)]
pub(crate) struct Circumstances {
    pub source: Source,
    pub capture: Capture,
    pub relations: BTreeMap<TableName, Relation>,
}

/// Changes by table and operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rows(pub BTreeMap<TableName, OpCounts>);

impl Rows {
    pub(crate) fn add(&mut self, more: &BTreeMap<TableName, OpCounts>) {
        for (table, counts) in more {
            let rows = self.0.entry(table.clone()).or_default();
            rows.insert += counts.insert;
            rows.update += counts.update;
            rows.delete += counts.delete;
            rows.truncate += counts.truncate;
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Published {
    pub segments: u64,
    pub records: u64,
    /// What the records are, by table.
    pub rows: Rows,
    pub gaps: Vec<Gap>,
    /// What is known of a proof's place after this answer.
    pub search: Option<Box<Search>>,
}

/// What manifests say of the source.
pub(crate) fn source(
    state: &State,
    server_version: &str,
    described: Described,
    settings: BTreeMap<String, String>,
) -> Source {
    let (kind, slot, plugin, degraded) = match described {
        Described::Wal2json { slot, plugin, degraded } => (SourceKind::Wal2json, slot, plugin, degraded),
        Described::Pgoutput { slot, plugin } => (SourceKind::Pgoutput, slot, plugin, Vec::new()),
        Described::Triggers { slot } => (SourceKind::Triggers, slot, NAME.to_owned(), Vec::new()),
    };
    Source {
        kind,
        system_identifier: state.source.system_identifier.clone(),
        timeline: state.source.timeline,
        database: state.source.database.clone(),
        server_version: server_version.to_owned(),
        slot: slot.to_string(),
        plugin,
        settings,
        degraded,
        order: None,
        batch: None,
    }
}

/// Publishes all that a stretch came to. What is missing from one position to another, or to the end of the stretch, is
/// asked of `missing_in`.
pub(crate) fn publish(
    spool: &mut Spool,
    circumstances: &Circumstances,
    harvest: Harvest<Scratch>,
    missing_in: impl Fn(Lsn, Option<Lsn>) -> Vec<Gap>,
    signing_key: Option<&SigningKey>,
) -> Result<Published> {
    let Circumstances { source, capture, relations } = circumstances;
    let mut published = Published::default();
    let (mut search, cut, mut after) = (harvest.search, harvest.cut, harvest.gaps);
    // A search that was void by the end of the answer marks nothing.
    let mark = search.as_ref().and_then(Search::mark).cloned();
    if let (Some(mark), Some(Place::Alone(end))) = (&mark, cut) {
        // Nothing comes after it that could say what is missing before it.
        let mut gaps: Vec<Gap> = after.extract_if(.., |gap| gap.to <= end).collect();
        gaps.extend(missing_in(spool.state().tip.end_lsn, Some(end)));
        let gaps = each_once(gaps);
        log(&gaps);
        let manifest = Manifest {
            proof: Some(mark.clone()),
            ..draft(spool.state(), source.clone(), capture, end, gaps)
        };
        let day = spool.state().chain_tip().day_of_next(Timestamp::now());
        spool.publish(&manifest, day, signing_key)?;
        published.segments += 1;
        published.gaps.extend(manifest.gaps);
        note_cut(spool.state(), &mut search);
        info!(segment = %manifest.seq, lsn = %end, "a mark alone is spooled");
    }
    for (number, finished) in harvest.segments.into_iter().enumerate() {
        let Finished { file, summary, last_commit, mut gaps } = finished;
        gaps.extend(missing_in(summary.start_lsn, Some(summary.end_lsn)));
        let gaps = each_once(gaps);
        log(&gaps);

        let is_marked = cut == Some(Place::After(number));
        let draft = Manifest {
            proof: mark.clone().filter(|_| is_marked),
            ..draft(spool.state(), source.clone(), capture, summary.end_lsn, gaps)
        };
        let manifest = with_changes(draft, &summary, relations);
        let day = spool.state().chain_tip().day_of_next(summary.last_commit_ts);
        spool.keep_changes(&file.path, &file.file, &manifest.name().file(day))?;

        published.segments += 1;
        published.records += summary.records;
        published.rows.add(&summary.tables);
        published.gaps.extend(manifest.gaps.iter().cloned());
        spool.publish(&manifest, day, signing_key)?;
        if manifest.proof.is_some() {
            note_cut(spool.state(), &mut search);
        }
        spool.update(|state| state.last_commit = last_commit)?;
        info!(
            segment = %manifest.seq, lsn = %manifest.end_lsn, records = summary.records,
            bytes = summary.bytes, "segment spooled"
        );
    }

    let mut gaps = after;
    gaps.extend(missing_in(spool.state().tip.end_lsn, None));
    let gaps = each_once(gaps);
    // It says no more than what is missing, and so it ends where that does.
    if let Some(end) = gaps.iter().map(|gap| gap.to).max() {
        let manifest = publish_gap(spool, source.clone(), capture, end, gaps, signing_key)?;
        published.gaps.extend(manifest.gaps);
        published.segments += 1;
    }
    if let Some(search) = &mut search {
        search.missed(&published.gaps);
    }
    published.search = search.map(Box::new);
    Ok(published)
}

/// The segment that was published last is where the proof's snapshot stands.
fn note_cut(state: &State, search: &mut Option<Search>) {
    if let (Some(search), Some(link)) = (search, state.chain_tip().previous()) {
        search.marked(Cut { seq: link.seq, sha256: link.sha256, end_lsn: state.tip.end_lsn });
    }
}

/// Publishes a segment that only says what is missing.
pub(crate) fn publish_gap(
    spool: &mut Spool,
    source: Source,
    capture: &Capture,
    end: Lsn,
    gaps: Vec<Gap>,
    signing_key: Option<&SigningKey>,
) -> Result<Manifest> {
    log(&gaps);
    let manifest = draft(spool.state(), source, capture, end, gaps);
    let day = spool.state().chain_tip().day_of_next(Timestamp::now());
    spool.publish(&manifest, day, signing_key)?;
    spool.update(|state| {
        state.captured.uncounted(|table| manifest.gaps.iter().any(|gap| gap.concerns(table)))
    })?;
    Ok(manifest)
}

fn log(gaps: &[Gap]) {
    for Gap { from, to, reason, tables } in gaps {
        let tables = tables.iter().flatten().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        warn!(%from, %to, reason, tables, "gap: changes are missing");
    }
}

/// A manifest without changes.
fn draft(state: &State, source: Source, capture: &Capture, end_lsn: Lsn, gaps: Vec<Gap>) -> Manifest {
    let tip = state.chain_tip();
    Manifest {
        format: FORMAT,
        archive_id: state.archive_id,
        seq: tip.next_seq(),
        previous: tip.previous(),
        file: None,
        records: 0,
        transactions: 0,
        tables: BTreeMap::new(),
        start_lsn: state.tip.end_lsn,
        end_lsn,
        span: None,
        source,
        capture: capture.tables.iter().cloned().collect(),
        capture_since: state.captured.news(end_lsn),
        relations: BTreeMap::new(),
        gaps,
        proof: None,
        created_at: Timestamp::now(),
        archiver: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn with_changes(draft: Manifest, summary: &Summary, relations: &BTreeMap<TableName, Relation>) -> Manifest {
    let name = SegmentName { seq: draft.seq, end_lsn: summary.end_lsn };
    let named = |table: &TableName| relations.get(table).map(|relation| (table.clone(), relation.clone()));
    Manifest {
        file: Some(summary.change_file(name)),
        records: summary.records,
        transactions: summary.transactions,
        tables: summary.tables.clone(),
        span: Some(summary.span),
        relations: summary.tables.keys().filter_map(named).collect(),
        ..draft
    }
}
