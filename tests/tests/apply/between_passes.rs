//! What was altered at the source and here before the changes from before it were applied.

use syncdata_formats::manifest::{Column, Relation, ReplicaIdentity};
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

/// A column that comes to rows which are there, of a type that is narrower here: what they have in it at the source.
#[tokio::test]
async fn a_newer_column_of_a_type_that_is_narrower_here_is_not_said_to_have_what_older_rows_have() {
    let schema = "CREATE DOMAIN amount AS numeric(8,2); CREATE TABLE n (id int PRIMARY KEY)";
    let mut copy = LocalCopy::start(schema).await;
    let described = |fee: Option<&str>| {
        let column = |attnum: u16, name: &str, type_name: &str, missing: Option<&str>| Column {
            name: name.into(),
            type_name: type_name.into(),
            not_null: name == "id",
            attnum: Some(attnum),
            missing: missing.map(str::to_owned),
            ..Column::default()
        };
        let mut columns = vec![column(1, "id", "integer", None)];
        columns.extend(fee.map(|fee| column(2, "fee", "public.amount", Some(fee))));
        Relation::described(columns, vec!["id".into()], ReplicaIdentity::Default, Default::default())
    };
    copy.forge.describe("n", described(None));
    copy.forge.segment(&[vec![insert("n", r#""id":1"#)]]);
    copy.applier(&["add-tables", "n"]).succeed().await;
    copy.sync(0).await;
    copy.forge.snapshot(&[("n", &["1"])]);
    copy.server.execute("ALTER TABLE n ADD fee amount DEFAULT 1.234").await;
    copy.forge.describe("n", described(Some("1.234")));
    copy.forge.segment(&[vec![insert("n", r#""id":2,"fee":"1.50""#)]]);
    copy.sync(1).await;
    assert_eq!(copy.state("n").await, "quarantined");
    assert!(copy.reason("n").await.contains("older rows have '1.234' in it"), "{}", copy.reason("n").await);
    let refused = copy.applier(&["resync", "n"]).run().await.expect_code(1);
    let said = refused.stdout + &refused.stderr;
    assert!(said.contains("is defined otherwise here than at the source"), "{said}");
    let reason = copy.reason("n").await;
    let (_, remedy) = reason.split_once("run: ").unwrap_or_else(|| panic!("{reason}"));
    let (update, alter) = remedy.split_once("  -- ").unwrap_or_else(|| panic!("{reason}"));
    let (_, alter) = alter.split_once("run first: ").unwrap_or_else(|| panic!("{reason}"));
    copy.server.execute("ALTER TABLE n ALTER fee DROP DEFAULT").await;
    copy.server.execute(alter).await;
    copy.server.execute(update).await;
    copy.applier(&["retry", "n"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM n ORDER BY id").await, "1,1.234 2,1.50");
    copy.applier(&["resync", "n"]).succeed().await;
    assert_eq!(copy.rows("SELECT * FROM n ORDER BY id").await, "1,1.234 2,1.50");
}
