//! Tables that refer to each other, of which one is tried again or made anew while the other one is newer.

use syncdata_formats::manifest::ReplicaIdentity;
use syncdata_tests::LocalCopy;

/// Without the right to the replica role: foreign keys act on what is written.
async fn as_reporter(tables: &str) -> LocalCopy {
    let schema = format!(
        "CREATE ROLE reporter LOGIN; GRANT ALL ON DATABASE reporting TO reporter; GRANT ALL ON SCHEMA public TO reporter;
         SET ROLE reporter; {tables}"
    );
    let mut copy = LocalCopy::start(&schema).await;
    copy.set("PG_USER_NAME", "reporter");
    copy.forge.relation("p", &["id integer not null", "v text"], &["id"]);
    copy.forge.relation("c", &["id integer not null", "p integer"], &["id"]);
    copy
}

fn parent(id: u32, v: &str) -> String {
    format!(r#"{{"table":"p","op":"INSERT","data":{{"id":{id},"v":"{v}"}}}}"#)
}

fn child(id: u32, p: u32) -> String {
    format!(r#"{{"table":"c","op":"INSERT","data":{{"id":{id},"p":{p}}}}}"#)
}

fn moved(id: u32, p: u32) -> String {
    format!(r#"{{"table":"c","op":"UPDATE","data":{{"id":{id},"p":{p}}},"old_keys":{{"id":{id}}}}}"#)
}

fn gone(table: &str, id: u32) -> String {
    format!(r#"{{"table":"{table}","op":"DELETE","old_keys":{{"id":{id}}}}}"#)
}

async fn live(copy: &LocalCopy) -> String {
    copy.rows("SELECT table_name FROM data_sync_table_state WHERE state = 'live' ORDER BY 1").await
}

async fn state_of(copy: &LocalCopy, table: &str) -> String {
    copy.rows(&format!(
        "SELECT state || ' ' || coalesce(reason, '') FROM data_sync_table_state WHERE table_name = '{table}'"
    ))
    .await
}

/// The parent is held up while the source takes a row of it away, with its children, and makes it again with others.
#[tokio::test]
async fn a_parent_that_is_tried_again_takes_no_newer_row_of_a_child_along() {
    for action in ["CASCADE", "SET NULL", "NO ACTION"] {
        let mut copy = as_reporter(&format!(
            "CREATE TABLE p (id int PRIMARY KEY, v text CONSTRAINT held CHECK (v <> 'bad'));
             CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE {action})"
        ))
        .await;
        copy.applier(&["add-tables", "p", "c"]).succeed().await;
        copy.forge.segment(&[vec![parent(1, "x"), parent(2, "x"), child(7, 2), child(8, 1)]]);
        copy.sync(0).await;
        copy.forge.segment(&[
            vec![parent(3, "bad")],
            vec![gone("c", 7), gone("p", 2)],
            vec![parent(2, "again"), child(9, 2)],
        ]);
        copy.sync(1).await;
        assert_eq!(copy.rows("SELECT * FROM c ORDER BY id").await, "8,1 9,2", "{action}");
        copy.server.execute("ALTER TABLE p DROP CONSTRAINT held").await;
        let tried = copy.applier(&["retry", "p"]).run().await;
        copy.sync(i32::from(!live(&copy).await.contains('p'))).await;
        assert_eq!(copy.rows("SELECT * FROM c ORDER BY id").await, "8,1 9,2", "{action}: {tried}");
        assert_eq!(live(&copy).await, "c p", "{action}: {}", state_of(&copy, "p").await);
        assert_eq!(copy.rows("SELECT * FROM p ORDER BY id").await, "1,x 2,again 3,bad", "{action}");
        copy.forge.segment(&[vec![gone("c", 9), gone("p", 2)], vec![child(10, 3)]]);
        copy.sync(0).await;
        assert_eq!(copy.rows("SELECT * FROM c ORDER BY id").await, "8,1 10,3");
    }
}

/// A row of a child that is held up moves to another parent before the first one goes: the cascade of the copy is not
/// that of the source.
#[tokio::test]
async fn a_child_that_is_held_up_is_not_believed_after_a_cascade() {
    let mut copy = as_reporter(
        "CREATE TABLE p (id int PRIMARY KEY, v text);
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE, CONSTRAINT held CHECK (id <> 99))",
    )
    .await;
    copy.applier(&["add-tables", "p", "c"]).succeed().await;
    copy.forge.segment(&[vec![parent(1, "x"), parent(2, "x"), child(7, 2)]]);
    copy.sync(0).await;
    copy.forge.segment(&[vec![child(99, 1)]]);
    copy.sync(1).await;
    copy.forge.segment(&[vec![moved(7, 1)], vec![gone("p", 2)]]);
    copy.sync(1).await;
    copy.server.execute("ALTER TABLE c DROP CONSTRAINT held").await;
    let said = copy.applier(&["retry", "c"]).run().await.expect_code(1);
    assert!(said.stdout.contains("resync c"), "{said}");
    copy.applier(&["resync", "c"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM c ORDER BY id").await, "7,1 99,1");
    copy.sync(0).await;
}

/// By their names the child comes first, and a parent with rows of ours before the children that hold it.
#[tokio::test]
async fn tables_that_refer_to_each_other_are_loaded_together_whatever_their_names() {
    let mut copy = as_reporter(
        "CREATE TABLE p (id int PRIMARY KEY, v text); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p);
         CREATE TABLE z (id int PRIMARY KEY, p int REFERENCES p)",
    )
    .await;
    copy.forge.relation("z", &["id integer not null", "p integer"], &["id"]);
    copy.applier(&["add-tables", "p", "c", "z"]).succeed().await;
    copy.forge.segment(&[vec![parent(1, "x"), child(7, 1), child(3, 1).replace(r#""c""#, r#""z""#)]]);
    copy.sync(0).await;
    copy.applier(&["clear", "--yes"]).succeed().await;
    copy.applier(&["resync", "--all"]).succeed().await;
    copy.server.execute("INSERT INTO p VALUES (5, 'ours'); INSERT INTO z VALUES (9, 5)").await;
    copy.applier(&["resync", "--all"]).succeed().await;
    assert_eq!(live(&copy).await, "c p z");
    let rows = "SELECT 'p', id FROM p UNION ALL SELECT 'c', id FROM c UNION ALL SELECT 'z', id FROM z";
    assert_eq!(copy.rows(rows).await, "p,1 c,7 z,3");
}

/// Its rows have no key of their own, and children refer to another column.
#[tokio::test]
async fn a_parent_without_a_key_is_made_anew_and_keeps_its_children() {
    for action in ["CASCADE", "SET NULL", "NO ACTION"] {
        let mut copy = as_reporter(&format!(
            "CREATE TABLE p (id int NOT NULL UNIQUE, v text);
             CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p (id) ON DELETE {action})"
        ))
        .await;
        copy.forge.relation_with("p", &["id integer not null", "v text"], &[], ReplicaIdentity::Full);
        copy.applier(&["add-tables", "p", "c"]).succeed().await;
        copy.forge.segment(&[vec![parent(1, "x"), parent(2, "x"), child(7, 1), child(8, 2)]]);
        copy.sync(0).await;
        copy.server.execute("UPDATE p SET v = 'by hand'; INSERT INTO p VALUES (5, 'surplus')").await;
        let done = copy.applier(&["resync", "p"]).run().await;
        assert_eq!(copy.rows("SELECT * FROM c ORDER BY id").await, "7,1 8,2", "{action}: {done}");
        assert_eq!(copy.rows("SELECT * FROM p ORDER BY id").await, "1,x 2,x", "{action}: {done}");
    }
}

#[tokio::test]
async fn a_row_that_has_to_go_and_come_again_takes_no_child_along() {
    let mut copy = as_reporter(
        "CREATE TABLE p (id int PRIMARY KEY, v text, n int GENERATED ALWAYS AS IDENTITY);
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE)",
    )
    .await;
    copy.forge.relation("p", &["id integer not null", "v text", "n integer not null always"], &["id"]);
    let numbered =
        |id: u32| format!(r#"{{"table":"p","op":"INSERT","data":{{"id":{id},"v":"x","n":{id}}}}}"#);
    copy.applier(&["add-tables", "p", "c"]).succeed().await;
    copy.forge.segment(&[vec![numbered(1), numbered(2), child(7, 1), child(8, 2)]]);
    copy.sync(0).await;
    copy.server.execute("UPDATE p SET v = 'by hand' WHERE id = 1").await;
    let done = copy.applier(&["resync", "p"]).run().await;
    assert_eq!(copy.rows("SELECT * FROM c ORDER BY id").await, "7,1 8,2", "{done}");
    let is_made = copy.rows("SELECT v FROM p WHERE id = 1").await == "x";
    assert!(is_made || done.stdout.contains("session_replication_role"), "{done}");
}

/// The source has no such key, and keeps the child.
#[tokio::test]
async fn a_cascade_that_only_the_copy_has_is_noticed() {
    let mut copy = as_reporter(
        "CREATE TABLE p (id int PRIMARY KEY, v text);
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE)",
    )
    .await;
    copy.applier(&["add-tables", "p", "c"]).succeed().await;
    copy.forge.segment(&[vec![parent(1, "x"), parent(2, "x"), child(7, 2)]]);
    copy.sync(0).await;
    copy.forge.segment(&[vec![gone("p", 2)]]);
    let said = copy.sync(1).await;
    assert!(said.contains("c: quarantined: a foreign key of the copy changed rows of it"), "{said}");
    assert_eq!(live(&copy).await, "p");
    copy.server.execute("ALTER TABLE c DROP CONSTRAINT c_p_fkey").await;
    copy.applier(&["retry", "c"]).run().await.expect_code(1);
    copy.applier(&["resync", "c"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM c").await, "7,2");
}

/// Production has no key, and two rows that a unique constraint of the copy takes for one.
#[tokio::test]
async fn rows_that_only_a_unique_constraint_of_ours_calls_the_same_are_refused_and_not_lost() {
    let mut copy = as_reporter(
        "CREATE TABLE p (id int NOT NULL UNIQUE, v text); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p (id))",
    )
    .await;
    copy.forge.relation("p", &["id integer not null", "v text"], &[]);
    copy.applier(&["add-tables", "p", "c"]).succeed().await;
    copy.forge.segment(&[vec![parent(1, "x"), parent(2, "x"), child(7, 2)]]);
    copy.sync(0).await;
    copy.forge.segment(&[vec![parent(2, "y")]]);
    copy.sync(1).await;
    assert_eq!(live(&copy).await, "c");
    copy.applier(&["resync", "p"]).run().await.expect_code(1);
    assert_eq!(live(&copy).await, "c", "{}", state_of(&copy, "p").await);
    assert_eq!(copy.rows("SELECT * FROM p ORDER BY id").await, "1,x 2,x");
    // Without the constraint there is nothing to refuse.
    copy.server
        .execute("ALTER TABLE c DROP CONSTRAINT c_p_fkey; ALTER TABLE p DROP CONSTRAINT p_id_key")
        .await;
    copy.applier(&["resync", "p"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM p ORDER BY id, v").await, "1,x 2,x 2,y");
    assert_eq!(live(&copy).await, "c p");
}

/// The same from a snapshot; and keys that only the collation here calls the same.
#[tokio::test]
async fn rows_of_a_snapshot_that_a_key_of_ours_calls_the_same_are_refused_and_not_lost() {
    let mut copy = as_reporter(
        "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE p (id int NOT NULL UNIQUE, v text); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p (id));
         CREATE TABLE q (id text COLLATE ci PRIMARY KEY, v text); CREATE TABLE s (id int PRIMARY KEY, q text COLLATE ci REFERENCES q)",
    )
    .await;
    copy.forge.relation("p", &["id integer not null", "v text"], &[]);
    copy.forge.relation("q", &["id text not null", "v text"], &["id"]);
    copy.forge.relation("s", &["id integer not null", "q text"], &["id"]);
    copy.applier(&["add-tables", "p", "c", "q", "s"]).succeed().await;
    let named = r#"{"table":"q","op":"INSERT","data":{"id":"a","v":"x"}}"#.to_owned();
    let child_of_it = r#"{"table":"s","op":"INSERT","data":{"id":7,"q":"a"}}"#.to_owned();
    copy.forge.segment(&[vec![parent(1, "x"), parent(2, "x"), child(7, 2), named, child_of_it]]);
    copy.sync(0).await;
    let other = r#"{"table":"q","op":"INSERT","data":{"id":"A","v":"y"}}"#.to_owned();
    copy.forge.segment(&[vec![parent(2, "y"), other]]);
    copy.sync(1).await;
    assert_eq!(live(&copy).await, "c s");
    copy.forge.snapshot(&[("p", &["1\tx", "2\tx", "2\ty"]), ("q", &["A\ty", "a\tx"])]);
    let said = copy.applier(&["resync", "p", "q"]).run().await.expect_code(1);
    assert_eq!(live(&copy).await, "c s", "{said}");
    for table in ["p", "q"] {
        let reason = format!(r#"the same ("id"), which is a unique key of {table} here"#);
        assert!(said.stdout.contains(&reason), "{said}");
    }
    assert_eq!(copy.rows("SELECT * FROM p ORDER BY id").await, "1,x 2,x");
    assert_eq!(copy.rows("SELECT * FROM q").await, "a,x");
    copy.server
        .execute("ALTER TABLE c DROP CONSTRAINT c_p_fkey; ALTER TABLE p DROP CONSTRAINT p_id_key")
        .await;
    copy.applier(&["resync", "p"]).run().await.expect_code(1);
    assert_eq!(copy.rows("SELECT * FROM p ORDER BY id, v").await, "1,x 2,x 2,y");
    assert_eq!(live(&copy).await, "c p s");
}
