//! Tables that are let go, or emptied, while their base copy is on the way.

use crate::archives::Held;
use crate::{USERS, insert, state, users};

/// What was made for them is for nobody: their rows stay as they are, and nothing is said of them.
#[tokio::test]
async fn a_load_that_nobody_waits_for_any_more_writes_nothing() {
    let mut copy = users().await;
    let tables = "CREATE TABLE big (id int PRIMARY KEY, name text); CREATE TABLE other (id int PRIMARY KEY, name text)";
    copy.server.execute(tables).await;
    copy.forge.relation("big", USERS, &["id"]);
    copy.forge.relation("other", USERS, &["id"]);
    copy.forge.segment(&[vec![insert(1, "one"), insert(1, "one").replace("users", "other")]]);
    copy.applier(&["add-tables", "users", "other"]).succeed().await;
    copy.sync(0).await;
    let rows = ["1\tone", "2\ttwo"];
    copy.forge.snapshot(&[("big", &rows), ("other", &rows), ("users", &rows)]);
    let mut held = Held::of(&copy);

    // First rows: of a table that goes, of one that goes and comes again at once.
    copy.applier(&["add-tables", "big"]).succeed().await;
    let first = held.command(&copy, &["sync"]).await;
    assert_eq!(state(&copy, "big").await, "loading");
    copy.applier(&["remove-tables", "big"]).succeed().await;
    copy.server.execute("INSERT INTO big VALUES (77, 'of its own')").await;
    held.go();
    first.ended().await.expect_code(0);
    let left = "SELECT count(*) FROM data_sync_table_state WHERE table_name = 'big'";
    assert_eq!(copy.rows("SELECT * FROM big").await, "77,of its own");
    assert_eq!(copy.rows(left).await, "0");
    // By hand, as the manual has it: the rows are compared with a base before it is live.
    copy.server.execute("INSERT INTO tables_to_sync (table_name) VALUES ('big')").await;
    let first = held.command(&copy, &["sync"]).await;
    copy.applier(&["remove-tables", "big"]).succeed().await;
    copy.applier(&["add-tables", "big"]).succeed().await;
    held.go();
    first.ended().await;
    assert_eq!(copy.rows("SELECT * FROM big").await, "77,of its own");
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM big ORDER BY id").await, "1,one 2,two");
    assert_eq!(state(&copy, "big").await, "live");

    // Rows that are made anew: of a table that goes, and of tables that are emptied.
    let resync = held.command(&copy, &["resync", "users"]).await;
    copy.applier(&["remove-tables", "users"]).succeed().await;
    held.go();
    resync.ended().await;
    assert_eq!(copy.rows("SELECT * FROM users").await, "1,one");
    let resync = held.command(&copy, &["resync", "other"]).await;
    copy.applier(&["clear", "--yes"]).succeed().await;
    held.go();
    resync.ended().await;
    for _ in 0..2 {
        assert_eq!(copy.rows("SELECT (SELECT count(*) FROM other), (SELECT count(*) FROM big)").await, "0,0");
        assert_eq!(state(&copy, "other").await, "pending");
        copy.sync(0).await;
    }
    copy.applier(&["resync", "other", "big"]).succeed().await;
    assert_eq!(copy.rows("SELECT (SELECT count(*) FROM other), (SELECT count(*) FROM big)").await, "2,2");
}
