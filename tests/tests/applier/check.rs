//! `check`: every line with its remedy; warnings alone are success.

use serde_json::Value;
use syncdata_formats::manifest::ReplicaIdentity;
use syncdata_formats::signature::SigningKey;
use syncdata_tests::{Finished, LocalCopy};

use super::two_tables;

/// `level subject: message` of everything that is not ok, and the statements.
fn wrong(check: &Finished) -> String {
    let document = check.json();
    let findings = document["findings"].as_array().expect("a list");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = Vec::new();
    for finding in findings.iter().filter(|finding| finding["level"] != "ok") {
        let (level, subject) = (text(&finding["level"]), text(&finding["subject"]));
        assert!(finding["remedy"].is_string(), "no remedy: {finding}");
        lines.push(format!("{level} {subject}: {}", text(&finding["message"])));
        lines.extend(finding["statements"].as_array().into_iter().flatten().map(text));
    }
    lines.join("\n")
}

/// A role that may do nothing by itself.
async fn as_plain_role(copy: &mut LocalCopy) {
    copy.server.execute("CREATE ROLE syncdata LOGIN; GRANT CREATE ON SCHEMA public TO syncdata").await;
    copy.set("PG_USER_NAME", "syncdata");
}

#[tokio::test]
async fn a_sound_copy_has_warnings_at_most() {
    let copy = two_tables().await;
    let empty = copy.applier(&["check", "--json"]).succeed().await;
    assert!(wrong(&empty).contains("warn tables: No tables in whitelist"), "{empty}");
    assert_eq!(copy.rows("SELECT to_regclass('tables_to_sync')").await, "NULL", "it changes nothing");
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    let check = copy.applier(&["check"]).succeed().await;
    for line in [
        "ok    archive: ",
        "ok    freshness: ",
        "ok    newest manifest: segment 0000000001, no verify_key",
        "ok    tables: 2 ",
    ] {
        assert!(check.stdout.lines().any(|found| found.starts_with(line)), "{line:?}\n{check}");
    }
    assert!(!check.stdout.contains("fail"), "{check}");
}

#[tokio::test]
async fn tables_that_cannot_take_the_archive_are_named_with_the_statement_that_mends_them() {
    let mut copy = two_tables().await;
    copy.forge.relation("users", &["id integer not null", "name text", "mail text"], &["id"]);
    copy.forge
        .segment(&[vec![r#"{"table":"users","op":"INSERT","data":{"id":3,"name":"Cid","mail":null}}"#]]);
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.server.execute("ALTER TABLE users ALTER name TYPE varchar(3)").await;
    copy.server.execute("DROP TABLE orders").await;
    let check = copy.applier(&["check", "--json"]).run().await.expect_code(1);
    let wrong = wrong(&check);
    for line in [
        "fail tables: Table not found locally: orders",
        "fail tables: column \"name\" of users is character varying(3) here and text at the source",
        "ALTER TABLE \"public\".\"users\" ALTER COLUMN \"name\" TYPE text;",
        "fail tables: column \"mail\" of users does not exist locally",
        "ALTER TABLE \"public\".\"users\" ADD COLUMN \"mail\" text;",
    ] {
        assert!(wrong.contains(line), "{line:?} is not in\n{wrong}");
    }
}

#[tokio::test]
async fn what_acts_on_applied_rows_is_named() {
    let copy = two_tables().await;
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.server
        .execute(
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
             CREATE TRIGGER plain AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION f();
             CREATE TRIGGER \"al ways\" AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION f();
             ALTER TABLE users ENABLE ALWAYS TRIGGER \"al ways\";
             CREATE TRIGGER rep AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION f();
             ALTER TABLE users ENABLE REPLICA TRIGGER rep;
             ALTER TABLE users ADD UNIQUE (name) DEFERRABLE",
        )
        .await;
    let check = copy.applier(&["check", "--json"]).succeed().await;
    let wrong = wrong(&check);
    for line in [
        "warn trigger: al ways of public.users always fires",
        "ALTER TABLE public.users DISABLE TRIGGER \"al ways\";",
        "warn trigger: rep of public.users fires under the replica role",
        "warn foreign key: orders refers to users and is not synced",
        "warn deferrable constraint: unique (\"name\") of users",
    ] {
        assert!(wrong.contains(line), "{line:?} is not in\n{wrong}");
    }
    assert!(!wrong.contains("plain of"), "{wrong}");
}

#[tokio::test]
async fn rights_that_are_missing_come_with_the_grant() {
    let mut copy = two_tables().await;
    as_plain_role(&mut copy).await;
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy.server.execute("GRANT SELECT, INSERT, DELETE ON users TO syncdata").await;
    let check = copy.applier(&["check", "--json"]).run().await.expect_code(1);
    let wrong = wrong(&check);
    let grant = "fail rights: syncdata may not UPDATE, TRUNCATE users\n\
        GRANT UPDATE, TRUNCATE ON TABLE \"public\".\"users\" TO \"syncdata\";";
    assert!(wrong.contains(grant), "{wrong}");
    assert!(wrong.contains("GRANT SET ON PARAMETER session_replication_role TO \"syncdata\";"), "{wrong}");
    copy.server.execute("GRANT UPDATE, TRUNCATE ON users TO syncdata").await;
    copy.server.execute("GRANT SET ON PARAMETER session_replication_role TO syncdata").await;
    let mended = copy.applier(&["check", "--json"]).succeed().await;
    let rest = self::wrong(&mended);
    assert!(!rest.contains("rights") && !rest.contains("session_replication_role"), "{rest}");
    copy.applier(&["sync"]).succeed().await;
}

#[tokio::test]
async fn how_each_table_is_comes_with_the_command_that_mends_it() {
    let copy = two_tables().await;
    copy.server.execute("CREATE TABLE \"it's\" (id int PRIMARY KEY)").await;
    copy.applier(&["add-tables", "users", "orders", "\"it's\""]).succeed().await;
    copy.applier(&["sync"]).run().await;
    let state = async |set: &str| {
        copy.server
            .execute(&format!("UPDATE data_sync_table_state SET {set} WHERE table_name = 'users'"))
            .await;
        wrong(&copy.applier(&["check", "--json"]).run().await)
    };
    let remedy = async || {
        let check = copy.applier(&["check"]).run().await;
        check.stdout
    };
    let quarantined = state("state = 'quarantined', reason = 'a test'").await;
    assert!(quarantined.contains("fail state: users is quarantined: a test"), "{quarantined}");
    assert!(
        remedy()
            .await
            .contains("syncdata-applier retry users; or make it anew: syncdata-applier resync users")
    );
    let stale = state("state = 'stale', reason = 'a gap'").await;
    assert!(stale.contains("fail state: users is stale, changes after "), "{stale}");
    let emptied = state("state = 'pending', reason = NULL").await;
    assert!(emptied.contains("fail state: users was emptied and waits for its rows"), "{emptied}");
    let pending = state("position_lsn = NULL, reason = 'no base yet'").await;
    assert!(pending.contains("warn state: users is pending: no base yet"), "{pending}");
    let live = state("state = 'live', position_lsn = (SELECT end_lsn FROM data_sync_checkpoint)").await;
    assert!(!live.contains("users is pending"), "{live}");
    copy.server
        .execute(
            "INSERT INTO data_sync_consistency (proof_id, table_name, check_type, verdict, finished_at)
             VALUES ('p', 'users', 'data_hash', 'differs', now());
             UPDATE data_sync_table_state SET nan_as_null = '{name}' WHERE table_name = 'users';
             UPDATE data_sync_table_state SET state = 'quarantined' WHERE table_name <> 'users'",
        )
        .await;
    let differs = copy.applier(&["check", "--json"]).run().await.expect_code(1);
    assert!(wrong(&differs).contains("fail proof: users differs from production"), "{differs}");
    assert!(wrong(&differs).contains("warn NaN: users: NaN and infinities of name"), "{differs}");
    let text = remedy().await;
    assert!(text.contains("syncdata-applier consistency rows users"), "{text}");
    // As a shell takes it.
    let hostile =
        copy.rows("SELECT table_name FROM data_sync_table_state WHERE table_name LIKE '%''s%'").await;
    let word = format!("'{}'", hostile.replace('\'', "'\\''"));
    assert!(text.contains(&format!("syncdata-applier retry {word};")), "{word} in {text}");
}

#[tokio::test]
async fn what_is_captured_and_not_copied_is_said_and_no_fault() {
    let copy = two_tables().await;
    copy.applier(&["add-tables", "users"]).succeed().await;
    let check = copy.applier(&["check"]).succeed().await;
    assert!(
        check.stdout.contains("ok    whitelist: captured and not copied here: orders; who wants them: syncdata-applier add-tables orders\n"),
        "{check}"
    );
    copy.applier(&["add-tables", "orders"]).succeed().await;
    let check = copy.applier(&["check"]).succeed().await;
    assert!(check.stdout.contains("ok    whitelist: all captured tables are in it"), "{check}");
}

#[tokio::test]
async fn rights_that_loads_need_are_looked_at_too() {
    let mut copy = two_tables().await;
    copy.server
        .execute(
            "CREATE SCHEMA shut; CREATE TABLE shut.safe (id int PRIMARY KEY);
             CREATE SCHEMA types; CREATE TYPE types.mood AS ENUM ('fine'); ALTER TABLE orders ADD mood types.mood",
        )
        .await;
    copy.applier(&["add-tables", "users", "orders", "shut.safe"]).succeed().await;
    as_plain_role(&mut copy).await;
    copy.server
        .execute(
            "REVOKE TEMPORARY ON DATABASE reporting FROM PUBLIC;
             GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON users, orders, shut.safe TO syncdata;
             GRANT SET ON PARAMETER session_replication_role TO syncdata; GRANT SELECT ON data_sync_checkpoint TO syncdata",
        )
        .await;
    // Each statement that it prints is run, as whoever owns all of it.
    let mut said = String::new();
    for _ in 0..4 {
        let check = copy.applier(&["check", "--json"]).run().await;
        let document = check.json();
        let findings = document["findings"].as_array().expect("a list").clone();
        let failing = findings.iter().filter(|finding| finding["level"] == "fail");
        let statements: Vec<String> = failing
            .flat_map(|finding| finding["statements"].as_array().cloned().unwrap_or_default())
            .filter_map(|statement| statement.as_str().map(str::to_owned))
            .collect();
        said.push_str(&wrong(&check));
        for statement in statements {
            copy.server.execute(&statement).await;
        }
    }
    for line in [
        "fail temporary tables: syncdata may not make any in reporting",
        "fail own tables: syncdata may not read and write ",
        "fail rights: syncdata may not use the schema shut,",
        "fail rights: syncdata may not use the schema types,",
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
    let mended = copy.applier(&["check", "--json"]).run().await;
    assert!(!wrong(&mended).contains("may not"), "{mended}");

    // One of them alone, whose name is no `data_sync_…`; of somebody else's, which has it too, nothing is asked.
    copy.server.execute("REVOKE ALL ON sync_executions FROM syncdata").await;
    let closed = copy.applier(&["check", "--json"]).run().await.expect_code(1);
    let statement = "fail own tables: syncdata may not read and write public.sync_executions\n\
        GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE public.sync_executions TO \"syncdata\";";
    assert!(wrong(&closed).contains(statement), "{closed}");
    copy.server
        .execute("CREATE SCHEMA theirs CREATE TABLE sync_executions (id int); GRANT USAGE, CREATE ON SCHEMA theirs TO syncdata")
        .await;
    copy.set("SYNCDATA_META_SCHEMA", "theirs");
    let theirs = wrong(&copy.applier(&["check", "--json"]).run().await);
    assert!(!theirs.contains("sync_executions"), "{theirs}");
}

#[tokio::test]
async fn tables_that_are_not_as_safe_as_they_look_are_named() {
    let mut copy = LocalCopy::start(
        "CREATE UNLOGGED TABLE quick (id int PRIMARY KEY);
         CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent);
         CREATE TABLE flags (id int PRIMARY KEY, flag text);
         CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE loose (name text COLLATE ci PRIMARY KEY);
         CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;
         CREATE TABLE parted (id int) PARTITION BY RANGE (id);
         CREATE FOREIGN TABLE abroad PARTITION OF parted FOR VALUES FROM (0) TO (10) SERVER far",
    )
    .await;
    for table in ["quick", "parent", "child", "parted"] {
        copy.forge.relation(table, &["id integer not null"], &["id"]);
    }
    copy.forge.relation("flags", &["id integer not null", "flag boolean"], &["id"]);
    copy.forge.relation("loose", &["name text not null"], &["name"]);
    copy.forge.server_version("99.1");
    copy.forge.segment(&[vec![
        r#"{"table":"flags","op":"INSERT","data":{"id":1,"flag":true}}"#,
        r#"{"table":"loose","op":"INSERT","data":{"name":"a"}}"#,
    ]]);
    copy.applier(&["add-tables", "quick", "parent", "child", "flags", "loose", "parted"]).succeed().await;
    let check = copy.applier(&["check", "--json"]).run().await.expect_code(1);
    let wrong = wrong(&check);
    for line in [
        "warn versions: production has PostgreSQL 99.1, this server ",
        "fail unlogged: public.quick is unlogged",
        "ALTER TABLE public.quick SET LOGGED;",
        "warn inheritance: public.child inherits from parent: queries of parent show its rows too",
        "ALTER TABLE public.child NO INHERIT \"public\".\"parent\";",
        "warn inheritance: child inherits from another table",
        "warn boolean: flags: flag (text) keeps booleans of the source as text (t and f): no proof compares the table",
        "ALTER TABLE \"public\".\"flags\" ALTER COLUMN \"flag\" TYPE boolean USING \"flag\"::boolean;",
        "warn key: loose: the collation of the key column name is nondeterministic here",
        "warn foreign table: public.abroad, a part of parted, lies on another server",
    ] {
        assert!(wrong.contains(line), "{line:?} is not in\n{wrong}");
    }
    copy.server.execute("ALTER TABLE quick SET LOGGED; ALTER TABLE child NO INHERIT public.parent").await;
    copy.server
        .execute(
            "ALTER TABLE \"public\".\"flags\" ALTER COLUMN \"flag\" TYPE boolean USING \"flag\"::boolean",
        )
        .await;
    let mended = self::wrong(&copy.applier(&["check", "--json"]).run().await);
    for subject in ["unlogged", "inheritance", "boolean"] {
        assert!(!mended.contains(&format!(" {subject}: ")), "{mended}");
    }
}

/// The server's disk in another operating system: its indexes are sorted otherwise than the libraries there do it.
#[tokio::test]
async fn keys_that_are_sorted_by_another_version_of_a_collation_take_nothing() {
    for (forge, collation) in [
        ("UPDATE pg_collation SET collversion = '1.2.3' WHERE collname = 'here'", "COLLATE here"),
        ("UPDATE pg_database SET datcollversion = '1.2.3' WHERE datname = current_database()", ""),
    ] {
        let mut copy = LocalCopy::start("SELECT 1").await;
        let icu = format!("{}_icu", copy.server.database());
        copy.server
            .execute(&format!(
                "CREATE DATABASE {icu} LOCALE_PROVIDER icu ICU_LOCALE 'de' LOCALE 'C' TEMPLATE template0"
            ))
            .await;
        copy.server.use_database(&icu);
        copy.server
            .execute(&format!(
                "CREATE COLLATION here (provider = icu, locale = 'de');
                 CREATE TABLE users (id int PRIMARY KEY, name text {collation});
                 CREATE TABLE names (name text {collation} PRIMARY KEY)"
            ))
            .await;
        copy.forge.relation("users", &["id integer not null", "name text"], &["id"]);
        copy.forge.relation("names", &["name text not null"], &["name"]);
        let users = |id: u32| format!(r#"{{"table":"users","op":"INSERT","data":{{"id":{id},"name":"x"}}}}"#);
        copy.forge.segment(&[vec![users(1)]]);
        copy.applier(&["add-tables", "users"]).succeed().await;
        copy.sync(0).await;
        copy.server.execute(forge).await;
        // No key of ours is sorted by it.
        copy.forge.segment(&[vec![users(2)]]);
        copy.sync(0).await;
        copy.applier(&["add-tables", "names"]).succeed().await;
        copy.forge.segment(&[vec![r#"{"table":"names","op":"INSERT","data":{"name":"a"}}"#]]);
        let refused = copy.applier(&["sync"]).run().await.expect_code(2);
        assert!(refused.stderr.contains("by which the key of names is sorted"), "{refused}");
        let wrong = wrong(&copy.applier(&["check", "--json"]).run().await);
        assert!(wrong.contains("fail collations: collation "), "{wrong}");
        let (_, remedy) = refused.stderr.split_once("nothing was applied; run: ").expect("a remedy");
        for statement in remedy.lines().next().expect("one line").split("; ") {
            copy.server.execute(statement).await;
        }
        copy.sync(0).await;
        assert_eq!(copy.rows("SELECT name FROM names").await, "a");
    }
}

/// Rows of a table without a key are found by any index that fits, also by one of a partition.
#[tokio::test]
async fn an_index_that_tells_no_rows_apart_finds_them_all_the_same() {
    for schema in [
        "CREATE TABLE a (name text COLLATE here, v int); CREATE INDEX ON a (name)",
        "CREATE TABLE a (name text COLLATE here, v int) PARTITION BY LIST (v); \
         CREATE TABLE one PARTITION OF a FOR VALUES IN (1); CREATE INDEX ON one (name)",
    ] {
        let mut copy = LocalCopy::start(&format!(
            "CREATE COLLATION here (provider = icu, locale = 'en'); {schema}; CREATE TABLE b (id int PRIMARY KEY)"
        ))
        .await;
        copy.forge.relation_with("a", &["name text", "v integer"], &[], ReplicaIdentity::Full);
        let a =
            |op: &str, side: &str| format!(r#"{{"table":"a","op":"{op}","{side}":{{"name":"x","v":1}}}}"#);
        copy.forge.segment(&[vec![a("INSERT", "data")]]);
        copy.applier(&["add-tables", "a"]).succeed().await;
        copy.sync(0).await;
        copy.server.execute("UPDATE pg_collation SET collversion = '1.2.3' WHERE collname = 'here'").await;
        copy.forge.segment(&[vec![a("DELETE", "old_keys")]]);
        let refused = copy.applier(&["sync"]).run().await.expect_code(2);
        assert!(refused.stderr.contains("by which an index of a is sorted"), "{refused}");
        let (_, remedy) = refused.stderr.split_once("nothing was applied; run: ").expect("a remedy");
        for statement in remedy.lines().next().expect("one line").split("; ") {
            copy.server.execute(statement).await;
        }
        copy.sync(0).await;
        assert_eq!(copy.rows("SELECT count(*) FROM a").await, "0");
    }
}

/// What makes changes slow, or has the server refuse or add something.
#[tokio::test]
async fn what_stands_between_the_archive_and_the_rows_is_named() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE keyless (id int, name text); CREATE TABLE prices (id int PRIMARY KEY, price numeric); CREATE TABLE elsewhere (id int PRIMARY KEY);
         CREATE TABLE parents (id int PRIMARY KEY);
         CREATE TABLE items (id int PRIMARY KEY, parent int CONSTRAINT of_parent REFERENCES parents ON DELETE CASCADE);
         CREATE TABLE spans (id int PRIMARY KEY, during int4range, CONSTRAINT apart EXCLUDE USING gist (during WITH &&) DEFERRABLE);
         CREATE TABLE shielded (id int PRIMARY KEY); ALTER TABLE shielded ENABLE ROW LEVEL SECURITY;
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
         CREATE TRIGGER plain AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION f()",
    )
    .await;
    for (table, columns) in [
        ("keyless", &["id integer not null", "name text"][..]),
        ("parents", &["id integer not null"]),
        ("items", &["id integer not null", "parent integer"]),
        ("spans", &["id integer not null", "during int4range"]),
        ("shielded", &["id integer not null"]),
    ] {
        copy.forge.relation(table, columns, &["id"]);
    }
    copy.forge.degraded(&["numeric-nan"]);
    copy.forge.relation("prices", &["id integer not null", "price numeric"], &["id"]);
    copy.forge.segment(&[vec![
        r#"{"table":"prices","op":"INSERT","data":{"id":1,"price":2}}"#,
        r#"{"table":"parents","op":"INSERT","data":{"id":1}}"#,
        r#"{"table":"keyless","op":"INSERT","data":{"id":1,"name":"a"}}"#,
    ]]);
    let tables = ["keyless", "parents", "items", "spans", "shielded", "elsewhere", "prices"];
    copy.applier(&[&["add-tables"][..], &tables].concat()).succeed().await;
    copy.applier(&["sync"]).run().await;
    let said = wrong(&copy.applier(&["check", "--json"]).run().await);
    for line in [
        "warn key: keyless has no unique index on the source's key (\"id\")",
        "ALTER TABLE \"public\".\"keyless\" ADD PRIMARY KEY (\"id\");",
        "warn deferrable constraint: apart of public.spans is not enforced while changes are applied",
        "warn tables: the newest segment's archiver does not capture elsewhere",
        "warn role: postgres is a superuser",
        "warn tables: prices: NaN and infinities of price arrive as NULL, since the source's wal2json cannot say them",
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
    as_plain_role(&mut copy).await;
    copy.server.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO syncdata").await;
    let said = wrong(&copy.applier(&["check", "--json"]).run().await);
    for line in [
        "warn rights: row level security of shielded holds for syncdata",
        "warn trigger: plain of public.items fires, because session_replication_role may not be set",
        "warn foreign key: of_parent of public.items acts on what is applied: ",
        "warn session_replication_role: may not be set",
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
    copy.set("SYNCDATA_META_SCHEMA", "else where");
    copy.server.execute("REVOKE CREATE ON DATABASE reporting FROM PUBLIC").await;
    let closed = wrong(&copy.applier(&["check", "--json"]).run().await.expect_code(1));
    let statement = "fail own tables: may not be made in schema \"else where\"\nCREATE SCHEMA \"else where\" AUTHORIZATION \"syncdata\";";
    assert!(closed.contains(statement), "{closed}");
}

#[tokio::test]
async fn an_archive_that_is_old_headless_or_another_one_is_named() {
    let mut copy = two_tables().await;
    copy.set("SYNCDATA_STALE_AFTER", "1s");
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.forge.head();
    copy.applier(&["sync"]).run().await;
    copy.wait_until("SELECT bool_and(stale) FROM data_sync_freshness WHERE state = 'live'", |stale| {
        stale == "t"
    })
    .await;
    let old = wrong(&copy.applier(&["check", "--json"]).run().await);
    assert!(old.contains("warn freshness: the archive is as of "), "{old}");
    assert!(old.contains("warn state: users is not fresh within stale_after, as of "), "{old}");

    std::fs::remove_file(copy.archive_dir().join("head.json")).expect("it was there");
    let headless = wrong(&copy.applier(&["check", "--json"]).run().await);
    assert!(headless.contains("warn freshness: the archive has no head.json that can be read"), "{headless}");

    let skipped = "UPDATE data_sync_table_state SET incomplete_lsn = '0/1' WHERE table_name = 'users'";
    copy.server.execute(skipped).await;
    let incomplete = wrong(&copy.applier(&["check", "--json"]).run().await);
    assert!(
        incomplete.contains("warn incomplete: users: incomplete: its part of the transaction"),
        "{incomplete}"
    );
    let by_key = "INSERT INTO data_sync_consistency (proof_id, table_name, check_type, verdict, finished_at)
        VALUES ('p', 'users', 'referential_integrity', 'differs', now())";
    copy.server.execute(by_key).await;
    let differs = copy.applier(&["check"]).run().await.expect_code(1);
    assert!(differs.stdout.contains("by what: syncdata-applier consistency check users"), "{differs}");

    copy.server.execute("UPDATE data_sync_checkpoint SET archive_id = gen_random_uuid()").await;
    let other = wrong(&copy.applier(&["check", "--json"]).run().await.expect_code(1));
    assert!(other.contains("fail own tables: this copy belongs to archive "), "{other}");
}

#[tokio::test]
async fn whatever_is_out_of_reach_is_one_line_of_several() {
    let mut copy = two_tables().await;
    copy.set("PG_PORT", "1");
    std::fs::remove_file(copy.archive_dir().join("archive.json")).expect("it was there");
    let check = copy.applier(&["check", "--json"]).run().await.expect_code(1);
    let document = check.json();
    let subjects: Vec<&str> = document["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|f| f["subject"].as_str())
        .collect();
    assert_eq!(subjects, ["settings", "archive", "local server"], "{check}");
    assert!(check.stdout.contains("archive.json is missing"), "{check}");
}

#[tokio::test]
async fn a_signature_that_is_asked_for_is_looked_at() {
    let mut copy = two_tables().await;
    let (_, public) = SigningKey::generate().expect("randomness is to be had");
    let key = copy.folder().join("syncdata.pub");
    std::fs::write(&key, public).expect("the folder is ours");
    copy.set("SYNCDATA_VERIFY_KEY", key.to_str().expect("a plain name"));
    let check = copy.applier(&["check", "--json"]).run().await.expect_code(1);
    assert!(wrong(&check).contains("fail newest manifest: segments/"), "{check}");
    assert!(wrong(&check).contains("is missing, and verify_key is set"), "{check}");
}
