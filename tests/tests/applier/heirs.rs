//! Tables of the copy that inherit from synced ones.

use super::two_tables;

#[tokio::test]
async fn rows_of_a_table_that_inherits_here_alone_are_noticed() {
    let mut copy = two_tables().await;
    copy.applier(&["add-tables", "users", "orders"]).succeed().await;
    copy.sync(0).await;
    let rows = "SELECT * FROM users ORDER BY id";
    copy.server.execute("CREATE TABLE own () INHERITS (users)").await;
    copy.sync(0).await;
    copy.server.execute("CREATE TABLE deeper () INHERITS (own); INSERT INTO deeper VALUES (9, 'mine')").await;
    let said = copy.sync(1).await;
    assert!(said.contains("users: quarantined: public.deeper inherits from the local table"), "{said}");
    copy.forge.segment(&[vec![
        r#"{"table":"users","op":"INSERT","data":{"id":3,"name":"Cid"}}"#,
        r#"{"table":"orders","op":"INSERT","data":{"id":8,"user_id":3}}"#,
    ]]);
    copy.sync(1).await;
    assert_eq!(copy.rows("SELECT id FROM orders ORDER BY id").await, "7 8");
    copy.applier(&["retry", "users"]).run().await.expect_code(1);
    let refused = copy.applier(&["resync", "users"]).run().await.expect_code(1);
    assert!(refused.stderr.contains("ALTER TABLE public.deeper NO INHERIT public.own  --"), "{refused}");
    copy.server.execute("ALTER TABLE own NO INHERIT users").await;
    copy.applier(&["retry", "users"]).succeed().await;
    copy.sync(0).await;
    assert_eq!(copy.rows(rows).await, "1,Ann 2,Bob 3,Cid");
    assert_eq!(copy.rows("SELECT id FROM deeper").await, "9");
}
