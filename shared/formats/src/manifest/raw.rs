//! A manifest as its JSON is: fields that stand or fall together are still apart.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ChangeFile, Gap, Link, Manifest, OpCounts, Relation, Since, Source, Span};
use crate::digest::Digest;
use crate::json;
use crate::layout::SegmentSeq;
use crate::lsn::Lsn;
use crate::name::TableName;
use crate::proof::Mark;
use crate::time::Timestamp;

#[derive(Deserialize)]
pub(super) struct RawManifest {
    format: u64,
    #[serde(deserialize_with = "json::one_spelling")]
    archive_id: uuid::Uuid,
    seq: SegmentSeq,
    #[serde(deserialize_with = "json::null_must_be_said")]
    previous: Option<Link>,
    file: Option<String>,
    bytes: Option<u64>,
    sha256: Option<Digest>,
    content_bytes: Option<u64>,
    content_sha256: Option<Digest>,
    records: u64,
    transactions: u64,
    tables: BTreeMap<TableName, OpCounts>,
    start_lsn: Lsn,
    end_lsn: Lsn,
    first_ts: Option<Timestamp>,
    last_ts: Option<Timestamp>,
    min_xid: Option<u32>,
    max_xid: Option<u32>,
    source: Source,
    capture: Vec<TableName>,
    #[serde(default)]
    capture_since: BTreeMap<TableName, Since>,
    relations: BTreeMap<TableName, Relation>,
    #[serde(default)]
    gaps: Vec<Gap>,
    proof: Option<Mark>,
    created_at: Timestamp,
    archiver: String,
}

impl TryFrom<RawManifest> for Manifest {
    type Error = &'static str;

    fn try_from(raw: RawManifest) -> Result<Manifest, &'static str> {
        let file = match (raw.file, raw.bytes, raw.sha256, raw.content_bytes, raw.content_sha256) {
            (Some(file), Some(bytes), Some(sha256), Some(content_bytes), Some(content_sha256)) => {
                Some(ChangeFile { file, bytes, sha256, content_bytes, content_sha256 })
            }
            (None, None, None, None, None) => None,
            _ => {
                return Err(
                    "file, bytes, sha256, content_bytes, content_sha256: some are there and some are not",
                );
            }
        };
        let span = match (raw.first_ts, raw.last_ts, raw.min_xid, raw.max_xid) {
            (Some(first_ts), Some(last_ts), Some(min_xid), Some(max_xid)) => {
                Some(Span { first_ts, last_ts, min_xid, max_xid })
            }
            (None, None, None, None) => None,
            _ => return Err("first_ts, last_ts, min_xid, max_xid: some are there and some are not"),
        };
        Ok(Manifest {
            format: raw.format,
            archive_id: raw.archive_id,
            seq: raw.seq,
            previous: raw.previous,
            file,
            records: raw.records,
            transactions: raw.transactions,
            tables: raw.tables,
            start_lsn: raw.start_lsn,
            end_lsn: raw.end_lsn,
            span,
            source: raw.source,
            capture: raw.capture,
            capture_since: raw.capture_since,
            relations: raw.relations,
            gaps: raw.gaps,
            proof: raw.proof,
            created_at: raw.created_at,
            archiver: raw.archiver,
        })
    }
}
