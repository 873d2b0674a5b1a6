//! What was altered at the source and here before the changes from before it were applied.

use syncdata_tests::LocalCopy;
use syncdata_tests::record::{insert, update};

/// The key is another one since the middle of a segment, and was made here before that was applied: rows from before it may
/// have its values twice.
#[tokio::test]
async fn rows_from_before_a_key_are_not_written_over_each_other() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, b text NOT NULL); CREATE TABLE u (id int PRIMARY KEY, b text NOT NULL)";
    let mut copy = LocalCopy::start(schema).await;
    let columns = ["id integer not null", "b text not null"];
    for table in ["t", "u"] {
        copy.forge.relation(table, &columns, &["id"]);
    }
    copy.forge.segment(&[vec![insert("t", r#""id":5,"b":"z""#)]]);
    copy.applier(&["add-tables", "t", "u"]).succeed().await;
    copy.sync(0).await;
    copy.forge.snapshot(&[("t", &["5\tz"])]);
    for table in ["t", "u"] {
        copy.server
            .execute(&format!(
                "ALTER TABLE {table} DROP CONSTRAINT {table}_pkey, ADD PRIMARY KEY (b), ADD UNIQUE (id)"
            ))
            .await;
        copy.forge.relation(table, &columns, &["b"]);
    }
    let twice = |table: &str| {
        vec![
            insert(table, r#""id":1,"b":"a""#),
            insert(table, r#""id":2,"b":"a""#),
            format!(r#"{{"table":"{table}","op":"DELETE","old_keys":{{"id":2}}}}"#),
        ]
    };
    copy.forge.segment(&[twice("t"), twice("u")]);
    copy.sync(1).await;
    // Of the one nothing was known of an earlier key.
    for (table, words) in [("t", "duplicate key"), ("u", "has become another one at the source")] {
        let (state, reason) = (copy.state(table).await, copy.reason(table).await);
        assert!(state == "quarantined" && reason.contains(words), "{table}: {state}: {reason}");
    }
    // A base copy from before says what the key was; one that is made of the changes alone does not.
    copy.applier(&["resync", "t"]).run().await;
    let found = (copy.state("t").await, copy.rows("SELECT * FROM t ORDER BY id").await);
    assert_eq!((found.0.as_str(), found.1.as_str()), ("live", "1,a 5,z"));
    let refused = copy.applier(&["resync", "u"]).run().await.expect_code(1);
    let said = refused.stdout + &refused.stderr;
    assert!(said.contains("has become another one at the source"), "{said}");
    copy.forge.snapshot(&[("t", &["1\ta", "5\tz"]), ("u", &["1\ta"])]);
    copy.applier(&["resync", "u"]).succeed().await;
    copy.forge.segment(&[vec![
        insert("t", r#""id":6,"b":"c""#),
        update("t", r#""b":"a""#, r#""id":1,"b":"d""#),
        insert("u", r#""id":1,"b":"a""#),
    ]]);
    copy.sync(0).await;
    assert_eq!(copy.rows("SELECT * FROM t ORDER BY id").await, "1,d 5,z 6,c");
    assert_eq!(copy.rows("SELECT * FROM u").await, "1,a");
}
