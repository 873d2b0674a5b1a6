//! Digests of local tables as they are at a mark, in sessions of their own, while passes go on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::Relation;
use syncdata_formats::name::TableName;
use syncdata_formats::proof::{
    Buckets, Cut, Digester, Layout, Mark, MarkedTable, ProofId, RowHash, prints_alike_here,
};
use syncdata_service::config::{Config, Rule};
use syncdata_service::faults;
use syncdata_service::postgres::{CatalogKey, Question, ServerContext as _};
use tokio_postgres::Client;

use super::GivenUp;
use super::questions::{About, Answers, Asked, Open, Ready};
use super::record::{self, Outcome};
use crate::load::Halt;
use crate::plan::state::{State, TableState};
use crate::table::{Shape, Table};
use crate::target::postgres::cursor;
use crate::target::postgres::local::Local;
use crate::target::postgres::schema;

const APPLICATION_NAME: &str = "syncdata-applier proof";

/// Each reads one table at a time.
const SESSIONS: usize = 2;

/// How often somebody looks whether others wait for us.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// A TRUNCATE or DDL that holds the table may take so long.
const LOCK_ATTEMPTS: u32 = 25;

/// The files that hold the rows of a table and of all its partitions: a TRUNCATE gives it others, which older snapshots
/// see empty.
const FILES: &str =
    "SELECT string_agg(t.relid || '/' || coalesce(pg_relation_filenode(t.relid), 0), ' ' ORDER BY t.relid)
  FROM (SELECT $1::oid AS relid UNION SELECT p.relid::oid FROM pg_partition_tree($1::oid) p) t";

/// Rows are read as they lie: an index may be what is broken.
const NO_INDEX: &str = "SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; \
    SET LOCAL enable_bitmapscan = off";

/// What is to be digested, and the snapshot that shows it.
#[derive(Debug)]
pub(super) struct Work {
    id: ProofId,
    /// Keeps the snapshot alive.
    holder: Local,
    snapshot: String,
    tables: VecDeque<Task>,
}

#[derive(Debug)]
struct Task {
    table: TableName,
    local: Table,
    layout: Layout,
    /// Columns that both sides compute, whose values do not travel.
    computed: Vec<String>,
    k: u8,
    files: String,
    /// What is asked after the digest, and what needs no asking.
    questions: Vec<Open>,
    answers: Answers,
}

impl Work {
    /// Nobody moves the copy while this runs.
    pub(super) async fn begin(config: &Config, local: &Local, mark: &Mark, cut: &Cut) -> Result<Work> {
        let states = cursor::table_states(local.session.client(), &local.meta).await?;
        let holder = Local::open_as(config, APPLICATION_NAME).await?;
        let client = holder.session.client();
        let snapshot = holder.export_snapshot().await?;

        let names: Vec<TableName> = states.keys().cloned().collect();
        let mut here = schema::load(client, &names).await?;
        let (mut tables, mut noted) = (VecDeque::new(), BTreeMap::new());
        for (table, state) in &states {
            let marked = mark.tables.get(table);
            let task = match prepared(table, state, marked, here.remove(table), cut) {
                Ok((local, layout, k)) => {
                    let files = files(client, local.oid).await?;
                    let (computed, questions, answers) = (Vec::new(), Vec::new(), Answers::default());
                    Ok(Task { table: table.clone(), local, layout, computed, k, files, questions, answers })
                }
                Err(reason) => Err(reason),
            };
            match task {
                Ok(task) => {
                    noted.insert(table.clone(), None);
                    tables.push_back(task);
                }
                Err(reason) => drop(noted.insert(table.clone(), Some(reason))),
            }
        }
        let keys = CatalogKey::all(client).await?;
        put_questions(&mut tables, mark, &keys, &|name| states.contains_key(name), &config.rules);
        record::begin(local, mark, cut, &noted).await?;
        faults::hit("proof.begun")?;
        Ok(Work { id: mark.id.clone(), holder, snapshot, tables })
    }

    /// Notes what becomes of each table.
    pub(super) async fn run(self, config: Config, given_up: Arc<GivenUp>) {
        let Work { id, holder, snapshot, tables } = self;
        let queue = Mutex::new(tables);
        let reader = || async {
            // A connection that is lost takes the table with it, and no other.
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(task) = next else { return };
                let (id, snapshot) = (&id, snapshot.as_str());
                if let Err(error) = one(&config, id, snapshot, &task, &given_up).await {
                    tracing::warn!(table = %task.table, error = %error.one_line(), "its digest could not be noted");
                }
            }
        };
        let reading = futures_util::future::join_all((0..SESSIONS).map(|_| reader()));
        tokio::pin!(reading);
        tokio::select! {
            _ = &mut reading => return,
            () = until_somebody_waits(&config, &holder) => {}
        }
        // Whoever waits for the end of a snapshot waits for all of them.
        given_up.add_all("DDL waited");
        drop(holder);
        reading.await;
    }
}

/// For the end of the snapshot that all readers share. When nobody can look, nobody is seen.
async fn until_somebody_waits(config: &Config, holder: &Local) {
    let looking = async {
        let watcher = Local::open_as(config, APPLICATION_NAME).await?;
        let pid = backend(holder.session.client()).await?;
        while !blocks_somebody(watcher.session.client(), pid).await? {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = looking.await {
        tracing::warn!(error = %error.one_line(), "nobody looks whether others wait for the snapshot of a proof");
        std::future::pending::<()>().await;
    }
}

/// Questions can be asked of tables that are digested, and about tables that are.
fn put_questions(
    tasks: &mut VecDeque<Task>,
    mark: &Mark,
    keys: &[CatalogKey],
    whitelist: &dyn Fn(&TableName) -> bool,
    rules: &BTreeMap<String, Rule>,
) {
    let tables: BTreeMap<TableName, Table> =
        tasks.iter().map(|task| (task.table.clone(), task.local.clone())).collect();
    let ready = tables.iter().map(|(name, table)| {
        let marked = mark.tables.get(name).expect("only what is marked is digested");
        (name.clone(), Ready { table, marked })
    });
    let ready: BTreeMap<TableName, Ready<'_>> = ready.collect();
    let asked = Asked { mark, keys, rules, whitelist, ready: &ready };
    for task in tasks {
        (task.questions, task.answers) = asked.of(&task.table);
        let enums = &mark.tables[&task.table].relation.types;
        let here = |name: &str| task.local.column(name).map(|at| &task.local.columns[at]);
        for (name, type_name) in &task.layout.computed {
            match here(name) {
                Some(here) if prints_alike_here(&here.type_name, type_name, enums) => {
                    task.computed.push(name.clone());
                }
                Some(_) => task.answers.not_summed.push(name.clone()),
                None => {}
            }
        }
        let not_summed = task.layout.unsummed.iter().filter(|name| here(name).is_some()).cloned();
        task.answers.not_summed.extend(not_summed);
    }
}

/// What is to be read of the table, or why nothing is.
fn prepared(
    table: &TableName,
    state: &TableState,
    marked: Option<&MarkedTable>,
    local: Option<Table>,
    cut: &Cut,
) -> Result<(Table, Layout, u8), String> {
    let Some(marked) = marked else { return Err("production's proof does not cover it".to_owned()) };
    if state.state != State::Live {
        let reason = state.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        return Err(format!("the table was {}{reason}", state.state));
    }
    let position = state.position.unwrap_or(Lsn::ZERO);
    if position != cut.end_lsn {
        let side = if position > cut.end_lsn { "after" } else { "before" };
        return Err(format!("the table is at {position}, {side} the cut"));
    }
    let Some(local) = local else { return Err(format!("Table not found locally: {table}")) };
    let layout = Layout::of(&marked.relation);
    comparable(&layout, &marked.relation, &local)?;
    Ok((local, layout, marked.k))
}

/// Whether the local columns print as production's do.
pub(crate) fn comparable(layout: &Layout, relation: &Relation, local: &Table) -> Result<(), String> {
    for (name, type_name) in layout.columns.iter().zip(&layout.types) {
        let Some(place) = local.column(name) else {
            return Err(format!("column {name} is missing here"));
        };
        let here = &local.columns[place].type_name;
        if !prints_alike_here(here, type_name, &relation.types) {
            return Err(format!(
                "column {name} is {here} here and {type_name} at the source: they may print differently"
            ));
        }
    }
    Ok(())
}

async fn files(client: &Client, oid: u32) -> Result<String> {
    let row = client.query_one(FILES, &[&oid]).await;
    let files: Option<String> = row.context(|| "asking for the files of a table".to_owned())?.get(0);
    Ok(files.unwrap_or_default())
}

async fn one(config: &Config, id: &ProofId, snapshot: &str, task: &Task, given_up: &GivenUp) -> Result<()> {
    let local = Local::open_as(config, APPLICATION_NAME).await?;
    let watcher = Local::open_as(config, APPLICATION_NAME).await?;
    if let Some(reason) = given_up.reason(&task.table) {
        return record::note(&watcher, id, &task.table, &Outcome::Not(reason.to_owned())).await;
    }
    let reading = local.at_snapshot(snapshot, NO_INDEX, read_rows(local.session.client(), task));
    let outcome = match watched(&local, &watcher, task, given_up, reading).await {
        Ok((buckets, computed)) => {
            let answers = answers(config, &local, &watcher, snapshot, task, given_up).await;
            let answers = Answers { computed, ..answers };
            Outcome::Done { rows: buckets.rows(), buckets: buckets.encode()?, answers }
        }
        Err(halt) => Outcome::Not(halt.into_words()),
    };
    faults::pass("proof.digested").await?;
    record::note(&watcher, id, &task.table, &outcome).await
}

/// What was asked after the digest. A question that fails is not answered, and that is all.
async fn answers(
    config: &Config,
    local: &Local,
    watcher: &Local,
    snapshot: &str,
    task: &Task,
    given_up: &GivenUp,
) -> Answers {
    let mut answers = task.answers.clone();
    for Open { about, sql } in &task.questions {
        let limit = match about {
            About::Rule { .. } => Some(config.rule_timeout),
            About::Key(_) => None,
        };
        let question = Question { snapshot, limit, schema: task.table.schema(), sql };
        let (client, other) = (local.session.client(), watcher.session.client());
        let asking = async { Ok(question.ask(client, other).await?) };
        let answer = watched(local, watcher, task, given_up, asking).await;
        answers.take(about.clone(), answer.map_err(Halt::into_words));
    }
    answers
}

/// What comes of the reading, or why the table was given up.
async fn watched<T>(
    local: &Local,
    watcher: &Local,
    task: &Task,
    given_up: &GivenUp,
    reading: impl Future<Output = Result<T, Halt>>,
) -> Result<T, Halt> {
    let pid: i32 = backend(local.session.client()).await?;
    let canceller = local.session.canceller();
    tokio::pin!(reading);
    loop {
        tokio::select! {
            read = &mut reading => {
                // What it had read of a table that went meanwhile says nothing.
                return match given_up.reason(&task.table) {
                    Some(reason) => Err(Halt::refused(&task.table, reason)),
                    None => read,
                };
            }
            () = tokio::time::sleep(BETWEEN_LOOKS) => {}
        }
        let reason = match given_up.reason(&task.table) {
            Some(reason) => Some(reason),
            None if blocks_somebody(watcher.session.client(), pid).await? => Some("DDL waited"),
            None => None,
        };
        if let Some(reason) = reason {
            canceller.cancel().await?;
            // Its locks go when it has heard of it.
            let _ = tokio::time::timeout(Duration::from_secs(5), &mut reading).await;
            return Err(Halt::refused(&task.table, reason));
        }
    }
}

async fn backend(client: &Client) -> Result<i32> {
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await;
    Ok(row.context(|| "asking for the session's process".to_owned())?.get(0))
}

async fn blocks_somebody(client: &Client, pid: i32) -> Result<bool> {
    let blocks =
        "SELECT EXISTS (SELECT FROM pg_locks l WHERE NOT l.granted AND $1 = ANY (pg_blocking_pids(l.pid)))";
    let row = client.query_one(blocks, &[&pid]).await;
    Ok(row.context(|| "asking who waits for us".to_owned())?.get(0))
}

async fn read_rows(client: &Client, task: &Task) -> Result<(Buckets, Sums), Halt> {
    let doing = || format!("digesting {}", task.table);
    if !lock(client, task).await? {
        return Err(Halt::refused(&task.table, "a TRUNCATE or DDL held it"));
    }
    if files(client, task.local.oid).await? != task.files {
        return Err(Halt::refused(&task.table, "truncated meanwhile"));
    }
    let digester = Digester::new(task.layout.clone(), task.k).with_computed(&task.computed);
    let columns = [task.layout.columns.as_slice(), &task.computed].concat();
    let digested = read(client, &copy_statement(&task.local, &columns), digester, drop).await;
    let digested = digested.map_err(|error| error.context(doing()))?;
    // A partition can come or go while rows are read.
    if files(client, task.local.oid).await? != task.files {
        return Err(Halt::refused(&task.table, "truncated meanwhile"));
    }
    Ok(digested)
}

/// All rows of a table that this session sees, as they lie. `told` hears how many they are so far.
pub(crate) async fn rows(
    client: &Client,
    table: &Table,
    layout: &Layout,
    k: u8,
    told: impl FnMut(u64),
) -> Result<Buckets> {
    let (statement, digester) = (copy_statement(table, &layout.columns), Digester::new(layout.clone(), k));
    Ok(read(client, &statement, digester, told).await?.0)
}

/// Of columns that are computed here.
type Sums = BTreeMap<String, RowHash>;

async fn read(
    client: &Client,
    statement: &str,
    mut digester: Digester,
    mut told: impl FnMut(u64),
) -> Result<(Buckets, Sums)> {
    let answer = client.copy_out(statement).await.context(|| statement.to_owned())?;
    let mut answer = std::pin::pin!(answer);
    while let Some(piece) = answer.try_next().await.context(|| "reading rows".to_owned())? {
        digester.push(&piece)?;
        told(digester.rows());
    }
    let computed = digester.computed();
    Ok((digester.finish()?, computed))
}

pub(super) fn copy_statement(table: &Table, columns: &[String]) -> String {
    let places: Vec<usize> = columns.iter().filter_map(|name| table.column(name)).collect();
    let list = table.column_list(&places);
    let is_generated = places.iter().any(|place| table.columns[*place].generated);
    // COPY of the table itself asks no planner, and so looks into no index. It copies neither partitions nor generated
    // columns, and has no word for no columns.
    match table.shape {
        Shape::Ordinary if !is_generated && !places.is_empty() => {
            format!("COPY {} ({list}) TO STDOUT", table.name.sql())
        }
        Shape::Ordinary | Shape::Partitioned => {
            format!("COPY (SELECT {list} FROM {}) TO STDOUT", table.sql())
        }
    }
}

/// False: somebody holds it, or waits for it.
async fn lock(client: &Client, task: &Task) -> Result<bool> {
    let sql = format!("SAVEPOINT syncdata_lock; LOCK TABLE {} IN ACCESS SHARE MODE NOWAIT", task.local.sql());
    for _ in 0..LOCK_ATTEMPTS {
        match client.batch_execute(&sql).await.context(|| format!("locking {}", task.table)) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == Kind::Locked => {}
            Err(error) => return Err(error),
        }
        let back = client.batch_execute("ROLLBACK TO SAVEPOINT syncdata_lock").await;
        back.context(|| "letting go of a lock".to_owned())?;
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use syncdata_formats::manifest::{self, ReplicaIdentity};

    use super::*;

    fn column(name: &str, type_name: &str) -> manifest::Column {
        manifest::Column { name: name.into(), type_name: type_name.into(), ..manifest::Column::default() }
    }

    fn local(columns: &[(&str, &str)]) -> Table {
        let column =
            |&(name, type_name): &(&str, &str)| crate::table::Column::plain(name, type_name, type_name);
        Table::plain(columns.iter().map(column).collect(), Vec::new())
    }

    #[test]
    fn a_column_that_is_missing_or_prints_otherwise_is_named() {
        let relation = Relation::new(
            vec![column("id", "integer"), column("v", "real"), column("m", "money")],
            vec!["id".into()],
            ReplicaIdentity::Default,
        );
        let layout = Layout::of(&relation);
        for (columns, says) in [
            (&[("id", "bigint"), ("v", "real")][..], None),
            (&[("id", "integer")], Some("column v is missing here")),
            (
                &[("id", "integer"), ("v", "double precision")],
                Some("column v is double precision here and real"),
            ),
        ] {
            let found = comparable(&layout, &relation, &local(columns));
            assert_eq!(found.is_ok(), says.is_none(), "{found:?}");
            if let (Err(found), Some(says)) = (found, says) {
                assert!(found.contains(says), "{found}");
            }
        }
    }

    #[test]
    fn only_a_live_table_that_stands_at_the_cut_is_digested() {
        let relation =
            Relation::new(vec![column("id", "integer")], vec!["id".into()], ReplicaIdentity::Default);
        let marked = MarkedTable { k: 0, relation, foreign_keys: vec![] };
        let (before, at, after) = (Lsn::from_u64(80), Lsn::from_u64(90), Lsn::from_u64(99));
        let cut = Cut {
            seq: syncdata_formats::layout::SegmentSeq::FIRST,
            sha256: syncdata_formats::digest::Digest::of(b""),
            end_lsn: at,
        };
        for (state, position, says) in [
            (State::Live, at, None),
            (State::Live, before, Some("before the cut")),
            (State::Live, after, Some("after the cut")),
            (State::Pending, at, Some("the table was pending")),
            (State::Loading, before, Some("the table was loading")),
            (State::Quarantined, at, Some("the table was quarantined")),
            (State::Stale, at, Some("the table was stale")),
        ] {
            let state = TableState { position: Some(position), ..TableState::new(state) };
            let found = prepared(
                &"t".parse().expect("a name"),
                &state,
                Some(&marked),
                Some(local(&[("id", "integer")])),
                &cut,
            );
            assert_eq!(found.is_ok(), says.is_none(), "{state:?}");
            if let (Err(found), Some(says)) = (found, says) {
                assert!(found.contains(says), "{found}");
            }
        }
    }
}
