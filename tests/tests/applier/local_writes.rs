//! `local_writes = "block"`: whoever is not the applier cannot write the copy, and the applier can do all that it does.

use std::collections::BTreeMap;

use syncdata_formats::manifest::{Column, Relation, ReplicaIdentity};
use syncdata_tests::LocalCopy;

use super::{rename, two_tables};

/// A partitioned table that is synced, and refers to one that is not.
const MORE: &str = "
    CREATE TABLE place (id int PRIMARY KEY); INSERT INTO place VALUES (1), (2);
    CREATE TABLE parted (id int NOT NULL, name text, place int REFERENCES place ON DELETE CASCADE, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (10);
    CREATE TABLE high PARTITION OF parted FOR VALUES FROM (10) TO (20);
    CREATE ROLE bob LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO bob; GRANT CREATE ON SCHEMA public TO bob";

const NAMES: [&str; 3] = ["users", "orders", "parted"];

fn parted(id: u32, name: &str) -> String {
    format!(r#"{{"table":"parted","op":"INSERT","data":{{"id":{id},"name":"{name}","place":1}}}}"#)
}

/// Three tables, synced and blocked.
async fn blocked(role: Option<&str>) -> LocalCopy {
    let mut copy = two_tables().await;
    copy.server.execute(MORE).await;
    copy.forge.relation("parted", &["id integer not null", "name text", "place integer"], &["id"]);
    copy.forge.segment(&[vec![parted(1, "a"), parted(2, "b"), parted(11, "c")]]);
    copy.set("SYNCDATA_LOCAL_WRITES", "block");
    if let Some(rights) = role {
        as_role(&mut copy, rights).await;
    }
    copy.applier(&[&["add-tables"][..], &NAMES].concat()).succeed().await;
    copy.sync(0).await;
    copy
}

async fn as_role(copy: &mut LocalCopy, rights: &str) {
    copy.server
        .execute(&format!(
            "CREATE ROLE syncdata LOGIN; GRANT CREATE ON SCHEMA public TO syncdata;
             GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE {rights} ON ALL TABLES IN SCHEMA public TO syncdata"
        ))
        .await;
    copy.set("PG_USER_NAME", "syncdata");
}

const ROWS: &str =
    "SELECT (SELECT string_agg(u::text, ' ' ORDER BY id) FROM users u), (SELECT count(*) FROM orders),
    (SELECT string_agg(p::text, ' ' ORDER BY id) FROM parted p)";

/// What the server says to it; `None`: it is done.
async fn said(copy: &LocalCopy, role: &str, sql: &str) -> Option<String> {
    let client = copy.server.connect().await;
    client.batch_execute(&format!("SET SESSION AUTHORIZATION {role}")).await.expect("it is there");
    let error = client.batch_execute(sql).await.err()?;
    let error = error.as_db_error().expect("the server's");
    Some(format!("{} {} {}", error.code().code(), error.message(), error.hint().unwrap_or_default()))
}

async fn must_refuse(copy: &LocalCopy, role: &str, sql: &str) {
    let said = said(copy, role, sql).await;
    let said = said.unwrap_or_else(|| panic!("{role} may: {sql}"));
    assert!(said.starts_with("25006 syncdata keeps "), "{sql}: {said}");
    assert!(
        said.contains("local_writes = \"allow\"") && said.contains("systemctl reload syncdata-applier"),
        "{said}"
    );
}

#[tokio::test]
async fn what_others_write_is_refused_by_whatever_statement_it_comes() {
    let copy = blocked(None).await;
    let before = copy.rows(ROWS).await;
    let file = copy.server.folder().join("rows");
    std::fs::write(&file, "3\tx\t1\n").expect("the folder is ours");
    copy.server.give(&file);
    let (copy_to_root, copy_to_leaf) =
        (format!("COPY parted FROM '{}'", file.display()), format!("COPY low FROM '{}'", file.display()));
    copy.server
        .execute(
            "CREATE VIEW seen AS SELECT * FROM users; GRANT ALL ON seen TO bob;
             CREATE TABLE own (id int); GRANT ALL ON own TO bob;
             CREATE FUNCTION along() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE users SET name = 'x'; RETURN NEW; END $$;
             CREATE TRIGGER along AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION along();
             CREATE TABLE elder (id int, name text); GRANT ALL ON elder TO bob;
             ALTER TABLE users ALTER id SET NOT NULL, INHERIT elder",
        )
        .await;
    for sql in [
        "INSERT INTO users VALUES (3, 'x')",
        "INSERT INTO users VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name",
        "UPDATE users SET name = 'x'",
        "DELETE FROM orders",
        "MERGE INTO users u USING (VALUES (1)) v(id) ON u.id = v.id WHEN MATCHED THEN DELETE",
        "MERGE INTO parted u USING (VALUES (1)) v(id) ON u.id = v.id WHEN MATCHED THEN UPDATE SET name = 'x'",
        "TRUNCATE orders",
        "TRUNCATE users CASCADE",
        "INSERT INTO parted VALUES (3, 'x', 1)",
        "INSERT INTO low VALUES (3, 'x', 1)",
        "UPDATE low SET name = 'x'",
        "UPDATE parted SET id = 12 WHERE id = 1",
        "DELETE FROM high",
        "TRUNCATE parted",
        "TRUNCATE low",
        "UPDATE seen SET name = 'x'",
        // What does not name the table.
        "DELETE FROM place WHERE id = 1",
        "TRUNCATE place CASCADE",
        "INSERT INTO own VALUES (1)",
        "UPDATE elder SET name = 'x'",
        "TRUNCATE elder CASCADE",
        // Switches that are not the replica role.
        "SET session_replication_role = local; UPDATE users SET name = 'x'",
        "BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE users SET name = 'x'; COMMIT",
        "PREPARE p AS UPDATE users SET name = 'x'; EXECUTE p",
        "DO $$ BEGIN BEGIN UPDATE users SET name = 'x'; EXCEPTION WHEN OTHERS THEN RAISE; END; END $$",
    ] {
        if sql.contains("MERGE") && copy.server.installation().major() < 15 {
            continue;
        }
        if !sql.contains("session_replication_role") {
            must_refuse(&copy, "bob", sql).await;
        }
        must_refuse(&copy, "postgres", sql).await;
    }
    for sql in [&copy_to_root, &copy_to_leaf] {
        must_refuse(&copy, "postgres", sql).await;
    }
    // No row of the copy is concerned.
    for sql in [
        "DELETE FROM place WHERE id = 2",
        "INSERT INTO elder VALUES (9, 'x')",
        "SELECT * FROM users FOR UPDATE",
    ] {
        assert_eq!(said(&copy, "bob", sql).await, None, "{sql}");
    }
    assert_eq!(copy.rows(ROWS).await, before);
    // Who may set the replica role goes past it.
    copy.server
        .execute("SET session_replication_role = replica; UPDATE users SET name = 'Ann' WHERE id = 1")
        .await;
    // The statement of a table names it, and what it is a part of.
    let told = said(&copy, "bob", "TRUNCATE low").await.unwrap_or_default();
    assert!(
        told.contains("syncdata keeps parted in step with production: TRUNCATE is refused here"),
        "{told}"
    );
}

/// All that is written into synced tables, as that role.
async fn everything(mut copy: LocalCopy, replica: bool) {
    let check = copy.applier(&["check"]).run().await;
    let costs = check
        .stdout
        .contains("session_replication_role may not be set: each row that is applied asks our trigger");
    assert_eq!(costs, !replica, "{check}");
    assert!(
        check.stdout.contains("ok    local writes: others than syncdata cannot write the 3 synced tables"),
        "{check}"
    );
    let order = |id: u32| format!(r#"{{"table":"orders","op":"INSERT","data":{{"id":{id},"user_id":2}}}}"#);
    copy.forge.segment(&[
        vec![rename(1, "Anne"), order(8), parted(3, "d"), parted(12, "e")],
        // Into another partition, and away.
        vec![
            r#"{"table":"parted","op":"UPDATE","data":{"id":13,"name":"d","place":1},"old_keys":{"id":3}}"#
                .to_owned(),
            r#"{"table":"parted","op":"DELETE","old_keys":{"id":12}}"#.to_owned(),
        ],
    ]);
    copy.sync(0).await;
    assert_eq!(copy.rows(ROWS).await, "(1,Anne) (2,Bob),2,(1,a,1) (2,b,1) (11,c,1) (13,d,1)");
    let many: Vec<String> = (100..1400)
        .map(|id| format!(r#"{{"table":"users","op":"INSERT","data":{{"id":{id},"name":"n"}}}}"#))
        .collect();
    copy.forge.segment(&[many]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*) FROM users").await, "1302");
    copy.forge
        .segment(&[vec![r#"{"table":"parted","op":"TRUNCATE"}"#, r#"{"table":"orders","op":"TRUNCATE"}"#]]);
    copy.forge.segment(&[vec![parted(1, "z"), order(9)]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM parted)").await, "1,1");
    // By hand, past the triggers: what commands then do is the applier's.
    let wrong = "SET session_replication_role = replica; DELETE FROM users WHERE id > 1000; UPDATE users SET name = 'w' WHERE id = 100";
    copy.server.execute(wrong).await;
    copy.applier(&["resync", "users"]).succeed().await;
    assert_eq!(
        copy.rows("SELECT count(*), count(*) FILTER (WHERE name = 'n') FROM users").await,
        "1302,1300"
    );
    copy.server.execute(wrong).await;
    let replayed =
        copy.applier(&["replay", "--from", "2000-01-01", "--to", "2100-01-01", "--tables", "users", "--yes"]);
    let replayed = replayed.run().await;
    assert_eq!(copy.rows("SELECT count(*) FROM users").await, "1302", "{replayed}");
    copy.server
        .execute("UPDATE data_sync_table_state SET state = 'quarantined', reason = 'a test' WHERE table_name = 'users'")
        .await;
    copy.forge.segment(&[vec![rename(2, "Rob")]]);
    copy.sync(1).await;
    copy.applier(&["retry", "users"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT name FROM users WHERE id = 2").await, "Rob");
    copy.applier(&["clear", "--yes"]).succeed().await;
    assert_eq!(copy.rows("SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM parted)").await, "0,0");
    // Where foreign keys act, what refers to the others is loaded after them.
    let made = copy.applier(&["resync", "--all"]).run().await;
    assert!(!replica || made.code() == Some(0), "{made}");
    if !replica {
        copy.applier(&["resync", "orders"]).succeed().await;
    }
    assert_eq!(
        copy.rows("SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM orders), (SELECT count(*) FROM parted)").await,
        "1302,1,1"
    );
    for sql in ["UPDATE users SET name = 'x'", "TRUNCATE parted", "INSERT INTO low VALUES (5, 'x', 1)"] {
        must_refuse(&copy, "bob", sql).await;
    }
    assert_eq!(copy.rows("SELECT count(*) FROM data_sync_table_state WHERE state <> 'live'").await, "0");
}

#[tokio::test]
async fn all_that_the_applier_does_passes_under_the_replica_role() {
    everything(blocked(None).await, true).await;
}

#[tokio::test]
async fn all_that_the_applier_does_passes_without_the_replica_role() {
    let copy = blocked(Some(", TRIGGER")).await;
    everything(copy, false).await;
}

/// Foreign keys of the copy act on what is applied: what they write is the applier's too.
#[tokio::test]
async fn what_foreign_keys_do_to_rows_of_the_applier_passes_too() {
    let schema = "CREATE TABLE users (id int PRIMARY KEY, name text);
        CREATE TABLE orders (id int PRIMARY KEY, user_id int REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE)";
    let mut copy = LocalCopy::with_orders(schema).await;
    copy.set("SYNCDATA_LOCAL_WRITES", "block");
    as_role(&mut copy, ", TRIGGER").await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    copy.forge.segment(&[vec![
        r#"{"table":"users","op":"DELETE","old_keys":{"id":1}}"#,
        r#"{"table":"orders","op":"DELETE","old_keys":{"id":7}}"#,
    ]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM orders)").await, "1,0");
    must_refuse(&copy, "postgres", "DELETE FROM users").await;
}

/// A line of ours counts in its own transaction alone.
/// What the doctor prescribes can be taken.
#[tokio::test]
async fn what_people_are_told_to_write_they_may_write() {
    let mut copy = blocked(None).await;
    let column = |attnum, name: &str, type_name: &str, missing: Option<&str>| Column {
        name: name.into(),
        type_name: type_name.into(),
        not_null: name == "id",
        attnum: Some(attnum),
        missing: missing.map(str::to_owned),
        ..Column::default()
    };
    let mut columns = vec![column(1, "id", "integer", None), column(2, "name", "text", None)];
    let users = |columns: &[Column]| {
        Relation::described(columns.to_vec(), vec!["id".into()], ReplicaIdentity::Default, BTreeMap::new())
    };
    copy.forge.describe("users", users(&columns));
    copy.forge.segment(&[vec![rename(1, "numbered")]]);
    copy.sync(0).await;
    copy.server.execute("ALTER TABLE users ADD COLUMN tier text").await;
    columns.push(column(3, "tier", "text", Some("it's  -- basic")));
    copy.forge.describe("users", users(&columns));
    copy.forge.segment(&[vec![
        r#"{"table":"users","op":"INSERT","data":{"id":50,"name":"new","tier":"gold"}}"#.to_owned(),
    ]]);
    let said = copy.sync(1).await;
    let (_, statement) = said.split_once("run: ").expect("a remedy");
    let statement = statement.lines().next().expect("a line");
    assert!(statement.starts_with("BEGIN; SET LOCAL session_replication_role"), "{said}");
    copy.server.execute(statement).await;
    copy.applier(&["retry", "users"]).succeed().await;
    copy.sync(0).await;
    let tiers = "SELECT string_agg(DISTINCT tier, ', ' ORDER BY tier) FROM users";
    assert_eq!(copy.rows(tiers).await, "gold, it's  -- basic");
}

#[tokio::test]
async fn nobody_is_taken_for_the_applier_because_of_what_it_left() {
    let mut copy = blocked(Some(", TRIGGER")).await;
    copy.forge.segment(&[vec![rename(1, "Anne")]]);
    let killed = copy.applier(&["sync"]).fault("apply.before_commit=kill").run().await;
    assert!(killed.was_killed(), "{killed}");
    copy.wait_until("SELECT count(*) FROM pg_stat_activity WHERE usename = 'syncdata'", |left| left == "0")
        .await;
    assert_eq!(copy.rows("SELECT name FROM users WHERE id = 1").await, "Ann");
    // A later client has the process, or the number, of the one that was killed; or a pooler hands it on.
    let stranger = copy.server.connect().await;
    let entered = "INSERT INTO data_sync_writers SELECT pg_current_xact_id(), pg_backend_pid()";
    stranger.batch_execute(entered).await.expect("a superuser may");
    let refused =
        stranger.batch_execute("UPDATE users SET name = 'x'").await.expect_err("another transaction");
    assert!(refused.to_string().contains("db error"), "{refused}");
    let other = copy.server.connect().await;
    other
        .batch_execute(
            "BEGIN; INSERT INTO data_sync_writers SELECT pg_current_xact_id(), pg_backend_pid() + 1",
        )
        .await
        .expect("a superuser may");
    other.batch_execute("UPDATE users SET name = 'x'").await.expect_err("another process");
    drop(other);
    must_refuse(&copy, "syncdata", "UPDATE users SET name = 'x'").await;
    assert!(said(&copy, "bob", entered).await.is_some_and(|said| said.starts_with("42501")));
    copy.sync(0).await;
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT count(*) <= 1 FROM data_sync_writers").await, "t", "what is over goes");
    // Neither is who was given everything in the schema.
    copy.server.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO bob").await;
    let line = copy.rows("SELECT count(*) FROM data_sync_writers").await;
    assert_eq!(line, "1", "there is one to alter");
    for forged in [
        entered,
        "CREATE TEMPORARY TABLE pg_class AS SELECT oid, 'bob'::regrole AS relowner FROM pg_class; \
         INSERT INTO data_sync_writers SELECT pg_current_xact_id(), pg_backend_pid()",
        "UPDATE data_sync_writers SET transaction = pg_current_xact_id(), pid = pg_backend_pid()",
    ] {
        let told = said(&copy, "bob", &format!("BEGIN; {forged}; UPDATE users SET name = 'x'; COMMIT")).await;
        assert!(told.as_ref().is_some_and(|said| said.starts_with("42501")), "{forged}: {told:?}");
    }
    let check = copy.applier(&["check"]).run().await;
    assert!(
        check.stdout.contains("warn  local writes: bob may replace triggers of 6 tables, and so go past"),
        "{check}"
    );
    let revoke =
        check.stdout.lines().find(|line| line.contains("REVOKE TRIGGER ON TABLE ")).expect("a statement");
    assert!(revoke.contains("public.data_sync_writers"), "{check}");
    copy.server.execute(revoke).await;
    let check = copy.applier(&["check"]).run().await;
    assert!(!check.stdout.contains("bob may replace triggers"), "{check}");
}

#[tokio::test]
async fn triggers_that_were_switched_off_or_are_missing_stand_again_after_the_next_pass() {
    let copy = blocked(None).await;
    for (meddling, table) in [
        ("ALTER TABLE users DISABLE TRIGGER ALL", "users"),
        ("ALTER TABLE low DISABLE TRIGGER USER", "low"),
        ("ALTER TABLE parted DISABLE TRIGGER USER", "low"),
        ("DROP TRIGGER data_sync_block ON high", "high"),
        ("ALTER TABLE users ENABLE ALWAYS TRIGGER data_sync_block", "users"),
        ("ALTER TABLE users ENABLE REPLICA TRIGGER data_sync_block", "users"),
        ("ALTER TRIGGER data_sync_block ON users RENAME TO other", "users"),
        (
            "CREATE OR REPLACE TRIGGER data_sync_block BEFORE UPDATE ON low FOR EACH STATEMENT EXECUTE FUNCTION data_sync_refuse_write('low', 'x')",
            "low",
        ),
        (
            "CREATE OR REPLACE FUNCTION data_sync_refuse_write() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "users",
        ),
        ("ALTER FUNCTION data_sync_refuse_write RESET ALL", "users"),
        ("ALTER FUNCTION data_sync_refuse_write OWNER TO bob", "users"),
        ("DROP FUNCTION data_sync_refuse_write CASCADE", "users"),
        ("DROP TABLE low; CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (10)", "parted"),
        ("CREATE TABLE top PARTITION OF parted FOR VALUES FROM (30) TO (40)", "top"),
        (
            "CREATE TABLE more (LIKE parted); ALTER TABLE parted ATTACH PARTITION more FOR VALUES FROM (50) TO (60)",
            "more",
        ),
    ] {
        copy.server.execute(meddling).await;
        let told = copy.applier(&["check"]).run().await;
        let expected = match meddling {
            _ if meddling.contains("RENAME") => "ok    local writes: ",
            _ if meddling.contains("OWNER TO bob") => {
                "fail  local writes: the function \"public\".data_sync_refuse_write is bob's"
            }
            _ if meddling.contains("REPLACE FUNCTION") || meddling.starts_with("ALTER FUNCTION") => {
                "warn  local writes: the function that refuses writes of others is not as it was made"
            }
            _ => "warn  local writes: others can write",
        };
        assert!(told.stdout.contains(expected), "{meddling}: {told}");
        let synced = copy.applier(&["sync"]).run().await;
        assert_ne!(synced.code(), Some(2), "{meddling}: {synced}");
        for sql in ["TRUNCATE", "DELETE FROM", "INSERT INTO"] {
            let values = if sql == "INSERT INTO" { " SELECT" } else { "" };
            if !values.is_empty() && table == "parted" {
                continue;
            }
            let sql = format!("{sql} {table}{values}{}", if values.is_empty() { "" } else { " 5" });
            let cascade = if sql.starts_with("TRUNCATE users") { " CASCADE" } else { "" };
            must_refuse(&copy, "postgres", &format!("{sql}{cascade}")).await;
        }
    }
    let check = copy.applier(&["check"]).run().await;
    assert!(check.stdout.contains("ok    local writes: "), "{check}");
}

#[tokio::test]
async fn a_function_of_somebody_else_with_the_name_of_ours_is_named_and_never_called() {
    let mut copy = two_tables().await;
    copy.server.execute("CREATE ROLE mal LOGIN; GRANT CREATE ON SCHEMA public TO mal").await;
    let theirs = "CREATE FUNCTION data_sync_refuse_write() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'";
    assert_eq!(said(&copy, "mal", theirs).await, None);
    copy.set("SYNCDATA_LOCAL_WRITES", "block");
    as_role(&mut copy, ", TRIGGER").await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows(LEFT).await, "0");
    let check = copy.applier(&["check"]).run().await.expect_code(1);
    assert!(
        check.stdout.contains("fail  local writes: the function \"public\".data_sync_refuse_write is mal's"),
        "{check}"
    );
    let drop = check.stdout.lines().find(|line| line.contains("DROP FUNCTION")).expect("a statement");
    copy.server.execute(drop).await;
    copy.sync(0).await;
    must_refuse(&copy, "postgres", "DELETE FROM orders").await;
}

/// It would keep rows from being written, were it to answer nothing.
#[tokio::test]
async fn a_trigger_that_somebody_makes_of_our_function_loses_no_row() {
    let mut copy = blocked(Some(", TRIGGER")).await;
    copy.server
        .execute(
            "CREATE TRIGGER another BEFORE INSERT OR UPDATE OR DELETE ON users FOR EACH ROW
             EXECUTE FUNCTION data_sync_refuse_write('users', 'x')",
        )
        .await;
    copy.forge.segment(&[vec![rename(1, "Anne")]]);
    let synced = copy.sync(1).await;
    assert!(synced.contains("trigger \"another\" of users may do something else"), "{synced}");
    assert_eq!(copy.rows("SELECT name FROM users WHERE id = 1").await, "Ann", "nothing is half applied");
    // It is left alone where it is somebody else's, and answers what it was given.
    let answered = "SET session_replication_role = replica; UPDATE users SET name = 'Anna' WHERE id = 1";
    copy.server.execute(&format!("ALTER TABLE users ENABLE ALWAYS TRIGGER another; {answered}")).await;
    assert_eq!(copy.rows("SELECT name FROM users WHERE id = 1").await, "Anna");
    copy.server.execute("DROP TRIGGER another ON users").await;
    copy.applier(&["retry", "users"]).succeed().await;
    assert_eq!(copy.rows("SELECT name FROM users WHERE id = 1").await, "Anne");
}

/// Before the next pass.
#[tokio::test]
async fn a_new_partition_is_kept_from_the_moment_it_is_made() {
    let copy = blocked(None).await;
    copy.server
        .execute("CREATE TABLE top PARTITION OF parted FOR VALUES FROM (30) TO (40); GRANT ALL ON top TO bob")
        .await;
    for sql in ["INSERT INTO parted VALUES (31, 'x', 1)", "INSERT INTO top VALUES (31, 'x', 1)"] {
        must_refuse(&copy, "bob", sql).await;
    }
    // What leaves is everybody's, from the next pass on.
    copy.server.execute("ALTER TABLE parted DETACH PARTITION top").await;
    copy.sync(0).await;
    assert_eq!(said(&copy, "bob", "INSERT INTO top VALUES (31, 'x', 1); TRUNCATE top").await, None);
    // A synced table that becomes a part of another one has triggers of its own.
    copy.server
        .execute("ALTER TABLE orders RENAME TO orders_1; CREATE TABLE orders (LIKE orders_1) PARTITION BY RANGE (id);
            ALTER TABLE orders ATTACH PARTITION orders_1 FOR VALUES FROM (0) TO (100)")
        .await;
    copy.applier(&["sync"]).run().await;
    must_refuse(&copy, "postgres", "DELETE FROM orders").await;
    must_refuse(&copy, "postgres", "TRUNCATE orders_1").await;
}

const LEFT: &str = "SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE p.proname = 'data_sync_refuse_write'";

#[tokio::test]
async fn tables_that_leave_the_setting_or_the_whitelist_are_everybody_s_again() {
    let mut copy = blocked(None).await;
    copy.applier(&["remove-tables", "parted"]).succeed().await;
    assert_eq!(said(&copy, "bob", "INSERT INTO parted VALUES (3, 'x', 1); TRUNCATE parted").await, None);
    must_refuse(&copy, "bob", "UPDATE users SET name = 'x'").await;
    copy.applier(&["add-tables", "parted"]).succeed().await;
    copy.sync(0).await;
    must_refuse(&copy, "bob", "INSERT INTO parted VALUES (3, 'x', 1)").await;
    copy.set("SYNCDATA_LOCAL_WRITES", "allow");
    let check = copy.applier(&["check"]).run().await;
    assert!(
        check.stdout.contains(
            "warn  local writes: triggers refuse writes of 5 tables and partitions, which the settings allow"
        ),
        "{check}"
    );
    // What somebody is reading is not waited for.
    let reader = copy.server.connect().await;
    reader.batch_execute("BEGIN; SELECT * FROM users").await.expect("a reader");
    copy.sync(0).await;
    assert_eq!(said(&copy, "bob", "UPDATE users SET name = name").await, None);
    assert_eq!(copy.rows(LEFT).await, "2", "what a reader holds, and what refuses nothing");
    drop(reader);
    copy.wait_until("SELECT count(*) FROM pg_locks WHERE relation = 'users'::regclass", |held| held == "0")
        .await;
    copy.sync(0).await;
    assert_eq!(copy.rows(LEFT).await, "0");
    copy.set("SYNCDATA_LOCAL_WRITES", "block");
    copy.sync(0).await;
    copy.applier(&["uninstall", "--yes"]).run().await;
    assert_eq!(copy.rows("SELECT count(*) FROM pg_proc WHERE proname LIKE 'data\\_sync%'").await, "0");
    assert_eq!(said(&copy, "bob", "UPDATE users SET name = name").await, None);
}

/// A writer that is under way when the setting comes.
#[tokio::test]
async fn who_is_writing_is_not_waited_for_and_the_pass_goes_on() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    let writer = copy.server.connect().await;
    writer.batch_execute("BEGIN; UPDATE users SET name = name WHERE id = 2").await.expect("a writer");
    copy.set("SYNCDATA_LOCAL_WRITES", "block");
    copy.forge.segment(&[vec![rename(1, "Anne")]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT name FROM users WHERE id = 1").await, "Anne");
    must_refuse(&copy, "postgres", "DELETE FROM orders").await;
    let check = copy.applier(&["check"]).run().await;
    assert!(check.stdout.contains("warn  local writes: others can write public.users"), "{check}");
    writer.batch_execute("COMMIT").await.expect("nobody is in its way");
    copy.sync(0).await;
    must_refuse(&copy, "postgres", "DELETE FROM users").await;
}

/// The tables are somebody else's.
#[tokio::test]
async fn rights_that_triggers_need_are_named_and_passes_go_on_without() {
    let mut copy = blocked(Some("")).await;
    copy.forge.segment(&[vec![rename(1, "Anne")]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT name FROM users WHERE id = 1").await, "Anne");
    let check = copy.applier(&["check", "--json"]).run().await.expect_code(1);
    let document = check.json();
    let of_ours =
        |finding: &&serde_json::Value| finding["subject"] == "local writes" && finding["level"] == "fail";
    let findings: Vec<_> =
        document["findings"].as_array().expect("a list").iter().filter(of_ours).cloned().collect();
    assert_eq!(findings.len(), 5, "tables and partitions: {check}");
    for finding in &findings {
        let message = finding["message"].as_str().expect("words");
        assert!(
            message.ends_with("the trigger that refuses it is not there, and syncdata may make none"),
            "{message}"
        );
        copy.server.execute(finding["statements"][0].as_str().expect("a statement")).await;
    }
    copy.sync(0).await;
    must_refuse(&copy, "bob", "INSERT INTO low VALUES (3, 'x', 1)").await;
    // A new partition, of which it may not even replace the trigger that came with it.
    copy.server
        .execute("CREATE TABLE top PARTITION OF parted FOR VALUES FROM (30) TO (40); GRANT ALL ON top TO bob")
        .await;
    must_refuse(&copy, "bob", "INSERT INTO top VALUES (31, 'x', 1)").await;
    copy.applier(&["remove-tables", "parted"]).succeed().await;
    assert_eq!(said(&copy, "bob", "INSERT INTO top VALUES (31, 'x', 1); DELETE FROM top").await, None);
    must_refuse(&copy, "bob", "UPDATE users SET name = 'x'").await;
    copy.applier(&["add-tables", "parted"]).run().await;
    must_refuse(&copy, "bob", "INSERT INTO top VALUES (31, 'x', 1)").await;
    // It may make triggers, and not drop them: they refuse nothing any more.
    copy.set("SYNCDATA_LOCAL_WRITES", "allow");
    copy.sync(0).await;
    assert_eq!(
        said(
            &copy,
            "bob",
            "INSERT INTO parted VALUES (3, 'x', 1), (32, 'x', 1); UPDATE users SET name = name; TRUNCATE low"
        )
        .await,
        None
    );
    let check = copy.applier(&["check", "--json"]).run().await;
    assert!(
        check.stdout.contains("a trigger that refuses nothing any more is left on public.users"),
        "{check}"
    );
    let refused = copy.applier(&["uninstall", "--yes"]).run().await.expect_code(2);
    assert!(refused.stderr.contains("run as the tables' owner, then this command again: "), "{refused}");
    let (_, statements) = refused.stderr.split_once("this command again: ").expect("statements");
    copy.server.execute(statements.lines().next().expect("a line")).await;
    assert_eq!(copy.rows(LEFT).await, "0");
    let gone = copy.applier(&["uninstall", "--yes"]).run().await;
    assert_eq!(
        copy.rows("SELECT count(*) FROM pg_proc WHERE proname LIKE 'data\\_sync%'").await,
        "0",
        "{gone}"
    );
}

/// A developer's copy of the copy is nobody's; one that an applier takes over is kept again.
#[tokio::test]
async fn a_dump_that_is_restored_elsewhere_refuses_nothing_until_an_applier_keeps_it() {
    let mut copy = blocked(None).await;
    let file = copy.folder().join("dump");
    let name = file.to_str().expect("a plain name").to_owned();
    let client = |program: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(copy.server.installation().program(program));
        command
            .args(["-U", "postgres", "-p", &copy.server.port().to_string(), "-h"])
            .arg(copy.server.socket_folder());
        let done = command.args(arguments).output().expect("it is installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    client("pg_dump", &["-Fc", "-f", &name, "reporting"]);
    client("createdb", &["copied"]);
    client("pg_restore", &["--exit-on-error", "-d", "copied", &name]);
    copy.server.use_database("copied");
    let before = copy.rows(ROWS).await;
    assert_eq!(said(&copy, "bob", "UPDATE users SET name = name; UPDATE low SET name = name").await, None);
    copy.forge.segment(&[vec![rename(1, "Anne")]]);
    copy.applier(&["sync"]).run().await;
    for sql in ["UPDATE users SET name = 'x'", "TRUNCATE low", "UPDATE low SET name = 'x'"] {
        must_refuse(&copy, "bob", sql).await;
    }
    assert_eq!(copy.rows(ROWS).await, before.replace("Ann)", "Anne)"));
}
