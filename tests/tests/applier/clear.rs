//! `clear`, where tables that stay refer to those that are emptied.

use syncdata_tests::LocalCopy;

use super::two_tables;

async fn synced(schema: &str) -> LocalCopy {
    let copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.applier(&["sync"]).succeed().await;
    copy.server.execute(schema).await;
    copy
}

const COUNTS: &str = "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM orders)";

#[tokio::test]
async fn an_empty_table_that_stays_is_in_nobodys_way() {
    for action in ["NO ACTION", "CASCADE"] {
        let copy = synced(&format!(
            "CREATE TABLE note (id int, u int CONSTRAINT \"of Whom\" REFERENCES users ON DELETE {action});
             INSERT INTO note VALUES (1, NULL)"
        ))
        .await;
        copy.applier(&["clear", "--yes"]).succeed().await;
        assert_eq!(copy.rows(COUNTS).await, "0,0", "{action}");
        assert_eq!(copy.rows("SELECT count(*) FROM note").await, "1");
        let status = copy.applier(&["status", "--json"]).run().await.expect_code(1).json();
        assert_eq!(status["healthy"], false, "{status}");
        assert!(status["problems"].to_string().contains("users is pending: emptied by clear"), "{status}");
        copy.applier(&["resync", "users", "orders"]).succeed().await;
        assert_eq!(copy.rows(COUNTS).await, "2,1");
    }
}

#[tokio::test]
async fn rows_that_stay_and_refer_are_named_with_their_constraint() {
    for action in ["NO ACTION", "CASCADE", "SET NULL"] {
        let copy = synced(&format!(
            "CREATE TABLE note (u int CONSTRAINT \"of Whom\" REFERENCES users ON DELETE {action});
             INSERT INTO note VALUES (1)"
        ))
        .await;
        let refused = copy.applier(&["clear", "--yes"]).run().await.expect_code(2);
        for word in ["note", "\"of Whom\"", "users", "nothing was changed"] {
            assert!(refused.stderr.contains(word), "{word}: {refused}");
        }
        assert_eq!(copy.rows(COUNTS).await, "2,1");
        assert_eq!(copy.rows("SELECT u FROM note").await, "1");
        // What it tells people to do.
        let (_, statement) = refused.stderr.split_once("or run: ").expect("a statement");
        copy.server.execute(statement.lines().next().expect("a line")).await;
        copy.applier(&["clear", "--yes"]).succeed().await;
        assert_eq!(copy.rows(COUNTS).await, "0,0");
    }
}

#[tokio::test]
async fn without_the_replica_role_children_go_before_their_parents() {
    let mut copy = LocalCopy::start(
        "CREATE ROLE reporter LOGIN; GRANT ALL ON DATABASE reporting TO reporter; GRANT ALL ON SCHEMA public TO reporter;
         SET ROLE reporter; CREATE TABLE users (id int PRIMARY KEY, name text);
         CREATE TABLE orders (id int PRIMARY KEY, user_id int REFERENCES users);
         CREATE TABLE note (u int REFERENCES users)",
    )
    .await;
    copy.set("PG_USER_NAME", "reporter");
    copy.forge.relation("users", &["id integer not null", "name text"], &["id"]);
    copy.forge.relation("orders", &["id integer not null", "user_id integer"], &["id"]);
    copy.forge.segment(&[vec![
        r#"{"table":"users","op":"INSERT","data":{"id":1,"name":"Ann"}}"#,
        r#"{"table":"orders","op":"INSERT","data":{"id":7,"user_id":1}}"#,
    ]]);
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    copy.applier(&["clear", "--yes"]).succeed().await;
    assert_eq!(copy.rows(COUNTS).await, "0,0");
}
