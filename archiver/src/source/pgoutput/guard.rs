//! What a superuser makes on the server beside the publication: an event trigger that keeps production's statements from
//! failing for it, and a function through which our role may change it.
//!
//! A table that loses its identity leaves the publication in the same transaction, and one that becomes unlogged before.

use postgres_protocol::escape::{escape_identifier, escape_literal};
use syncdata_formats::Result;
use tokio_postgres::types::{ToSql, Type};

use crate::source::ask::{Asked, many};

/// What may take an identity away, with all that goes by CASCADE: a column of a type or a collation that is dropped takes
/// its index along, and so does one of a typed or inheriting table. Not the statements about publications: it makes such.
const TAGS: [&str; 24] = [
    "ALTER TABLE",
    "ALTER FOREIGN TABLE",
    "ALTER TYPE",
    "CREATE TABLE",
    "DROP INDEX",
    "DROP TABLE",
    "DROP FOREIGN TABLE",
    "DROP VIEW",
    "DROP MATERIALIZED VIEW",
    "DROP TYPE",
    "DROP DOMAIN",
    "DROP COLLATION",
    "DROP OPERATOR",
    "DROP OPERATOR CLASS",
    "DROP OPERATOR FAMILY",
    "DROP ACCESS METHOD",
    "DROP FUNCTION",
    "DROP PROCEDURE",
    "DROP ROUTINE",
    "DROP AGGREGATE",
    "DROP LANGUAGE",
    "DROP SCHEMA",
    "DROP EXTENSION",
    "DROP OWNED",
];

/// Tables of the publication, or with a partition, of which an UPDATE would fail now. Whatever DDL production runs has this
/// read in its transaction: it locks no table, as `pg_partition_tree` would.
const ENDANGERED: &str = "SELECT m.prrelid FROM pg_publication p JOIN pg_publication_rel m ON m.prpubid = p.oid \
    WHERE p.pubname = PUB AND EXISTS (SELECT FROM pg_class c \
    WHERE c.oid IN (WITH RECURSIVE tree(oid) AS (SELECT m.prrelid UNION ALL SELECT i.inhrelid FROM tree \
    JOIN pg_inherits i ON i.inhparent = tree.oid JOIN pg_class k ON k.oid = i.inhrelid AND k.relispartition) \
    SELECT oid FROM tree) AND c.relkind = 'r' \
    AND CASE c.relreplident WHEN 'f' THEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid \
    AND a.attgenerated = 'v' AND NOT a.attisdropped) WHEN 'n' THEN true WHEN 'd' THEN NOT EXISTS (SELECT FROM pg_index x \
    WHERE x.indrelid = c.oid AND x.indisprimary AND x.indisvalid AND x.indimmediate) ELSE NOT EXISTS (SELECT FROM pg_index x \
    WHERE x.indrelid = c.oid AND x.indisreplident AND x.indisvalid AND x.indimmediate) END)";

/// Tables of the publication that the statement which begins may be about to make unlogged: it names them. Nobody knows more
/// before it is carried out, and then it is refused.
const PERHAPS_UNLOGGED: &str = "SELECT m.prrelid FROM pg_publication p JOIN pg_publication_rel m ON m.prpubid = p.oid \
    JOIN pg_class c ON c.oid = m.prrelid WHERE p.pubname = PUB AND current_query() ILIKE '%unlogged%' \
    AND current_query() ~* ('(^|[^[:alnum:]_])' || regexp_replace(replace(c.relname, '\"', '\"\"'), '([^[:alnum:]_])', \
    '\\\\\\1', 'g') || '($|[^[:alnum:]_])')";

/// Whatever goes wrong in a trigger is a warning: no statement of production fails because of it.
const TRIGGER: &str = "DECLARE t oid; BEGIN FOR t IN TABLES LOOP EXECUTE format('ALTER publication %I DROP TABLE ONLY %s', \
    PUB, t::regclass); END LOOP; EXCEPTION WHEN OTHERS THEN RAISE WARNING \
    'syncdata: the publication was left as it is: %', SQLERRM; END";

/// A table of which an UPDATE would fail is never added, whoever asks.
const CHANGE: &str = "BEGIN IF verb NOT IN ('ADD', 'DROP') THEN RAISE EXCEPTION 'ADD or DROP'; END IF; \
    EXECUTE format('ALTER publication %I %s TABLE ONLY %s', PUB, verb, relation); \
    IF verb = 'ADD' AND relation IN (ENDANGERED) THEN \
    RAISE EXCEPTION '% has no replica identity that can be published', relation; END IF; END";

/// The two moments at which production's statements are looked at: what its trigger is called, when it runs, and for what.
const TRIGGERS: [(&str, &str, &str, &[&str]); 2] = [
    ("_guard", "ddl_command_end", ENDANGERED, &TAGS),
    ("_guard_before", "ddl_command_start", PERHAPS_UNLOGGED, &["ALTER TABLE"]),
];

/// The longest of our names has so many characters after the publication's.
pub(crate) const SUFFIX_MAX: usize = "_guard_before".len();

/// What a superuser has to run, one statement a line. Run again, it leaves the same behind.
pub(crate) fn creation(publication: &str) -> Vec<String> {
    let publication_text = literal(publication);
    let mut statements = Vec::new();
    for (suffix, moment, tables, tags) in TRIGGERS {
        let name = name(publication, suffix);
        let tags: Vec<String> = tags.iter().map(|tag| literal(tag)).collect();
        let body = TRIGGER.replace("TABLES", tables).replace("PUB", &publication_text);
        statements.extend([
            format!(
                "CREATE OR REPLACE FUNCTION public.{name}() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER \
                 SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS {};",
                literal(&body)
            ),
            format!("DROP EVENT TRIGGER IF EXISTS {name};"),
            format!(
                "CREATE EVENT TRIGGER {name} ON {moment} WHEN TAG IN ({}) EXECUTE FUNCTION public.{name}();",
                tags.join(", ")
            ),
            format!("ALTER EVENT TRIGGER {name} ENABLE ALWAYS;"),
        ]);
    }
    statements
}

/// What a superuser has to run so that `users` may change which tables are published, and nothing else.
pub(crate) fn permission<'u>(publication: &str, users: impl IntoIterator<Item = &'u str>) -> Vec<String> {
    let name = name(publication, CHANGE_SUFFIX);
    let publication_text = literal(publication);
    let body = CHANGE.replace("ENDANGERED", ENDANGERED).replace("PUB", &publication_text);
    let signature = format!("public.{name}(text, regclass)");
    let mut statements = vec![
        format!(
            "CREATE OR REPLACE FUNCTION public.{name}(verb text, relation regclass) RETURNS void LANGUAGE plpgsql \
             SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {};",
            literal(&body)
        ),
        format!("REVOKE ALL ON FUNCTION {signature} FROM PUBLIC;"),
    ];
    let grant = |user: &str| format!("GRANT EXECUTE ON FUNCTION {signature} TO {};", escape_identifier(user));
    statements.extend(users.into_iter().map(grant));
    statements
}

/// What takes all of it away again.
pub(crate) fn removal(publication: &str) -> Vec<String> {
    let mut statements = Vec::new();
    for (suffix, ..) in TRIGGERS {
        let name = name(publication, suffix);
        statements.push(format!("DROP EVENT TRIGGER IF EXISTS {name};"));
        statements.push(format!("DROP FUNCTION IF EXISTS public.{name}();"));
    }
    let change = name(publication, CHANGE_SUFFIX);
    statements.push(format!("DROP FUNCTION IF EXISTS public.{change}(text, regclass);"));
    statements
}

/// Both of them, and nobody has switched them off.
pub(crate) async fn exists(client: &impl Asked, publication: &str) -> Result<bool> {
    let sql = "SELECT count(*) FROM pg_event_trigger WHERE evtname = ANY($1) AND evtenabled = 'A'";
    let names: Vec<String> = TRIGGERS.iter().map(|(suffix, ..)| format!("{publication}{suffix}")).collect();
    let rows = many(client, "looking for the event triggers", sql, &[(&names, Type::TEXT_ARRAY)]).await?;
    Ok(rows.first().is_some_and(|row| row.get::<_, i64>(0) == TRIGGERS.len() as i64))
}

/// Whether our role may change the publication through the function.
pub(crate) async fn may_change(client: &impl Asked, publication: &str) -> Result<bool> {
    let sql = "SELECT FROM pg_proc p WHERE p.proname = $1 AND p.pronamespace = 'public'::regnamespace \
        AND p.prosecdef AND has_function_privilege(p.oid, 'EXECUTE')";
    let name = format!("{publication}{CHANGE_SUFFIX}");
    Ok(!many(client, "looking for the publication's function", sql, &[(&name, Type::TEXT)]).await?.is_empty())
}

/// Calls that function.
pub(crate) fn call(publication: &str, verb: &str, table: &str) -> String {
    let name = name(publication, CHANGE_SUFFIX);
    format!("SELECT public.{name}({}, {}::regclass);", literal(verb), literal(table))
}

/// How many published tables there are of which an UPDATE would fail now.
pub(crate) async fn endangered(client: &impl Asked, publication: &str) -> Result<usize> {
    let sql = ENDANGERED.replace("PUB", "$1");
    let parameters = [(&publication as &(dyn ToSql + Sync), Type::TEXT)];
    let doing = "looking for tables that lost their identity";
    Ok(many(client, doing, &sql, &parameters).await?.len())
}

const CHANGE_SUFFIX: &str = "_change";

/// Quoted, without the space before the E of one with backslashes.
fn literal(text: &str) -> String {
    escape_literal(text).trim_start().to_owned()
}

fn name(publication: &str, suffix: &str) -> String {
    escape_identifier(&format!("{publication}{suffix}"))
}
