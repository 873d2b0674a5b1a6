//! The mark of a proof, as the segment at its cut has it.

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Link;
use syncdata_formats::name::TableName;
use syncdata_formats::proof::{MarkedTable, ProofManifest};
use uuid::Uuid;

use crate::archive::source::Source;
use crate::archive::stretch::stretch;
use crate::plan::position::Applied;

/// How production counted the table, and the place itself.
pub(crate) async fn marked(
    source: &Source,
    archive_id: Uuid,
    proof: &ProofManifest,
    table: &TableName,
) -> Result<(MarkedTable, Applied)> {
    let cut = &proof.cut;
    let refused = |why: String| {
        Error::new(Kind::Foreign, format!("proof {} is refused: {why}", proof.id))
            .hint("have a new one made: syncdata-archiver proof; syncdata-applier verify names what is wrong")
    };
    let Some(proved) = proof.tables.get(table) else {
        return Err(refused(format!("it says nothing of {table}")));
    };
    let link = Link { seq: cut.seq, sha256: cut.sha256 };
    let just_before = Lsn::from_u64(cut.end_lsn.as_u64().saturating_sub(1));
    let segments = match stretch(source, archive_id, link, cut.end_lsn, just_before).await {
        Err(error) if error.kind() == Kind::Foreign => {
            let words = error.one_line();
            return Err(refused(format!("it is not of the segment {} that is there: {words}", cut.seq)));
        }
        segments => segments?,
    };
    let is_of_it =
        |marked: &&MarkedTable| (marked.k, marked.relation.fingerprint) == (proved.k, proved.relation);
    let segment = segments.last();
    let mark = segment.and_then(|segment| segment.manifest().proof.as_ref());
    let mark = mark.filter(|mark| mark.id == proof.id).and_then(|mark| mark.tables.get(table));
    match (segment, mark.filter(is_of_it)) {
        (Some(segment), Some(marked)) => {
            let at = Applied { link, end_lsn: cut.end_lsn, day: segment.day() };
            Ok((marked.clone(), at))
        }
        _ => Err(refused(format!("segment {} does not have its mark", cut.seq))),
    }
}
