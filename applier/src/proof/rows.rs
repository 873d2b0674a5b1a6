//! Which rows of a table differ from what the archive says of them, who is to blame, and their repair.
//!
//! A proof speaks of the cut; rows are compared where the table stands now. A row that differed and is gone since is gone.

use std::sync::Arc;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::manifest::{Column, Relation};
use syncdata_formats::name::TableName;
use syncdata_formats::printed::identifier;
use syncdata_service::config::Config;
use syncdata_service::postgres::ServerContext as _;

use super::blame::Proof;
use super::difference::Difference;
use super::mend;
use super::rebuilt::{Rebuilt, Wanted, not_applied};
use super::record;
use super::report::{Asked, Blame, Report};
use super::verdict::computed_words;
use crate::archive::hand_files::HandFiles;
use crate::load::{Halt, Pair, Refusal};
use crate::plan::offer::take_snapshot;
use crate::plan::state::State;
use crate::table;
use crate::target::postgres::apply::FREE_PLANS;
use crate::target::postgres::cursor::{self, Cursor};
use crate::target::postgres::local::Local;
use crate::target::postgres::schema;

/// Nobody applies meanwhile: a table that moves cannot be compared.
pub async fn look(config: &Config, asked: &Asked) -> Result<Report> {
    let files = HandFiles::open(config)?;
    let local = Local::open(config).await?;
    local.lock_pass().await?;
    let mut report = Report { table: asked.table.to_string(), ..Report::default() };

    let (client, meta) = (local.session.client(), &local.meta);
    let states = cursor::table_states(client, meta).await?;
    let Some(state) = states.get(&asked.table) else {
        return Err(Error::new(Kind::NotFound, format!("{} is not in the whitelist", asked.table))
            .hint("syncdata-applier list-tables shows what is"));
    };
    let checkpoint = Cursor::of_group(meta, &state.group).read(client).await?;
    let Some(archive_id) = checkpoint.archive_id else { return Err(not_applied()) };
    // Of a table that a base copy brought, which nothing has followed, there is no segment yet.
    let applied = checkpoint.segment;
    if state.state != State::Live {
        let reason = state.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        return Err(Error::new(Kind::Rejected, format!("{} is {}{reason}", asked.table, state.state))
            .hint("only a table that is live can be compared"));
    }
    let Some(reached) = state.position.max(applied.map(|applied| applied.end_lsn)) else {
        return Err(not_applied());
    };
    report.lsn = reached.to_string();
    let found = files.source.identity().await?.archive_id;
    if found != archive_id {
        let message =
            format!("{} holds archive {found}, this copy belongs to {archive_id}", files.source.location());
        return Err(Error::new(Kind::Foreign, message).hint("nothing was changed; check archive_dir"));
    }
    let table = schema::load(client, std::slice::from_ref(&asked.table)).await?.remove(&asked.table);
    let Some(table) = table else {
        return Err(Error::new(Kind::NotFound, format!("Table not found locally: {}", asked.table)));
    };

    let proof = match Proof::of(&local, &files, archive_id, &asked.table).await {
        Ok(proof) => proof,
        Err(Halt::Refused(refusal)) => {
            report.unknown = Some(refusal.reason);
            None
        }
        Err(Halt::Failed(error)) => return Err(error),
    };
    if let Some(proof) = &proof {
        report.proof_id = Some(proof.id.to_string());
        report.cut_lsn = Some(proof.cut.end_lsn.to_string());
    }
    let wanted = Wanted {
        local: &local,
        source: &files.source,
        archive_id,
        applied,
        table: Arc::new(table),
        reached,
        proved: proof.as_ref().map(|proof| (proof.cut, proof.marked.clone())),
    };
    let work = compared(&wanted, asked, proof.as_ref(), &mut report);
    local.in_transaction(work).await?;
    Ok(report)
}

async fn compared(
    wanted: &Wanted<'_>,
    asked: &Asked,
    proof: Option<&Proof>,
    report: &mut Report,
) -> Result<()> {
    let local = wanted.local;
    let client = local.session.client();
    client.batch_execute(FREE_PLANS).await.context(|| "preparing the transaction".to_owned())?;
    let rebuilt = match wanted.make().await {
        Ok(rebuilt) => rebuilt,
        Err(Halt::Failed(error)) => return Err(error),
        Err(Halt::Refused(Refusal { reason, .. })) => {
            let differs = report.unknown.is_some() || proof.is_some_and(|proof| proof.differs);
            report.blame = differs.then_some(Blame::Unknown);
            report.unknown = Some(reason);
            report.remedy = Some(format!("a new snapshot: {}", take_snapshot(&asked.table)));
            return note_blame(local, proof, report).await;
        }
    };
    report.base = Some(rebuilt.base.clone());
    let blamed = match proof {
        Some(proof) => proof.blame(rebuilt.at_cut.as_ref(), report),
        None => report.unknown.as_ref().map(|_| Blame::Unknown),
    };

    let pair = pair(&rebuilt, local.replica)?;
    let difference = Difference { pair: &pair, key: &rebuilt_key(&rebuilt) };
    report.differing = Some(difference.list(client, asked.key.as_deref(), &mut report.rows).await?);
    if let Some(key) = asked.key.as_deref().filter(|_| report.differing == Some(0))
        && !difference.has(client, key).await?
    {
        report.differing = None;
        report.unknown = Some("neither the copy nor the archive has a row of that key".to_owned());
    }
    let untold = wanted.proved.as_ref().and_then(|(_, marked)| untold(&marked.relation, &pair));
    let is_open = report.differing == Some(0) && proof.is_some_and(|proof| proof.differs);
    let untold = untold.filter(|_| is_open);
    let otherwise = proof.map(|proof| proof.computed_otherwise.clone()).unwrap_or_default();
    let is_computed = is_open && !otherwise.is_empty();
    if asked.key.is_none() {
        describe(report, blamed);
        if let Some(column) = untold {
            report.differing = None;
            report.blame = Some(Blame::Unknown);
            let column = identifier(column);
            report.unknown =
                Some(format!("no change has told yet what rows have in the newer column {column}"));
            let (take, word) = (take_snapshot(&asked.table), asked.table.shell_word());
            report.remedy =
                Some(format!("a new snapshot: {take}; then here: syncdata-applier resync {word}"));
        }
        if is_computed {
            report.differing = None;
            report.blame = Some(Blame::Local);
            report.unknown = Some(format!("{}; all that travels is equal", computed_words(&otherwise)));
            report.remedy = Some(format!(
                "make these columns as they are at production, or the database with its collation; then: {}, and here: \
                 syncdata-applier resync {}",
                take_snapshot(&asked.table),
                asked.table.shell_word()
            ));
        }
        note_blame(local, proof, report).await?;
    }
    if untold.is_some() || is_computed {
        return Ok(());
    }
    if asked.repair && !report.buckets.is_empty() {
        // Somebody may have brought rows of these to what production has, before the proof or after it.
        report.unknown = Some(
            "nothing was repaired: production and its stream disagree, and rows that are not as the archive says may be \
             production's"
                .to_owned(),
        );
    } else if asked.repair && report.differing != Some(0) {
        mend::repair(local, asked, &pair, &difference, report).await?;
        if let Some(base) = rebuilt.base_lsn {
            cursor::note_base(client, &local.meta, &asked.table, base).await?;
        }
    } else if asked.repair {
        mend::clear(local, asked, report).await?;
        report.repaired = Some(0);
    }
    Ok(())
}

/// What to do about it, and who it was.
fn describe(report: &mut Report, blamed: Option<Blame>) {
    let rows_differ = report.differing != Some(0);
    let blame = match (blamed, rows_differ) {
        (Some(blame), _) => Some(blame),
        (None, true) => Some(Blame::Local),
        (None, false) => None,
    };
    report.blame = blame;
    let table = &report.table;
    let word = TableName::word_of(table);
    report.remedy = match blame {
        // Only the archive can be compared with: what production has, a new proof says.
        Some(Blame::Unknown) if report.unknown.is_some() => {
            if !rows_differ {
                report.differing = None;
            }
            let repair = format!("syncdata-applier consistency repair {word}, then ");
            let first = if rows_differ { repair.as_str() } else { "" };
            Some(format!("{first}a new proof, run on the production host: syncdata-archiver proof"))
        }
        Some(Blame::Stream | Blame::Both) => {
            // What the archive says is not what production has: rows that agree with it say nothing.
            if !rows_differ {
                report.differing = None;
                report.unknown = Some("production and its stream disagree".to_owned());
            }
            let name: Option<TableName> = table.parse().ok();
            let take = name.map(|name| take_snapshot(&name)).unwrap_or_default();
            Some(format!(
                "a new snapshot: {take}; then here: syncdata-applier resync {word}; then a new proof, on the production \
                 host: syncdata-archiver proof"
            ))
        }
        Some(Blame::Local) if rows_differ => Some(format!("syncdata-applier consistency repair {word}")),
        Some(Blame::Local) => Some("none: what differed at the cut is gone since".to_owned()),
        Some(Blame::Unknown) => Some(format!("syncdata-applier resync {word}")),
        None => None,
    };
}

async fn note_blame(local: &Local, proof: Option<&Proof>, report: &Report) -> Result<()> {
    match (proof, &report.blame) {
        (Some(proof), Some(blame)) if proof.differs => {
            let table = report.table.parse()?;
            record::blame(local, &proof.id, &table, blame.as_str()).await
        }
        _ => Ok(()),
    }
}

/// A column that the proof compares, and that nobody can say of a table made from the archive alone.
fn untold<'r>(proved: &'r Relation, pair: &Pair<'_>) -> Option<&'r str> {
    let is_untold = |column: &&Column| {
        let place = pair.table.column(&column.name);
        column.generated.is_none() && place.is_some_and(|place| !pair.columns.contains(&place))
    };
    proved.columns.iter().find(is_untold).map(|column| column.name.as_str())
}

fn rebuilt_key(rebuilt: &Rebuilt) -> Vec<usize> {
    table::fit(&rebuilt.copy.relation, &rebuilt.copy.table)
        .map(|target| target.key.columns)
        .unwrap_or_default()
}

fn pair(rebuilt: &Rebuilt, replica: bool) -> Result<Pair<'_>> {
    let copy = &rebuilt.copy;
    let target = table::fit(&copy.relation, &copy.table).map_err(|difference| {
        Error::new(Kind::Rejected, format!("{} does not fit: {difference}", copy.table.name))
    })?;
    let columns = match copy.columns.as_slice() {
        [] => (0..copy.table.columns.len()).filter(|place| !copy.table.columns[*place].generated).collect(),
        columns => columns.to_vec(),
    };
    // The key that has no immediate unique index: rows are counted by what they print.
    let is_key = target.key.arbiter;
    let unique = copy.table.unique.iter().find(|unique| {
        is_key
            && unique.immediate
            && unique.columns.len() == target.key.columns.len()
            && target.key.columns.iter().all(|column| unique.columns.contains(column))
    });
    let key = unique.map_or(&[][..], |unique| unique.columns.as_slice());
    Ok(Pair { table: &copy.table, shadow: &copy.shadow, key, columns, replica })
}
