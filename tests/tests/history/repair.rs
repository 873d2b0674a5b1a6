//! Rows that changed in a stretch of time are brought back to what the archive says of them.

use syncdata_formats::manifest::ReplicaIdentity;
use syncdata_tests::LocalCopy;
use syncdata_tests::program::Finished;

const DAY: [&str; 4] = ["--from", "2026-02-05", "--to", "2026-02-06"];

/// A table whose column `big` is not sent when it does not change.
async fn users() -> LocalCopy {
    let mut copy = LocalCopy::start("CREATE TABLE users (id int PRIMARY KEY, name text, big text)").await;
    copy.forge.relation("users", &["id integer not null", "name text", "big text"], &["id"]);
    copy.applier(&["add-tables", "users"]).succeed().await;
    copy
}

fn insert(id: u32) -> String {
    format!(r#"{{"table":"users","op":"INSERT","data":{{"id":{id},"name":"n{id}","big":"b{id}"}}}}"#)
}

fn update(id: u32, name: &str) -> String {
    moved(id, id, name)
}

/// `big` did not change.
fn moved(from: u32, to: u32, name: &str) -> String {
    format!(
        r#"{{"table":"users","op":"UPDATE","data":{{"id":{to},"name":"{name}"}},"old_keys":{{"id":{from}}}}}"#
    )
}

fn whole(id: u32, name: &str) -> String {
    format!(
        r#"{{"table":"users","op":"UPDATE","data":{{"id":{id},"name":"{name}","big":"x"}},"old_keys":{{"id":{id}}}}}"#
    )
}

fn delete(id: u32) -> String {
    format!(r#"{{"table":"users","op":"DELETE","old_keys":{{"id":{id}}}}}"#)
}

async fn replay(copy: &LocalCopy, arguments: &[&str], code: i32) -> Finished {
    let all = [&["replay", "--yes"], arguments].concat();
    copy.applier(&all).run().await.expect_code(code)
}

async fn state(copy: &LocalCopy) -> String {
    copy.rows("SELECT * FROM users ORDER BY id").await
}

#[tokio::test]
async fn damaged_rows_of_the_range_are_restored_and_nothing_else_is_touched() {
    let mut copy = users().await;
    copy.forge.segment(&[(1..=9).map(insert).collect()]);
    copy.forge.set_clock("2026-02-05T23:59:59Z");
    copy.forge.segment(&[vec![whole(1, "one"), update(2, "two"), delete(3), insert(30)]]);
    copy.forge.set_clock("2026-02-06T00:00:00Z");
    copy.forge.segment(&[vec![update(4, "four")]]);
    copy.sync(0).await;
    let sound = state(&copy).await;
    copy.server
        .execute(
            "UPDATE users SET name = 'broken', big = 'broken' WHERE id < 3; INSERT INTO users VALUES (3, 'again'); \
             DELETE FROM users WHERE id = 30; UPDATE users SET name = 'by hand' WHERE id = 4",
        )
        .await;
    let range = ["--from", "2026-02-05T23:00:00Z", "--to", "2026-02-06"];
    let checkpoint = "SELECT c::text FROM data_sync_checkpoint c";
    let position = copy.rows(checkpoint).await;
    let damaged = state(&copy).await;

    let dry = replay(&copy, &[&range[..], &["--dry-run", "--json"]].concat(), 0).await.json();
    assert_eq!(dry["tables"]["users"]["keys"], 4, "{dry}");
    assert_eq!((&dry["segments"], &dry["transactions"]), (&1.into(), &1.into()), "{dry}");
    assert_eq!(dry["tables"]["users"]["updates"], 2);
    assert_eq!(state(&copy).await, damaged, "a dry run writes nothing");

    let done = replay(&copy, &[&range[..], &["--json"]].concat(), 0).await.json();
    let changed = &done["tables"]["users"]["changed"];
    assert_eq!(changed, &serde_json::json!({"inserted": 1, "updated": 2, "deleted": 1}));
    assert_eq!(state(&copy).await, sound.replace("4,four,b4", "4,by hand,b4"));
    assert_eq!(copy.rows(checkpoint).await, position);
    let again = replay(&copy, &range, 0).await;
    assert!(again.stdout.contains("nothing was changed: all rows"), "{again}");
    let logged = "SELECT status, rows_synced, archive_ref FROM data_sync_logs WHERE archive_ref LIKE 'replay%' \
        ORDER BY sync_time";
    assert_eq!(
        copy.rows(logged).await,
        "SUCCESS,4,replay 2026-02-05T23:00:00Z..2026-02-06T00:00:00Z \
         SUCCESS,0,replay 2026-02-05T23:00:00Z..2026-02-06T00:00:00Z"
    );
}

#[tokio::test]
async fn later_values_win_and_rows_are_followed_to_their_new_keys() {
    let mut copy = users().await;
    copy.forge.segment(&[(1..=6).map(insert).collect()]);
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    copy.forge.segment(&[vec![whole(1, "old"), update(2, "old"), update(3, "old"), update(4, "old")]]);
    copy.forge.set_clock("2026-02-07T10:00:00Z");
    // 1 changes again, 2 goes on to 20, 3 is deleted and comes anew, 5 comes to the key that 4 has left.
    copy.forge.segment(&[vec![
        whole(1, "new"),
        moved(2, 20, "moved"),
        delete(3),
        insert(3),
        moved(4, 40, "left"),
        moved(5, 4, "came"),
    ]]);
    copy.sync(0).await;
    let sound = state(&copy).await;
    copy.server.execute("UPDATE users SET name = 'broken', big = NULL").await;
    let range = ["--from", "2026-02-06", "--to", "2026-02-07"];
    replay(&copy, &range, 0).await;
    assert_eq!(state(&copy).await, sound.replace("6,n6,b6", "6,broken,NULL"));
    copy.server.execute("DELETE FROM users WHERE id <> 6; INSERT INTO users VALUES (2, 'surplus')").await;
    replay(&copy, &range, 0).await;
    assert_eq!(state(&copy).await, sound.replace("6,n6,b6", "6,broken,NULL"));
}

#[tokio::test]
async fn a_row_that_the_range_tells_in_part_is_found_further_back_or_named() {
    let mut copy = users().await;
    copy.forge.segment(&[vec![insert(1), insert(2), insert(7)]]);
    copy.forge.segment(&[vec![update(9, "junk"), moved(7, 70, "seventy"), whole(2, "two")]]);
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    // Nobody ever told row 5 whole: it was loaded from elsewhere.
    copy.forge.segment(&[vec![
        update(1, "one"),
        update(2, "again"),
        update(5, "five"),
        moved(70, 7, "back"),
    ]]);
    copy.sync(0).await;
    copy.server.execute("INSERT INTO users VALUES (5, 'five', 'loaded')").await;
    let sound = "1,one,b1 2,again,x 5,five,loaded 7,back,b7";
    assert_eq!(state(&copy).await, sound);
    let range = ["--from", "2026-02-06", "--to", "2026-02-07"];
    copy.server.execute("DELETE FROM users WHERE id <> 5; UPDATE users SET name = 'broken'").await;
    replay(&copy, &range, 0).await;
    assert_eq!(state(&copy).await, sound);

    copy.server.execute("DELETE FROM users WHERE id IN (1, 5)").await;
    let done = replay(&copy, &[&range[..], &["--json"]].concat(), 1).await.json();
    let missing = &done["tables"]["users"]["not_rebuilt"];
    assert_eq!(missing, &serde_json::json!({"rows": 1, "keys": ["id=5"]}));
    assert_eq!(state(&copy).await, "1,one,b1 2,again,x 7,back,b7");
    let said = replay(&copy, &range, 1).await;
    assert!(said.stdout.contains("cannot be rebuilt") && said.stdout.contains("id=5"), "{said}");
}

#[tokio::test]
async fn a_truncate_takes_the_rows_before_it_and_leaves_those_after() {
    let mut copy = users().await;
    copy.forge.segment(&[vec![insert(1), insert(2)]]);
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    copy.forge.segment(&[vec![insert(3), update(1, "one")]]);
    copy.forge.set_clock("2026-02-07T10:00:00Z");
    copy.forge.segment(&[vec![r#"{"table":"users","op":"TRUNCATE"}"#.to_owned(), insert(4)]]);
    copy.forge.set_clock("2026-02-08T10:00:00Z");
    copy.forge.segment(&[vec![insert(5)]]);
    copy.sync(0).await;
    assert_eq!(state(&copy).await, "4,n4,b4 5,n5,b5");
    let damage = "INSERT INTO users SELECT n, 'surplus', NULL FROM unnest('{1,2,3,6}'::int[]) n; \
        DELETE FROM users WHERE id > 3 AND id < 6";
    copy.server.execute(damage).await;
    // Before the TRUNCATE: what changed there is gone, and nobody asked for the rest.
    replay(&copy, &["--from", "2026-02-06", "--to", "2026-02-07"], 0).await;
    assert_eq!(state(&copy).await, "2,surplus,NULL 6,surplus,NULL");
    // With it: the table is what came after.
    replay(&copy, &["--from", "2026-02-07", "--to", "2026-02-08"], 0).await;
    assert_eq!(state(&copy).await, "4,n4,b4 5,n5,b5");
}

#[tokio::test]
async fn unique_values_that_went_on_to_other_rows_are_in_nobody_s_way() {
    let mut copy = LocalCopy::start("CREATE TABLE u (id int PRIMARY KEY, u int UNIQUE)").await;
    copy.forge.relation("u", &["id integer not null", "u integer"], &["id"]);
    let line = |op: &str, id: u32, u: &str| {
        let old = if op == "UPDATE" { format!(r#","old_keys":{{"id":{id}}}"#) } else { String::new() };
        format!(r#"{{"table":"u","op":"{op}","data":{{"id":{id},"u":{u}}}{old}}}"#)
    };
    copy.forge.segment(&[vec![line("INSERT", 1, "10"), line("INSERT", 2, "20"), line("INSERT", 3, "30")]]);
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    copy.forge.segment(&[vec![line("UPDATE", 1, "11"), line("UPDATE", 2, "21")]]);
    copy.forge.set_clock("2026-02-07T10:00:00Z");
    copy.forge.segment(&[vec![line("UPDATE", 1, "12"), line("UPDATE", 3, "11")]]);
    copy.applier(&["add-tables", "u"]).succeed().await;
    copy.sync(0).await;
    let rows = "SELECT * FROM u ORDER BY id";
    assert_eq!(copy.rows(rows).await, "1,12 2,21 3,11");
    // Swapped by hand: one by one neither can go back.
    copy.server.execute("UPDATE u SET u = NULL WHERE id = 1; UPDATE u SET u = 12 WHERE id = 2").await;
    copy.server.execute("UPDATE u SET u = 21 WHERE id = 1").await;
    let range = ["--from", "2026-02-06", "--to", "2026-02-07"];
    replay(&copy, &range, 0).await;
    assert_eq!(copy.rows(rows).await, "1,12 2,21 3,11");
    let again = replay(&copy, &range, 0).await;
    assert!(again.stdout.contains("nothing was changed"), "{again}");
}

#[tokio::test]
async fn tables_that_cannot_be_repaired_are_named_and_left_alone() {
    let schema = "CREATE TABLE keyless (a int); CREATE TABLE nokey (id int); CREATE TABLE fine (id int PRIMARY KEY); \
        CREATE TABLE gone (id int PRIMARY KEY); CREATE TABLE lossy (id int PRIMARY KEY); \
        CREATE TABLE emptied (id int PRIMARY KEY)";
    let mut copy = LocalCopy::start(schema).await;
    copy.forge.relation_with("keyless", &["a integer"], &[], ReplicaIdentity::Full);
    for table in ["nokey", "fine", "gone", "lossy", "emptied"] {
        copy.forge.relation(table, &["id integer not null"], &["id"]);
    }
    let row = |table: &str, id: u32| format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id}}}}}"#);
    let all = |id: u32| {
        let mut rows: Vec<String> =
            ["nokey", "fine", "gone", "lossy", "emptied"].iter().map(|table| row(table, id)).collect();
        rows.push(format!(r#"{{"table":"keyless","op":"INSERT","data":{{"a":{id}}}}}"#));
        rows
    };
    copy.forge.segment(&[all(1)]);
    copy.applier(&["add-tables", "public.*"]).succeed().await;
    copy.sync(0).await;
    copy.forge.gap(&["lossy"]);
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    copy.forge.segment(&[vec![row("fine", 2)]]);
    copy.sync(1).await;
    copy.applier(&["retry", "lossy", "--accept-gap"]).run().await.expect_code(0);
    copy.server
        .execute(
            "DROP TABLE gone; UPDATE data_sync_table_state SET state = 'pending' WHERE table_name = 'emptied'; \
             DELETE FROM fine",
        )
        .await;
    let done = replay(&copy, &[&DAY[..], &["--json"]].concat(), 1).await.json();
    let reason = |table: &str| done["left_alone"][table].as_str().unwrap_or_default().to_owned();
    assert!(reason("keyless").contains("it has no key"), "{done}");
    assert!(reason("nokey").contains("is not unique here"), "{done}");
    assert!(reason("gone").contains("Table not found locally"), "{done}");
    assert!(reason("lossy").contains("are lost"), "{done}");
    assert!(reason("emptied").contains("no base yet"), "{done}");
    assert_eq!(copy.rows("SELECT * FROM fine").await, "1");
    // Asked for by name, the sound one alone is clean.
    replay(&copy, &[&DAY[..], &["--tables", "fine"]].concat(), 0).await;
    replay(&copy, &[&DAY[..], &["--tables", "fine", "nobody"]].concat(), 2).await;
}

#[tokio::test]
async fn a_quarantined_table_is_repaired_up_to_its_own_position() {
    let mut copy = users().await;
    copy.forge.segment(&[vec![insert(1), insert(2)]]);
    copy.sync(0).await;
    copy.server.execute("ALTER TABLE users ADD CHECK (name <> 'bad')").await;
    let good = update(1, "good");
    copy.forge.segment(&[vec![good], vec![update(1, "bad")], vec![update(2, "two")]]);
    copy.sync(1).await;
    assert_eq!(state(&copy).await, "1,good,b1 2,n2,b2");
    copy.server.execute("UPDATE users SET name = 'broken'").await;
    replay(&copy, &DAY, 0).await;
    assert_eq!(state(&copy).await, "1,good,b1 2,n2,b2");
}

#[tokio::test]
async fn a_stale_table_is_repaired_up_to_the_gap() {
    let mut copy = users().await;
    copy.forge.segment(&[vec![insert(1), insert(2)], vec![update(1, "good")]]);
    copy.sync(0).await;
    copy.forge.gap(&["users"]);
    copy.forge.segment(&[vec![update(1, "behind the gap")], vec![update(2, "two")]]);
    copy.sync(1).await;
    assert_eq!(copy.rows("SELECT state FROM data_sync_table_state").await, "stale");
    copy.server.execute("UPDATE users SET name = 'broken'").await;
    replay(&copy, &DAY, 0).await;
    assert_eq!(state(&copy).await, "1,good,b1 2,n2,b2");
    assert_eq!(copy.rows("SELECT state FROM data_sync_table_state").await, "stale");
}

#[tokio::test]
async fn keys_that_only_the_server_can_compare_are_repaired_too() {
    let schema = "CREATE EXTENSION citext; CREATE TABLE c (id citext PRIMARY KEY, v text); \
        CREATE TABLE n (id numeric PRIMARY KEY, v text)";
    let mut copy = LocalCopy::start(schema).await;
    copy.forge.relation("c", &["id public.citext not null", "v text"], &["id"]);
    copy.forge.relation("n", &["id numeric not null", "v text"], &["id"]);
    let line = |table: &str, op: &str, id: &str, v: &str| match op {
        "DELETE" => format!(r#"{{"table":"{table}","op":"DELETE","old_keys":{{"id":{id}}}}}"#),
        op => format!(r#"{{"table":"{table}","op":"{op}","data":{{"id":{id},"v":"{v}"}}}}"#),
    };
    copy.forge.segment(&[vec![line("c", "INSERT", r#""Ann""#, "old"), line("n", "INSERT", "1.0", "old")]]);
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    copy.forge.segment(&[vec![
        line("c", "DELETE", r#""Ann""#, ""),
        line("c", "INSERT", r#""ANN""#, "new"),
        line("n", "DELETE", "1.0", ""),
        line("n", "INSERT", "1.00", "new"),
    ]]);
    copy.applier(&["add-tables", "c", "n"]).succeed().await;
    copy.sync(0).await;
    let rows = "SELECT id::text, v FROM c UNION ALL SELECT id::text, v FROM n ORDER BY 1";
    for damage in
        ["UPDATE c SET id = 'aNN', v = 'x'; UPDATE n SET id = 1, v = 'x'", "DELETE FROM c; DELETE FROM n"]
    {
        copy.server.execute(damage).await;
        for range in [DAY, ["--from", "2026-02-06", "--to", "2026-02-07"]] {
            replay(&copy, &range, 0).await;
            assert_eq!(copy.rows(rows).await, "1.00,new ANN,new");
        }
    }
}

#[tokio::test]
async fn a_column_that_came_later_keeps_its_values_and_takes_its_default() {
    let mut copy = LocalCopy::start("CREATE TABLE a (id int PRIMARY KEY, v text)").await;
    copy.forge.relation("a", &["id integer not null", "v text"], &["id"]);
    let insert = |id: u32| format!(r#"{{"table":"a","op":"INSERT","data":{{"id":{id},"v":"v"}}}}"#);
    copy.forge.segment(&[vec![insert(1), insert(2), insert(3)]]);
    copy.applier(&["add-tables", "a"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("ALTER TABLE a ADD COLUMN n int DEFAULT 5; ALTER TABLE a ADD COLUMN ours text").await;
    copy.forge.relation("a", &["id integer not null", "v text", "n integer"], &["id"]);
    copy.forge.segment(&[vec![
        r#"{"table":"a","op":"UPDATE","data":{"id":2,"v":"v","n":7},"old_keys":{"id":2}}"#.to_owned(),
    ]]);
    copy.sync(0).await;
    copy.server.execute("DELETE FROM a WHERE id < 3; UPDATE a SET v = 'broken', ours = 'kept'").await;
    replay(&copy, &DAY, 0).await;
    assert_eq!(copy.rows("SELECT * FROM a ORDER BY id").await, "1,v,5,NULL 2,v,7,NULL 3,v,5,kept");
}

#[tokio::test]
async fn nothing_is_written_without_a_yes() {
    let mut copy = users().await;
    copy.forge.segment(&[vec![insert(1)]]);
    copy.sync(0).await;
    copy.server.execute("DELETE FROM users").await;
    let refused = copy.applier(&[&["replay"], &DAY[..]].concat()).run().await.expect_code(2);
    assert!(refused.stderr.contains("say --yes"), "{refused}");
    assert_eq!(state(&copy).await, "");
    replay(&copy, &["--from", "2026-02-06", "--to", "2026-02-05"], 2).await;
    replay(&copy, &["--from", "yesterday", "--to", "2026-02-05"], 2).await;
}

#[tokio::test]
async fn a_range_whose_changes_are_lost_is_left_alone_although_nothing_else_changed_in_it() {
    let mut copy = users().await;
    copy.forge.segment(&[vec![insert(1)]]);
    copy.sync(0).await;
    copy.forge.relation("other", &["id integer not null"], &["id"]);
    copy.forge.gap(&["users"]);
    copy.forge.segment(&[vec![r#"{"table":"other","op":"INSERT","data":{"id":1}}"#]]);
    copy.sync(1).await;
    copy.applier(&["retry", "users", "--accept-gap"]).run().await.expect_code(0);
    copy.forge.set_clock("2026-02-09T10:00:00Z");
    copy.forge.segment(&[vec![insert(2)]]);
    copy.sync(0).await;
    let said = replay(&copy, &["--from", "2026-02-05T10:30:01Z", "--to", "2026-02-09"], 1).await;
    assert!(said.stdout.contains("users: left alone: changes of it from"), "{said}");
}

/// Of what was pruned nobody can say that it is as the archive says.
#[tokio::test]
async fn a_range_that_was_pruned_is_not_said_to_be_right() {
    let mut copy = users().await;
    copy.forge.set_clock("2026-02-05T10:00:00Z");
    copy.forge.segment(&[vec![insert(1)]]);
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    let kept = copy.forge.segment(&[vec![insert(2)]]);
    copy.sync(0).await;
    copy.forge.prune_before(&kept);
    copy.server.execute("UPDATE users SET name = 'spoilt'").await;
    let begins = "the archive begins with segment 2: what committed before it was pruned";
    for into in [&[][..], &["--into", "past"]] {
        let said = replay(&copy, &[&DAY[..], into].concat(), 1).await;
        assert!(said.stdout.contains(begins), "{said}");
        assert!(!said.stdout.contains("as the archive says"), "{said}");
    }
    let said = replay(&copy, &["--from", "2026-02-05", "--to", "2026-02-07"], 1).await;
    assert!(said.stdout.contains(begins) && said.stdout.contains("1 rows were changed"), "{said}");
    let history = |arguments: &[&str]| copy.applier(&[&["history", "users", "1"], arguments].concat());
    let said = history(&["--from", "2026-02-05", "--to", "2026-02-07"]).run().await.expect_code(1);
    assert!(said.stdout.contains(&format!("not all of it: {begins}")), "{said}");
    let said = history(&[]).succeed().await;
    assert!(said.stderr.contains(begins), "{said}");
    // What is still there is all there.
    let said = replay(&copy, &["--from", "2026-02-06T10:00:01Z", "--to", "2026-02-07"], 0).await;
    assert!(said.stdout.contains("nothing was changed: all rows"), "{said}");
}

/// A pass's commit may be lost with a crash, since its checkpoint is lost with it. A repair has none.
#[tokio::test]
async fn a_repair_that_was_said_to_be_done_survives_a_crash_of_the_server() {
    let mut copy = users().await;
    copy.server.execute("ALTER SYSTEM SET wal_writer_delay = '10s'").await;
    copy.server.reload();
    copy.forge.segment(&[vec![insert(1), insert(2)]]);
    copy.sync(0).await;
    copy.server.execute("UPDATE users SET name = 'broken'; CHECKPOINT").await;
    replay(&copy, &DAY, 0).await;
    copy.server.crash();
    copy.server.restart().await;
    assert_eq!(state(&copy).await, "1,n1,b1 2,n2,b2");
    assert_eq!(copy.rows("SELECT count(*) FROM data_sync_logs WHERE archive_ref LIKE 'replay%'").await, "1");
}

/// Where the role may not switch them off, foreign keys of the copy act on what a replay removes.
#[tokio::test]
async fn no_replay_takes_rows_of_other_tables_along() {
    let tables = "CREATE TABLE users (id int PRIMARY KEY, name text, big text);
        CREATE TABLE orders (id int PRIMARY KEY, user_id int)";
    let mut copy = LocalCopy::start(tables).await;
    copy.forge.relation("users", &["id integer not null", "name text", "big text"], &["id"]);
    copy.forge.relation("orders", &["id integer not null", "user_id integer"], &["id"]);
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    // Production has no such key: its order refers to nobody by now.
    let order = r#"{"table":"orders","op":"INSERT","data":{"id":1,"user_id":3}}"#.to_owned();
    copy.forge.segment(&[(1..=3).map(insert).chain([order]).collect()]);
    copy.forge.set_clock("2026-02-05T23:59:59Z");
    copy.forge.segment(&[vec![delete(3)]]);
    copy.sync(0).await;
    copy.server
        .execute(
            "INSERT INTO users VALUES (3, 'by hand');
             ALTER TABLE orders ADD FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE;
             CREATE ROLE plain LOGIN; GRANT CREATE ON SCHEMA public TO plain;
             DO $$ DECLARE t regclass; BEGIN
               EXECUTE format('GRANT CREATE, TEMPORARY ON DATABASE %I TO plain', current_database());
               FOR t IN SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
               LOOP EXECUTE format('ALTER TABLE %s OWNER TO plain', t); END LOOP; END $$",
        )
        .await;
    copy.set("PG_USER_NAME", "plain");
    let range = ["--from", "2026-02-05T23:00:00Z", "--to", "2026-02-06"];
    let refused = replay(&copy, &range, 2).await;
    assert!(refused.stderr.contains("cannot change without those of orders"), "{refused}");
    assert_eq!(copy.rows("SELECT count(*) FROM orders").await, "1");
    let (_, grant) = refused.stderr.split_once("as superuser: ").expect("a statement");
    copy.server.execute(grant.lines().next().expect("a line")).await;
    replay(&copy, &range, 0).await;
    assert_eq!(copy.rows("SELECT count(*) FROM orders").await, "1");
    assert_eq!(copy.rows("SELECT count(*) FROM users WHERE id = 3").await, "0");
}

/// What no UPDATE writes: the row goes, and comes again.
#[tokio::test]
async fn a_column_that_is_always_an_identity_is_repaired_too() {
    let mut copy = LocalCopy::start(
        "CREATE TABLE a (k text PRIMARY KEY, seq int GENERATED ALWAYS AS IDENTITY, v text, ours text DEFAULT 'ours')",
    )
    .await;
    copy.forge.relation("a", &["k text not null", "seq integer not null always", "v text"], &["k"]);
    let line = |k: &str, seq: u32| {
        format!(r#"{{"table":"a","op":"INSERT","data":{{"k":"{k}","seq":{seq},"v":"v"}}}}"#)
    };
    copy.forge.segment(&[vec![line("a", 1), line("b", 2), line("c", 3)]]);
    copy.applier(&["add-tables", "a"]).succeed().await;
    copy.sync(0).await;
    copy.server
        .execute(
            "DELETE FROM a WHERE k < 'c'; INSERT INTO a OVERRIDING SYSTEM VALUE VALUES ('a', 77, 'v', 'kept'), ('b', 1, 'bad', 'kept')",
        )
        .await;
    let done = replay(&copy, &[&DAY[..], &["--json"]].concat(), 0).await.json();
    assert_eq!(done["tables"]["a"]["changed"]["updated"], 2, "{done}");
    let rows = "SELECT * FROM a ORDER BY 1";
    assert_eq!(copy.rows(rows).await, "a,1,v,kept b,2,v,kept c,3,v,ours");
    assert_eq!(
        replay(&copy, &[&DAY[..], &["--json"]].concat(), 0).await.json()["tables"]["a"]["changed"]["updated"],
        0
    );
}

/// Where others refer to it and foreign keys act, a row cannot go for a moment: what is said then is what helps.
#[tokio::test]
async fn an_identity_of_rows_to_which_others_refer_is_repaired_as_the_message_says() {
    let mut copy = LocalCopy::start(
        "CREATE ROLE reporter LOGIN; GRANT ALL ON DATABASE reporting TO reporter;
         GRANT ALL ON SCHEMA public TO reporter; SET ROLE reporter;
         CREATE TABLE a (k text PRIMARY KEY, seq int GENERATED ALWAYS AS IDENTITY); CREATE TABLE b (k text REFERENCES a)",
    )
    .await;
    copy.set("PG_USER_NAME", "reporter");
    copy.forge.relation("a", &["k text not null", "seq integer not null always"], &["k"]);
    copy.forge.segment(&[vec![r#"{"table":"a","op":"INSERT","data":{"k":"a","seq":1}}"#.to_owned()]]);
    copy.applier(&["add-tables", "a"]).succeed().await;
    copy.sync(0).await;
    copy.server
        .execute("DELETE FROM a; INSERT INTO a OVERRIDING SYSTEM VALUE VALUES ('a', 77); INSERT INTO b VALUES ('a')")
        .await;
    let refused = copy.applier(&[&["replay", "--yes"], &DAY[..]].concat()).run().await;
    let remedy = r#"ALTER TABLE "public"."a" ALTER COLUMN "seq" SET GENERATED BY DEFAULT"#;
    assert!(refused.code() != Some(0) && refused.stderr.contains(remedy), "{refused}");
    assert_eq!(copy.rows("SELECT * FROM a").await, "a,77");
    copy.server.execute(remedy).await;
    replay(&copy, &DAY, 0).await;
    assert_eq!(copy.rows("SELECT * FROM a, b").await, "a,1,a");
}

/// Rows of both go and come again: the second table must not stumble over what the first one left.
#[tokio::test]
async fn rows_change_places_in_two_tables_at_once() {
    let tables = "CREATE TABLE q1 (id int PRIMARY KEY, u int UNIQUE); CREATE TABLE q2 (id int PRIMARY KEY, u int UNIQUE)";
    let mut copy = LocalCopy::start(tables).await;
    let mut rows = Vec::new();
    for table in ["q1", "q2"] {
        copy.forge.relation(table, &["id integer not null", "u integer"], &["id"]);
        rows.extend(
            (1..=3).map(|id| format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"u":{id}}}}}"#)),
        );
    }
    copy.forge.segment(&[rows]);
    copy.applier(&["add-tables", "q1", "q2"]).succeed().await;
    copy.sync(0).await;
    for table in ["q1", "q2"] {
        let swap = format!("UPDATE {table} SET u = u + 10; UPDATE {table} SET u = 4 - id");
        copy.server.execute(&swap).await;
    }
    replay(&copy, &DAY, 0).await;
    assert_eq!(
        copy.rows("SELECT * FROM q1 UNION ALL SELECT * FROM q2 ORDER BY 1").await,
        "1,1 1,1 2,2 2,2 3,3 3,3"
    );
}

/// Triggers of the tables that are replayed, of one beside the other, and of rows that the range does not have.
#[tokio::test]
async fn a_trigger_of_a_replayed_table_changes_no_replayed_table() {
    let tables = "CREATE TABLE a (id int PRIMARY KEY, v int UNIQUE); CREATE TABLE b (id int PRIMARY KEY, v int);
        CREATE TABLE audit (id int);
        CREATE FUNCTION notes() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO public.audit VALUES (NEW.id); RETURN NULL; END $$;
        CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF pg_trigger_depth() < 2 THEN UPDATE public.a SET v = 500 + id WHERE id = 9; END IF; RETURN NULL; END $$;
        CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN UPDATE public.b SET v = v + 1 WHERE id = 9; RETURN NULL; END $$;
        CREATE TRIGGER notes AFTER INSERT OR UPDATE ON a FOR EACH ROW EXECUTE FUNCTION notes();
        CREATE TRIGGER own AFTER UPDATE ON a FOR EACH ROW EXECUTE FUNCTION own();
        CREATE TRIGGER other AFTER UPDATE ON a FOR EACH ROW EXECUTE FUNCTION other();
        ALTER TABLE a DISABLE TRIGGER own; ALTER TABLE a DISABLE TRIGGER other; ALTER TABLE a DISABLE TRIGGER notes";
    let mut copy = LocalCopy::start(tables).await;
    for table in ["a", "b"] {
        copy.forge.relation(table, &["id integer not null", "v integer"], &["id"]);
    }
    let row = |table: &str, id: u32| {
        format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id},"v":{id}}}}}"#)
    };
    copy.forge.segment(&[vec![row("a", 9), row("b", 9)]]);
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    copy.forge.segment(&[vec![row("a", 1), row("a", 2), row("b", 1), row("b", 2)]]);
    copy.applier(&["add-tables", "a", "b"]).succeed().await;
    copy.sync(0).await;
    let range = ["--from", "2026-02-06", "--to", "2026-02-07"];
    let rows = "SELECT * FROM a UNION ALL SELECT * FROM b ORDER BY 1, 2";
    // One is only another value; the others come in each other's way, and one is missing.
    let damage = "SET session_replication_role = replica; UPDATE a SET v = 77 WHERE id = 1; UPDATE b SET v = 7 WHERE id = 1";
    copy.server.execute(damage).await;
    for trigger in ["own", "other"] {
        copy.server.execute(&format!("ALTER TABLE a ENABLE ALWAYS TRIGGER {trigger}")).await;
        let refused = replay(&copy, &range, 2).await;
        let remedy = format!("ALTER TABLE \"public\".\"a\" DISABLE TRIGGER \"{trigger}\"");
        assert!(refused.stderr.contains(&remedy), "{refused}");
        assert!(refused.stderr.contains("nothing was changed"), "{refused}");
        assert_eq!(copy.rows(rows).await, "1,7 1,77 2,2 2,2 9,9 9,9");
        copy.server.execute(&remedy).await;
    }
    // What changes no synced table is its owner's business.
    copy.server.execute("ALTER TABLE a ENABLE ALWAYS TRIGGER notes").await;
    replay(&copy, &range, 0).await;
    assert_eq!(copy.rows(rows).await, "1,1 1,1 2,2 2,2 9,9 9,9");
    let swap = "SET session_replication_role = replica; ALTER TABLE a DISABLE TRIGGER notes; \
        UPDATE a SET v = 77 WHERE id = 1; UPDATE a SET v = 1 WHERE id = 2; UPDATE a SET v = 2 WHERE id = 1; \
        DELETE FROM b WHERE id = 2; ALTER TABLE a ENABLE ALWAYS TRIGGER notes";
    copy.server.execute(swap).await;
    replay(&copy, &range, 0).await;
    assert_eq!(copy.rows(rows).await, "1,1 1,1 2,2 2,2 9,9 9,9");
}

/// Rows of the range have a value that only older changes tell, from when the table was named otherwise.
#[tokio::test]
async fn a_table_whose_older_changes_were_of_another_key_is_left_alone() {
    let tables = "CREATE TABLE k (id int PRIMARY KEY, x int NOT NULL, n int, big text);
        CREATE TABLE ix (id int PRIMARY KEY, x int NOT NULL UNIQUE, n int, big text)";
    let mut copy = LocalCopy::start(tables).await;
    let columns = ["id integer not null", "x integer not null", "n integer", "big text"];
    copy.forge.relation("k", &columns, &["id"]);
    copy.forge.relation_with("ix", &columns, &["id"], ReplicaIdentity::Index);
    let insert = |table: &str| {
        format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":1,"x":1,"n":0,"big":"one"}}}}"#)
    };
    let update = |table: &str, old: &str, n: u32, big: &str| {
        format!(
            r#"{{"table":"{table}","op":"UPDATE","data":{{"id":1,"x":1,"n":{n}{big}}},"old_keys":{{{old}}}}}"#
        )
    };
    copy.forge.segment(&[vec![insert("k"), insert("ix")]]);
    let two = r#","big":"two""#;
    copy.forge.segment(&[vec![update("k", r#""id":1"#, 1, two), update("ix", r#""x":1"#, 1, two)]]);
    copy.applier(&["add-tables", "k", "ix"]).succeed().await;
    copy.sync(0).await;
    copy.server.execute("ALTER TABLE k DROP CONSTRAINT k_pkey, ADD PRIMARY KEY (id, x)").await;
    copy.forge.relation("k", &columns, &["id", "x"]);
    copy.forge.relation("ix", &columns, &["id"]);
    copy.forge.set_clock("2026-02-06T10:00:00Z");
    copy.forge.segment(&[vec![update("k", r#""id":1,"x":1"#, 2, ""), update("ix", r#""id":1"#, 2, "")]]);
    copy.sync(0).await;
    let rows = "SELECT * FROM k UNION ALL SELECT * FROM ix";
    assert_eq!(copy.rows(rows).await, "1,1,2,two 1,1,2,two");
    copy.server.execute("UPDATE k SET n = 77; UPDATE ix SET n = 77").await;
    let left = replay(&copy, &["--from", "2026-02-06", "--to", "2026-02-07"], 1).await;
    assert_eq!(copy.rows(rows).await, "1,1,77,two 1,1,77,two", "{left}");
    assert!(
        left.stdout.contains("k: left alone: ") && left.stdout.contains("its key was another one"),
        "{left}"
    );
    assert!(left.stdout.contains("ix: left alone: "), "{left}");
    assert!(left.stdout.contains("named by another index than its key"), "{left}");
    assert!(left.stdout.contains("mend it with resync"), "{left}");
    // What the range tells whole needs no older change.
    copy.forge.set_clock("2026-02-07T10:00:00Z");
    copy.forge.segment(&[vec![update("k", r#""id":1,"x":1"#, 3, two), update("ix", r#""id":1"#, 3, two)]]);
    copy.sync(0).await;
    copy.server.execute("UPDATE k SET n = 77; UPDATE ix SET n = 77").await;
    replay(&copy, &["--from", "2026-02-07", "--to", "2026-02-08"], 0).await;
    assert_eq!(copy.rows(rows).await, "1,1,3,two 1,1,3,two");
}
