//! Rows of production, read as they lie and hashed here.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use postgres_protocol::escape::escape_identifier;
use syncdata_archive::{ArchiveHandle, proofs};
use syncdata_formats::Result;
use syncdata_formats::digest::Digest;
use syncdata_formats::manifest::Gap;
use syncdata_formats::name::TableName;
use syncdata_formats::proof::{
    Buckets, Digester, ForeignKey, Layout, Mark, ProofId, ProvedTable, RowHash, RuleAnswer,
};
use syncdata_service::config::Rule;
use syncdata_service::postgres::CatalogKey;
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::progress::{Progress, Unit};
use tokio_postgres::Client;
use tracing::{info, warn};

use super::questions::{self, Questions};
use super::warn_not_proved;
use crate::snapshot::hold::{self, Neighbours, Unread};
use crate::snapshot::reading::Pace;
use crate::snapshot::tables::{LeftOut, Table};
use crate::snapshot::view::View;

/// Production joins no tables for us for longer than that in one proof. (Rules are its operator's own.)
const KEYS_TIME_MAX: Duration = Duration::from_secs(300);

/// Nobody of production is held up for longer than a second.
const DDL_WAITED: &str = "DDL waited";

/// What has come of the tables so far.
pub(super) struct Digests<'a> {
    archive: &'a ArchiveHandle,
    mark: &'a Mark,
    pace: Pace,
    /// Whether the stream may say NULL for NaN.
    is_degraded: bool,
    tables: BTreeMap<TableName, ProvedTable>,
    not_proved: BTreeMap<TableName, String>,
}

impl<'a> Digests<'a> {
    pub(super) fn new(
        archive: &'a ArchiveHandle,
        mark: &'a Mark,
        rate: Option<u64>,
        is_degraded: bool,
    ) -> Digests<'a> {
        let (tables, not_proved) = (BTreeMap::new(), BTreeMap::new());
        Digests { archive, mark, pace: Pace::new(rate), is_degraded, tables, not_proved }
    }

    /// Changes that are lost around the cut are in the snapshot, or not: nobody can say.
    pub(super) fn note_lost(&mut self, gaps: &[Gap]) {
        for gap in gaps {
            for table in self.mark.tables.keys() {
                if gap.tables.as_ref().is_none_or(|tables| tables.contains(table)) {
                    self.not_proved.insert(table.clone(), format!("changes of it are lost: {}", gap.reason));
                }
            }
        }
    }

    pub(super) async fn read_all(
        &mut self,
        client: &Client,
        view: &View,
        neighbours: &Neighbours,
    ) -> Result<()> {
        let estimate = view.tables.iter().map(|table| table.rows_estimate).sum::<Option<u64>>();
        let mut progress = Progress::start("proof", Unit::Rows, estimate);
        for (number, table) in view.tables.iter().enumerate() {
            if self.not_proved.contains_key(&table.name) {
                continue;
            }
            // Nothing of it is locked, and yet the snapshot itself is waited for.
            if neighbours.is_to_end().await? {
                warn_not_proved(&table.name, DDL_WAITED);
                self.not_proved.insert(table.name.clone(), DDL_WAITED.to_owned());
                continue;
            }
            let read = self.read(client, table, neighbours, &mut progress).await;
            hold::release(client).await?;
            let reason = match read {
                Ok(read) => {
                    self.keep(number, table, read).await?;
                    continue;
                }
                Err(Unread::All(error)) => return Err(error.context(format!("digesting {}", table.name))),
                Err(Unread::GaveWay(_)) => DDL_WAITED.to_owned(),
                Err(Unread::Now(error) | Unread::Table(error)) => error.one_line(),
            };
            warn_not_proved(&table.name, &reason);
            self.not_proved.insert(table.name.clone(), reason);
        }
        progress.finish();
        Ok(())
    }

    /// Whatever comes of it, the table is to be let go of.
    async fn read(
        &mut self,
        client: &Client,
        table: &Table,
        neighbours: &Neighbours,
        progress: &mut Progress,
    ) -> Result<Digested, Unread> {
        hold::lock(client, table, neighbours).await?;
        neighbours.check(table).await?;
        let marked = &self.mark.tables[&table.name];
        let layout = Layout::of(&marked.relation);
        let computed: Vec<String> = layout.computed.iter().map(|(name, _)| name.clone()).collect();
        let mut digester = Digester::new(layout.clone(), marked.k).with_computed(&computed);
        if self.is_degraded {
            // An old plugin prints it as null.
            digester = digester.looking_for_nan();
        }
        let statement = copy_statement(table, &layout, &computed);
        let reading = rows(client, table, &statement, digester, &mut self.pace, progress);
        let read = neighbours.give_way(table, reading).await?;
        // A partition can be attached while rows are read.
        neighbours.check(table).await?;
        Ok(read)
    }

    /// Its file is nobody's before the manifest is there.
    async fn keep(
        &mut self,
        number: usize,
        table: &Table,
        Digested { buckets, not_comparable, computed }: Digested,
    ) -> Result<()> {
        let file = buckets.encode()?;
        let marked = &self.mark.tables[&table.name];
        let proved = ProvedTable {
            rows: buckets.rows(),
            k: marked.k,
            relation: marked.relation.fingerprint,
            file: ProofId::buckets_name(number + 1),
            bytes: file.len() as u64,
            sha256: Digest::of(&file),
            not_comparable,
            computed,
            foreign_keys: Vec::new(),
            rules: BTreeMap::new(),
        };
        let (id, name) = (self.mark.id.clone(), proved.file.clone());
        self.archive.run(move |archive| proofs::put_buckets(archive, &id, &name, &file)).await?;
        self.tables.insert(table.name.clone(), proved);
        Ok(())
    }

    /// Of the tables that are digested: rows that refer to nothing, and rows that break a rule.
    pub(super) async fn ask(
        &mut self,
        questions: &Questions<'_>,
        view: &View,
        keys: &[CatalogKey],
        rules: &BTreeMap<String, Rule>,
    ) {
        let table = |name: &TableName| view.tables.iter().find(|table| table.name == *name);
        let started = Instant::now();
        for key in keys {
            let (Some(own), Some(parent)) = (table(&key.table), table(&key.key.references)) else { continue };
            let Some(proved) = self.tables.get_mut(&key.table) else { continue };
            let layout = Layout::of(&self.mark.tables[&key.table].relation);
            let columns = layout.columns_of_reference(&key.key.columns);
            let question = questions::orphans(own, key, parent, &columns);
            let answer = match question {
                Some(_) if started.elapsed() > KEYS_TIME_MAX => Err("other keys took their time".to_owned()),
                Some(sql) => questions.ask(own, &sql).await,
                None => Err("its tables are too large to be joined".to_owned()),
            };
            if let Err(reason) = &answer {
                info!(table = %key.table, key = key.key.name, reason, "production was not asked for orphans");
            }
            proved.foreign_keys.push(ForeignKey { orphans: answer.ok(), ..key.key.clone() });
        }
        for (name, rule) in rules {
            let (Some(own), Some(proved)) = (table(&rule.table), self.tables.get_mut(&rule.table)) else {
                warn!(rule = name, table = %rule.table, "the rule is not asked: its table is not in the proof");
                continue;
            };
            let answer = questions.ask(own, &rule.sql).await;
            if let Err(reason) = &answer {
                warn!(rule = name, table = %rule.table, reason, "the rule is not answered");
            }
            proved.rules.insert(name.clone(), RuleAnswer::new(rule.sha256(), answer));
        }
    }

    pub(super) fn finish(
        self,
        closed: &[LeftOut],
    ) -> (BTreeMap<TableName, ProvedTable>, BTreeMap<TableName, String>) {
        let Digests { tables, mut not_proved, .. } = self;
        not_proved.extend(closed.iter().map(|left| (left.table.clone(), left.reason.clone())));
        (tables, not_proved)
    }
}

/// What came of the rows of a table.
struct Digested {
    buckets: Buckets,
    /// Columns that hold what the stream does not say.
    not_comparable: Vec<String>,
    /// Sums of those that are computed and do not travel.
    computed: BTreeMap<String, RowHash>,
}

/// All rows.
async fn rows(
    client: &Client,
    table: &Table,
    statement: &str,
    mut digester: Digester,
    pace: &mut Pace,
    progress: &mut Progress,
) -> Result<Digested> {
    // The heap alone: an index may be broken.
    let sql = "SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off";
    client.batch_execute(sql).await.context(|| format!("preparing to read {}", table.name))?;
    let answer = client.copy_out(statement).await.context(|| format!("reading {}", table.name))?;
    let mut answer = pin!(answer);
    let mut counted = 0;
    while let Some(piece) = answer.try_next().await.context(|| format!("reading {}", table.name))? {
        digester.push(&piece)?;
        pace.keep(piece.len()).await;
        let rows = digester.rows();
        if rows - counted >= 1000 {
            progress.add(rows - counted);
            counted = rows;
        }
    }
    progress.add(digester.rows() - counted);
    let (not_comparable, computed) = (digester.with_nan(), digester.computed());
    Ok(Digested { buckets: digester.finish()?, not_comparable, computed })
}

/// COPY of the table itself asks no planner, and so looks into no index. It copies no partitions and nothing that is computed,
/// and has no word for no columns.
fn copy_statement(table: &Table, layout: &Layout, computed: &[String]) -> String {
    let columns = layout.columns.iter().chain(computed);
    let list = columns.map(|name| escape_identifier(name)).collect::<Vec<_>>().join(", ");
    if table.is_partitioned() || layout.columns.is_empty() || !computed.is_empty() {
        return format!("COPY (SELECT {list} FROM {}) TO STDOUT", table.source());
    }
    format!("COPY {} ({list}) TO STDOUT", table.name.sql())
}
