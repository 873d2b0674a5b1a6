//! Which rows of a table differ from what the archive says of them, who is to blame, and their repair.
//!
//! A proof speaks of the cut; rows are compared where the table stands now. A row that differed and is gone since is gone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::pin::pin;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use postgres_protocol::escape::escape_literal;
use serde::Serialize;
use syncdata_formats::error::{Error, Kind, Result, escape_control};
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::{Client, Row};

use super::blame::Proof;
use super::mend;
use super::rebuilt::{Rebuilt, Wanted, not_applied};
use super::record;
use crate::archive::hand_files::HandFiles;
use crate::load::Pair;
use crate::plan::offer::take_snapshot;
use crate::plan::state::State;
use crate::table;
use crate::target::postgres::apply::FREE_PLANS;
use crate::target::postgres::cursor::{self, Checkpoint};
use crate::target::postgres::local::Local;
use crate::target::postgres::schema;

/// More rows are counted and not listed.
pub const LISTED_MAX: usize = 1000;

/// What is wrong with a table, and whose doing it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub table: String,
    /// Where the table stands: rows are compared there.
    pub lsn: String,
    /// Where the archive's rows are from; nothing where it does not tell.
    pub base: Option<String>,
    /// The proof that was looked at; nothing where there is none.
    pub proof_id: Option<String>,
    pub cut_lsn: Option<String>,
    /// `local`, `stream`, `both`, `unknown`; nothing where all is equal.
    pub blame: Option<String>,
    /// Rows that are not as the archive says; `None`: nobody knows.
    pub differing: Option<u64>,
    pub rows: Vec<RowDifference>,
    /// Of the proof, where production and its stream disagree: no row can be named.
    pub buckets: Vec<BucketDifference>,
    /// Why nobody knows.
    pub unknown: Option<String>,
    pub remedy: Option<String>,
    /// What a repair did, and that it was compared afterwards.
    pub repaired: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowDifference {
    /// Empty for a table without one.
    pub key: BTreeMap<String, Option<String>>,
    /// `changed`, `missing`, `surplus`
    pub kind: &'static str,
    pub columns: Vec<ColumnDifference>,
    /// Rows that are the same, of a table without a key.
    pub times: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnDifference {
    pub column: String,
    pub local: Option<String>,
    pub archive: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BucketDifference {
    pub bucket: u32,
    pub source_rows: u64,
    pub archive_rows: u64,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    pub table: TableName,
    /// One row alone.
    pub key: Option<Vec<String>>,
    /// Bring the rows that differ to what the archive says.
    pub repair: bool,
}

impl Report {
    /// 1: it differs. 2: nobody knows. 0: all is as the archive says, and nothing else is wrong.
    pub fn exit_code(&self) -> u8 {
        let is_mended = self.repaired.is_some() && self.buckets.is_empty();
        match self.differing {
            _ if !self.buckets.is_empty() => 1,
            Some(0) => 0,
            // Nobody knows whether production has these rows.
            Some(_) if is_mended && self.unknown.is_some() => 2,
            Some(_) if is_mended => 0,
            Some(_) => 1,
            None => 2,
        }
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |words: &str| writeln!(text, "{}", escape_control(words)).expect("a String takes all");
        for row in &self.rows {
            let key: Vec<String> =
                row.key.iter().map(|(name, value)| format!("{name}={}", shown(value.as_deref()))).collect();
            let times = if row.times > 1 { format!(" ({} times)", row.times) } else { String::new() };
            line(&format!("{} {}: {}{times}", self.table, key.join(" "), row.kind));
            for ColumnDifference { column, local, archive } in &row.columns {
                let (local, archive) = (shown(local.as_deref()), shown(archive.as_deref()));
                match row.kind {
                    "missing" => line(&format!("  {column}: {archive}")),
                    "surplus" => line(&format!("  {column}: {local}")),
                    _ => line(&format!("  {column}: here {local}, in the archive {archive}")),
                }
            }
        }
        for BucketDifference { bucket, source_rows, archive_rows } in &self.buckets {
            line(&format!(
                "bucket {bucket}: {source_rows} rows at production, {archive_rows} in the archive: they disagree"
            ));
        }
        if let Some(unknown) = &self.unknown {
            line(&format!("not known: {unknown}"));
        }
        let differing = self.differing.map_or_else(|| "-".to_owned(), |rows| rows.to_string());
        match self.repaired {
            Some(rows) => line(&format!("repaired: {rows} rows, compared again as of {}: equal", self.lsn)),
            None => line(&format!("rows that differ as of {}: {differing}", self.lsn)),
        }
        if let Some(proof) = &self.proof_id {
            line(&format!("proof: {proof}, as of {}", self.cut_lsn.as_deref().unwrap_or("-")));
        }
        if let Some(blame) = &self.blame {
            line(&format!("blame: {blame}"));
        }
        if let Some(remedy) = &self.remedy {
            line(&format!("remedy: {remedy}"));
        }
        text
    }
}

fn shown(value: Option<&str>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |text| format!("{text:?}"))
}

/// Nobody applies meanwhile: a table that moves cannot be compared.
pub async fn look(config: &Config, asked: &Asked) -> Result<Report> {
    let files = HandFiles::open(config)?;
    let local = Local::open(config).await?;
    local.lock_pass().await?;
    let mut report = Report { table: asked.table.to_string(), ..Report::default() };

    let (client, meta) = (local.session.client(), &local.meta);
    let checkpoint = Checkpoint::read(client, meta).await?;
    let Some(archive_id) = checkpoint.archive_id else { return Err(not_applied()) };
    // Of a table that a base copy brought, which nothing has followed, there is no segment yet.
    let applied = checkpoint.segment;
    let states = cursor::table_states(client, meta).await?;
    let Some(state) = states.get(&asked.table) else {
        return Err(Error::new(Kind::NotFound, format!("{} is not in the whitelist", asked.table))
            .hint("syncdata-applier list-tables shows what is"));
    };
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

    let proof = match Proof::of(&local, &files, archive_id, &asked.table).await? {
        Ok(proof) => proof,
        Err(reason) => {
            report.unknown = Some(reason);
            None
        }
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
    let rebuilt = match wanted.make().await? {
        Ok(rebuilt) => rebuilt,
        Err(reason) => {
            let differs = report.unknown.is_some() || proof.is_some_and(|proof| proof.differs);
            report.blame = differs.then(|| "unknown".to_owned());
            report.unknown = Some(reason);
            report.remedy = Some(format!("a new snapshot: {}", take_snapshot(&asked.table)));
            return note_blame(local, proof, report).await;
        }
    };
    report.base = Some(rebuilt.base.clone());
    let blamed = match proof {
        Some(proof) => proof.blame(rebuilt.at_cut.as_ref(), report),
        None => report.unknown.as_ref().map(|_| "unknown"),
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
    if asked.key.is_none() {
        describe(report, blamed);
        note_blame(local, proof, report).await?;
    }
    if asked.repair && report.differing != Some(0) {
        mend::repair(local, asked, &pair, &difference, report).await?;
    } else if asked.repair {
        mend::clear(local, asked, report).await?;
        report.repaired = Some(0);
    }
    Ok(())
}

/// What to do about it, and who it was.
fn describe(report: &mut Report, blamed: Option<&'static str>) {
    let rows_differ = report.differing != Some(0);
    let blame = match (blamed, rows_differ) {
        (Some(blame), _) => Some(blame),
        (None, true) => Some("local"),
        (None, false) => None,
    };
    report.blame = blame.map(str::to_owned);
    let table = &report.table;
    let word = TableName::word_of(table);
    report.remedy = match blame {
        // Only the archive can be compared with: what production has, a new proof says.
        Some("unknown") if report.unknown.is_some() => {
            if !rows_differ {
                report.differing = None;
            }
            let repair = format!("syncdata-applier consistency repair {word}, then ");
            let first = if rows_differ { repair.as_str() } else { "" };
            Some(format!("{first}a new proof, run on the production host: syncdata-archiver proof"))
        }
        Some("stream" | "both") => {
            // What the archive says is not what production has: rows that agree with it say nothing.
            if !rows_differ {
                report.differing = None;
                report.unknown = Some("production and its stream disagree".to_owned());
            }
            let name: Option<TableName> = table.parse().ok();
            let take = name.map(|name| take_snapshot(&name)).unwrap_or_default();
            Some(format!("a new snapshot: {take}; then here: syncdata-applier resync {word}"))
        }
        Some("local") if rows_differ => Some(format!("syncdata-applier consistency repair {word}")),
        Some("local") => Some("none: what differed at the cut is gone since".to_owned()),
        Some(_) => Some(format!("syncdata-applier resync {word}")),
        None => None,
    };
}

async fn note_blame(local: &Local, proof: Option<&Proof>, report: &Report) -> Result<()> {
    match (proof, &report.blame) {
        (Some(proof), Some(blame)) if proof.differs => {
            let table = report.table.parse()?;
            record::blame(local, &proof.id, &table, blame).await
        }
        _ => Ok(()),
    }
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

/// The question for rows that differ.
pub(super) struct Difference<'a> {
    pair: &'a Pair<'a>,
    key: &'a [usize],
}

impl Difference<'_> {
    /// Lists the first of them; how many there are.
    pub(super) async fn list(
        &self,
        client: &Client,
        key: Option<&[String]>,
        rows: &mut Vec<RowDifference>,
    ) -> Result<u64> {
        if let Some(key) = key
            && (self.pair.key.is_empty() || key.len() != self.key.len())
        {
            let names: Vec<&str> =
                self.key.iter().map(|column| self.pair.table.columns[*column].name.as_str()).collect();
            let message = match self.pair.key.is_empty() {
                true => format!("{} has no key: its rows cannot be told apart", self.pair.table.name),
                false => format!(
                    "the key of {} is ({}): one value for each",
                    self.pair.table.name,
                    names.join(", ")
                ),
            };
            return Err(Error::new(Kind::BadInput, message));
        }
        let statement = match self.pair.key.is_empty() {
            true => self.by_image(),
            false => self.by_key(key),
        };
        let asking = || format!("comparing the rows of {}", self.pair.table.name);
        let params: [i32; 0] = [];
        let answer = client.query_raw(&statement, params).await.context(asking)?;
        let mut answer = pin!(answer);
        let mut differing = 0_u64;
        while let Some(row) = answer.try_next().await.context(asking)? {
            let times = u64::try_from(row.get::<_, i64>(2)).unwrap_or(1);
            differing += times;
            if rows.len() < LISTED_MAX {
                rows.push(self.row(&row, times));
            }
        }
        Ok(differing)
    }

    /// Whether the copy has a row of that key.
    async fn has(&self, client: &Client, key: &[String]) -> Result<bool> {
        let same = |(column, value): (&usize, &String)| {
            let name = self.pair.table.columns[*column].sql();
            format!("pg_catalog.format('%s', t.{name}) = {}", escape_literal(value))
        };
        let same: Vec<String> = self.key.iter().zip(key).map(same).collect();
        let select = format!(
            "SELECT EXISTS (SELECT FROM {} AS t WHERE {})",
            self.pair.table.sql(),
            same.join(" AND ")
        );
        let row = client.query_one(&select, &[]).await;
        Ok(row.context(|| format!("looking for a row of {}", self.pair.table.name))?.get(0))
    }

    fn row(&self, row: &Row, times: u64) -> RowDifference {
        let (here, there): (bool, bool) = (row.get(0), row.get(1));
        let kind = match (here, there) {
            (true, true) => "changed",
            (false, _) => "missing",
            (true, false) => "surplus",
        };
        let mut difference = RowDifference { key: BTreeMap::new(), kind, columns: Vec::new(), times };
        for (place, column) in self.pair.columns.iter().enumerate() {
            let name = self.pair.table.columns[*column].name.clone();
            let local: Option<String> = row.get(3 + 2 * place);
            let archive: Option<String> = row.get(4 + 2 * place);
            if self.pair.key.contains(column) {
                let value = if here { &local } else { &archive };
                difference.key.insert(name.clone(), value.clone());
            }
            if kind != "changed" || local != archive {
                difference.columns.push(ColumnDifference { column: name, local, archive });
            }
        }
        difference
    }

    /// What a column prints, on both sides.
    fn texts(&self, here: &str, there: &str) -> String {
        let text = |of: &str, column: &usize| {
            let name = self.pair.table.columns[*column].sql();
            // A cast to text is another text for some types than what they print.
            format!("CASE WHEN {of}.{name} IS NOT NULL THEN pg_catalog.format('%s', {of}.{name}) END")
        };
        let both = |column: &usize| format!("{}, {}", text(here, column), text(there, column));
        self.pair.columns.iter().map(both).collect::<Vec<_>>().join(", ")
    }

    fn list_of(&self, of: &str) -> String {
        let name = |column: &usize| format!("{of}.{}", self.pair.table.columns[*column].sql());
        self.pair.columns.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    fn by_key(&self, key: Option<&[String]>) -> String {
        let (t, s) = (self.pair.table.sql(), self.pair.shadow.sql());
        let equal = |column: &usize| {
            let column = &self.pair.table.columns[*column];
            format!("t.{0} {1} s.{0}", column.sql(), column.equality)
        };
        let same: Vec<String> = self.pair.key.iter().map(equal).collect();
        let one = |(column, value): (&usize, &String)| {
            let name = self.pair.table.columns[*column].sql();
            format!(
                " AND pg_catalog.format('%s', CASE WHEN t.\"syncdata here\" THEN t.{name} ELSE s.{name} END) = {}",
                escape_literal(value)
            )
        };
        let only: String = key.map(|key| self.key.iter().zip(key).map(one).collect()).unwrap_or_default();
        format!(
            "SELECT coalesce(t.\"syncdata here\", false), coalesce(s.\"syncdata there\", false), 1::int8, {} \
             FROM (SELECT true AS \"syncdata here\", * FROM {t}) AS t \
             FULL JOIN (SELECT true AS \"syncdata there\", * FROM {s}) AS s ON {} \
             WHERE (t.\"syncdata here\" IS NULL OR s.\"syncdata there\" IS NULL \
               OR ROW({})::record OPERATOR(pg_catalog.*<>) ROW({})::record){only}",
            self.texts("t", "s"),
            same.join(" AND "),
            self.list_of("t"),
            self.list_of("s"),
        )
    }

    /// Equal rows are counted on both sides.
    fn by_image(&self) -> String {
        let (t, s) = (self.pair.table.sql(), self.pair.shadow.sql());
        let row = |of: &str| format!("ROW({})::text", self.list_of(of));
        format!(
            "WITH here AS (SELECT {} AS image, count(*) AS n, min(x.ctid) AS place, min(x.tableoid) AS part FROM {t} AS x GROUP BY 1), \
                  there AS (SELECT {} AS image, count(*) AS n, min(x.ctid) AS place FROM {s} AS x GROUP BY 1), \
                  apart AS (SELECT h.n AS h, t.n AS t, h.place AS h_place, h.part, t.place AS t_place \
                    FROM here h FULL JOIN there t USING (image) WHERE h.n IS DISTINCT FROM t.n) \
             SELECT coalesce(a.h, 0) > coalesce(a.t, 0), coalesce(a.t, 0) > coalesce(a.h, 0), \
               abs(coalesce(a.h, 0) - coalesce(a.t, 0))::int8, {} \
             FROM apart a LEFT JOIN {t} AS t ON t.ctid = a.h_place AND t.tableoid = a.part \
               LEFT JOIN {s} AS s ON s.ctid = a.t_place",
            row("x"),
            row("x"),
            self.texts("t", "s"),
        )
    }
}
