//! `local_writes = "block"`: triggers on the synced tables, which refuse what others than the applier write.
//!
//! Two of them. One before each statement, on the table and every part of it, ends what cannot come to a good end before it has begun,
//! TRUNCATE too. One after each row sees what reaches a table without naming it: through foreign keys, and through tables that it
//! is a part of; of a partitioned table new partitions have it at once. What stands is held against what should, in every pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use postgres_protocol::escape::{escape_identifier, escape_literal};
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_service::config::LocalWrites;
use syncdata_service::postgres::{ServerContext as _, db_error, sqlstate};
use tokio_postgres::GenericClient;
use tokio_postgres::error::SqlState;

use crate::target::postgres::cursor;
use crate::target::postgres::identity::HERE;
use crate::target::postgres::local::Local;
use crate::target::postgres::meta::MetaSchema;
pub(crate) use crate::target::postgres::writers::FUNCTION;

const MESSAGE: &str =
    "syncdata keeps % in step with production: % is refused here (local_writes = \"block\")";
const HINT: &str = "Write to production. To allow it here: local_writes = \"allow\" in the settings of syncdata-applier, \
    then: systemctl reload syncdata-applier, or without a daemon: syncdata-applier sync";

/// `{s}` is the schema of our tables.
const REFUSES: &str = include_str!("refuse_write.sql");
const LETS: &str = include_str!("let_write.sql");

/// Whoever waits for writers longer gives up until the next pass, so that those who queue after it get on.
const MAKE_TIMEOUT: &str = "1s";
/// This one waits for readers too, and can wait for days.
const DROP_TIMEOUT: &str = "100ms";

/// The trigger of statements. That of rows has the number of its table behind it: a table may become a partition of another one,
/// whose trigger it then has beside its own.
const NAME: &str = "data_sync_block";

/// What a trigger says in place of the database that it is for, when it refuses nothing. (`LOOK` has its bytes.)
const RELEASED: &str = "released";

// As pg_trigger has them: of rows 1, before 2, INSERT 4, DELETE 8, UPDATE 16, TRUNCATE 32.
const STATEMENT: i16 = 2 | 4 | 8 | 16 | 32;
const STATEMENT_OF_FOREIGN: i16 = 2 | 4 | 8 | 16;
const ROW: i16 = 1 | 4 | 8 | 16;

/// The synced tables with their parts, and whatever else has triggers of ours.
const LOOK: &str = "
WITH synced AS (
    SELECT c.oid AS root, w.name, pg_catalog.convert_to(w.name, pg_catalog.getdatabaseencoding()) || '\\x00'::bytea
        || pg_catalog.convert_to({here}, pg_catalog.getdatabaseencoding()) || '\\x00'::bytea AS arguments
    FROM unnest($3::text[], $4::text[], $5::text[]) AS w(name, schema, relation)
    JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.relation AND c.relkind IN ('r', 'p')
        AND c.relpersistence <> 't'
), parts AS (
    SELECT DISTINCT ON (relid) relid, name, arguments, root FROM (
        SELECT s.root AS relid, s.* FROM synced s
        UNION ALL
        SELECT t.relid::oid, s.* FROM synced s, pg_catalog.pg_partition_tree(s.root) t WHERE t.relid <> s.root
    ) AS one ORDER BY relid, root = relid
), standing AS (
    SELECT t.* FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_proc'::regclass AND d.refobjid = p.oid
        AND d.classid = 'pg_catalog.pg_trigger'::regclass
    JOIN pg_catalog.pg_trigger t ON t.oid = d.objid
    WHERE n.nspname = $1 AND p.proname = $2 AND p.pronargs = 0
)
SELECT parts.name, parts.root, c.oid, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), c.relkind = 'f',
    pg_catalog.pg_has_role(c.relowner, 'USAGE'), pg_catalog.has_table_privilege(c.oid, 'TRIGGER'),
    t.tgname::text, t.tgtype, t.tgparentid <> 0,
    coalesce(t.tgargs = parts.arguments, false) AND t.tgenabled = 'O' AND t.tgqual IS NULL AND pg_catalog.cardinality(t.tgattr::int2[]) = 0
        AND NOT t.tgdeferrable AND t.tgoldtable IS NULL AND t.tgnewtable IS NULL,
    coalesce(position('\\x0072656c656173656400'::bytea IN t.tgargs) > 0 OR NOT EXISTS (SELECT FROM unnest($3::text[]) AS w(name)
        WHERE position(pg_catalog.convert_to(w.name, pg_catalog.getdatabaseencoding()) || '\\x00'::bytea IN t.tgargs) = 1), false)
FROM parts FULL JOIN standing t ON t.tgrelid = parts.relid
JOIN pg_catalog.pg_class c ON c.oid = coalesce(parts.relid, t.tgrelid)
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY parts.root <> c.oid, c.oid, t.tgname";

/// It reads our table as whoever owns that: as somebody else it would do what he likes.
const FUNCTION_STANDS: &str = "SELECT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner)),
    coalesce(p.prosrc = $3 AND p.prosecdef AND p.proconfig = ARRAY['search_path=pg_catalog, pg_temp'] AND p.proowner = c.relowner, false),
    CASE WHEN p.proowner <> c.relowner THEN pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(p.proowner)) END
FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
LEFT JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid AND p.proname = $2 AND p.pronargs = 0
WHERE n.nspname = $1 AND c.relname = 'data_sync_writers'";

/// A synced table, a part of one, or another relation that has triggers of ours.
#[derive(Clone, Debug)]
pub(crate) struct Relation {
    /// The synced table that it is, or is a part of.
    pub table: Option<TableName>,
    root: Option<u32>,
    pub oid: u32,
    /// As statements name it.
    pub sql: String,
    is_foreign: bool,
    /// This role may drop its triggers.
    pub is_owner: bool,
    /// This role may make triggers on it.
    pub may_make: bool,
    standing: Vec<Standing>,
}

/// A trigger of ours.
#[derive(Clone, Debug)]
struct Standing {
    name: String,
    kind: i16,
    /// It is its parent's, and comes and goes with that.
    is_clone: bool,
    /// It fires for all that it is for.
    is_right: bool,
    is_released: bool,
}

impl Standing {
    /// We have made it, as far as its kind says.
    fn is_of_ours(&self) -> bool {
        matches!(self.kind, ROW | STATEMENT | STATEMENT_OF_FOREIGN)
    }
}

/// What has to be done to a relation's triggers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Make {
        name: String,
        kind: i16,
    },
    /// Somebody has switched it off or altered it.
    Renew {
        name: String,
        kind: i16,
    },
    Drop {
        name: String,
        kind: i16,
        is_released: bool,
    },
}

impl Relation {
    /// A synced table itself, and no part of one.
    pub(crate) fn is_root(&self) -> bool {
        self.root == Some(self.oid)
    }

    pub(crate) fn has_triggers(&self) -> bool {
        !self.standing.is_empty()
    }

    /// `renewed`: a part of it has lost the row trigger.
    fn steps(&self, wish: LocalWrites, renewed: &BTreeSet<u32>, major: u32) -> Vec<Step> {
        let own = || self.standing.iter().filter(|standing| !standing.is_clone);
        let mut wanted = Vec::new();
        if wish == LocalWrites::Block && self.table.is_some() {
            // Before 16 a foreign table has no trigger of TRUNCATE.
            wanted.push(if self.is_foreign && major < 16 { STATEMENT_OF_FOREIGN } else { STATEMENT });
            if self.is_root() {
                wanted.push(ROW);
            }
        }
        let mut steps = Vec::new();
        let mut kept = BTreeSet::new();
        for kind in wanted {
            let is_renewed = kind == ROW && renewed.contains(&self.oid);
            let of_kind = |standing: &&Standing| standing.kind == kind;
            let right = own().filter(of_kind).find(|standing| standing.is_right);
            let known = right.or_else(|| own().find(of_kind));
            match known {
                Some(known) => {
                    kept.insert(known.name.clone());
                    if !known.is_right || is_renewed {
                        steps.push(Step::Renew { name: known.name.clone(), kind });
                    }
                }
                None => {
                    let name = if kind == ROW { format!("{NAME}_{}", self.oid) } else { NAME.to_owned() };
                    // Another one of ours, or of somebody with our function, may have its name.
                    let is_taken = own().any(|standing| standing.name == name);
                    kept.insert(name.clone());
                    steps.push(match is_taken {
                        true => Step::Renew { name, kind },
                        false => Step::Make { name, kind },
                    });
                }
            }
        }
        let others = own().filter(|standing| !kept.contains(&standing.name));
        let mut all: Vec<Step> = others
            .filter(|standing| self.is_owner || !standing.is_released && standing.is_of_ours())
            .map(|standing| Step::Drop {
                name: standing.name.clone(),
                kind: standing.kind,
                is_released: standing.is_released,
            })
            .collect();
        all.append(&mut steps);
        all
    }

    /// Triggers that refuse nothing any more and that this role may not drop.
    pub(crate) fn left_over(&self) -> Vec<String> {
        let left = self.standing.iter().filter(|standing| !standing.is_clone && standing.is_released);
        let drop = |standing: &Standing| {
            format!("DROP TRIGGER {} ON {};", escape_identifier(&standing.name), self.sql)
        };
        left.map(drop).collect()
    }

    /// All of ours, whatever they do.
    pub(crate) fn drops(&self) -> Vec<String> {
        let own = self.standing.iter().filter(|standing| !standing.is_clone);
        own.map(|standing| format!("DROP TRIGGER {} ON {};", escape_identifier(&standing.name), self.sql))
            .collect()
    }

    fn create(&self, meta: &MetaSchema, name: &str, kind: i16, place: &str, replaces: bool) -> String {
        let table = self.table.as_ref().map_or_else(|| self.sql.clone(), ToString::to_string);
        let events = match kind {
            ROW => "AFTER INSERT OR UPDATE OR DELETE",
            STATEMENT_OF_FOREIGN => "BEFORE INSERT OR UPDATE OR DELETE",
            _ => "BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE",
        };
        format!(
            "CREATE {}TRIGGER {} {events} ON {} FOR EACH {} EXECUTE FUNCTION {meta}.{FUNCTION}({}, {})",
            if replaces { "OR REPLACE " } else { "" },
            escape_identifier(name),
            self.sql,
            if kind & 1 == 1 { "ROW" } else { "STATEMENT" },
            escape_literal(&table),
            escape_literal(place),
        )
    }
}

/// What there is, and what has to be done for it to be as wished; relations that are as they should be have no steps.
pub(crate) async fn look(
    client: &impl GenericClient,
    meta: &MetaSchema,
    wish: LocalWrites,
    major: u32,
) -> Result<Vec<(Relation, Vec<Step>)>> {
    let tables: Vec<TableName> = match wish {
        LocalWrites::Allow => Vec::new(),
        LocalWrites::Block => cursor::table_states(client, meta).await?.into_keys().collect(),
    };
    let relations = relations(client, meta, &tables).await?;
    let has_row = |relation: &Relation| {
        relation
            .standing
            .iter()
            .any(|standing| standing.is_clone && standing.kind == ROW && standing.is_right)
    };
    let lacking = relations.iter().filter(|relation| !relation.is_root() && !has_row(relation));
    let renewed: BTreeSet<u32> = lacking.filter_map(|relation| relation.root).collect();
    let with_steps = |relation: Relation| {
        let steps = relation.steps(wish, &renewed, major);
        (relation, steps)
    };
    Ok(relations.into_iter().map(with_steps).collect())
}

/// All that have triggers of ours.
pub(crate) async fn standing(client: &impl GenericClient, meta: &MetaSchema) -> Result<Vec<Relation>> {
    relations(client, meta, &[]).await
}

async fn relations(
    client: &impl GenericClient,
    meta: &MetaSchema,
    tables: &[TableName],
) -> Result<Vec<Relation>> {
    let doing = || "looking for the triggers that refuse local writes".to_owned();
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let schemas: Vec<&str> = tables.iter().map(TableName::schema).collect();
    let locals: Vec<&str> = tables.iter().map(TableName::name).collect();
    let look = LOOK.replace("{here}", HERE);
    let rows = client.query(&look, &[&meta.name(), &FUNCTION, &names, &schemas, &locals]).await;
    let mut found: BTreeMap<u32, Relation> = BTreeMap::new();
    let mut order = Vec::new();
    for row in rows.context(doing)? {
        let oid: u32 = row.get(2);
        let table = row.get::<_, Option<&str>>(0).map(str::parse).transpose()?;
        let relation = found.entry(oid).or_insert_with(|| {
            order.push(oid);
            Relation {
                table,
                root: row.get(1),
                oid,
                sql: row.get(3),
                is_foreign: row.get(4),
                is_owner: row.get(5),
                may_make: row.get(6),
                standing: Vec::new(),
            }
        });
        if let Some(name) = row.get(7) {
            relation.standing.push(Standing {
                name,
                kind: row.get(8),
                is_clone: row.get(9),
                is_right: row.get(10),
                is_released: row.get(11),
            });
        }
    }
    Ok(order.into_iter().filter_map(|oid| found.remove(&oid)).collect())
}

/// Makes what is missing and takes away what is too much. What cannot be done now is said once, and tried again by the next pass.
pub async fn keep(local: &Local, wish: LocalWrites) -> Result<()> {
    let (client, meta) = (local.session.client(), &local.meta);
    let found = look(client, meta, wish, local.session.version().major()).await?;
    // What is let through is so at once and for all tables, whoever reads them, and whosever they are.
    if !found.is_empty()
        && let Err(error) = make_function(local, wish).await
    {
        return passed_over("the function of the triggers", error);
    }
    for (relation, steps) in found.iter().filter(|(_, steps)| !steps.is_empty()) {
        for step in steps {
            if let Err(error) = take(local, relation, step).await {
                passed_over(&relation.sql, error)?;
            }
        }
    }
    Ok(())
}

fn body(meta: &MetaSchema, wish: LocalWrites) -> String {
    match wish {
        LocalWrites::Allow => LETS.to_owned(),
        LocalWrites::Block => {
            REFUSES.replace("{s}", &meta.to_string()).replace("{message}", MESSAGE).replace("{hint}", HINT)
        }
    }
}

/// What the triggers call.
pub(crate) struct Function {
    /// Who owns our tables, as statements name it: the function has to be that role's.
    pub owner: String,
    /// It does as wished.
    pub stands: bool,
    /// Somebody else who has made it.
    pub stranger: Option<String>,
}

pub(crate) async fn function(
    client: &impl GenericClient,
    meta: &MetaSchema,
    wish: LocalWrites,
) -> Result<Function> {
    let found = client.query_one(FUNCTION_STANDS, &[&meta.name(), &FUNCTION, &body(meta, wish)]).await;
    let found = found.context(|| "looking for the function that refuses local writes".to_owned())?;
    Ok(Function { owner: found.get(0), stands: found.get(1), stranger: found.get(2) })
}

async fn make_function(local: &Local, wish: LocalWrites) -> Result<()> {
    let (client, meta) = (local.session.client(), &local.meta);
    let doing = || "making the function that refuses local writes".to_owned();
    let Function { owner, stands, .. } = function(client, meta, wish).await?;
    if stands {
        return Ok(());
    }
    let body = body(meta, wish);
    // As its owner, since whoever writes may not read our tables. For everybody, since who makes a partition gives it the trigger.
    let make = format!(
        "CREATE OR REPLACE FUNCTION {meta}.{FUNCTION}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER \
         SET search_path = pg_catalog, pg_temp AS {}; \
         GRANT EXECUTE ON FUNCTION {meta}.{FUNCTION}() TO PUBLIC; \
         ALTER FUNCTION {meta}.{FUNCTION}() OWNER TO {owner}",
        escape_literal(&body)
    );
    client.batch_execute(&make).await.context(doing)
}

async fn take(local: &Local, relation: &Relation, step: &Step) -> Result<()> {
    let meta = &local.meta;
    match step {
        Step::Make { name, kind } => {
            make(local, relation, name, *kind, false).await?;
            tracing::info!(relation = relation.sql, trigger = name, "writes of others are refused");
        }
        Step::Renew { name, kind } => {
            make(local, relation, name, *kind, true).await?;
            tracing::warn!(
                relation = relation.sql,
                trigger = name,
                "the trigger that refuses writes of others was switched off or altered; it stands again"
            );
        }
        Step::Drop { name, kind, is_released } => {
            let drop = format!("DROP TRIGGER {} ON {}", escape_identifier(name), relation.sql);
            let dropped = match relation.is_owner {
                true => statement(local, DROP_TIMEOUT, &drop).await,
                false => Err(Error::new(Kind::Refused, "not the table's owner")),
            };
            match dropped {
                Ok(()) => {
                    tracing::info!(relation = relation.sql, trigger = name, "writes of others are allowed")
                }
                Err(_) if *is_released => {}
                Err(_) => {
                    // Readers hold it, or it is somebody else's: it stays for now, and refuses nothing.
                    let release = relation.create(meta, name, *kind, RELEASED, true);
                    statement(local, MAKE_TIMEOUT, &release).await?;
                    tracing::info!(relation = relation.sql, trigger = name, "writes of others are allowed");
                }
            }
        }
    }
    Ok(())
}

async fn make(local: &Local, relation: &Relation, name: &str, kind: i16, replaces: bool) -> Result<()> {
    let here = format!("SELECT {HERE}");
    let row = local.session.client().query_one(&here, &[]).await;
    let place: String = row.context(|| "asking which database this is".to_owned())?.get(0);
    statement(local, MAKE_TIMEOUT, &relation.create(&local.meta, name, kind, &place, replaces)).await
}

async fn statement(local: &Local, timeout: &str, statement: &str) -> Result<()> {
    let doing = || statement.to_owned();
    let client = local.session.client();
    let work = async {
        client
            .batch_execute(&format!("SET LOCAL lock_timeout = '{timeout}'; {statement}"))
            .await
            .context(doing)
    };
    local.in_transaction(work).await
}

/// What the server says of one relation keeps nothing else from going on. `Err`: it says nothing any more.
fn passed_over(what: &str, error: Error) -> Result<()> {
    if db_error(&error).is_none() {
        return Err(error);
    }
    if sqlstate(&error) == Some(&SqlState::LOCK_NOT_AVAILABLE) {
        tracing::info!(relation = what, "others are writing: its trigger waits for the next pass");
        return Ok(());
    }
    static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let line = error.one_line();
    if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(format!("{what}: {line}")) {
        tracing::warn!(
            relation = what,
            error = line,
            "local_writes is not what the settings say; syncdata-applier check tells what it takes"
        );
    }
    Ok(())
}
