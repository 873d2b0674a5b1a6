//! Dumps that are restored into the database that they are of: all of it, or our tables alone.

use syncdata_formats::manifest::ReplicaIdentity;
use syncdata_tests::LocalCopy;

const TABLES: [&str; 2] = ["a_loose", "loose"];

fn insert(table: &str, id: u32) -> String {
    format!(r#"{{"table":"{table}","op":"INSERT","data":{{"id":{id}}}}}"#)
}

/// Two tables without keys, the names of which come before and after those of ours.
async fn synced() -> LocalCopy {
    let mut copy = LocalCopy::start("CREATE TABLE a_loose (id int); CREATE TABLE loose (id int)").await;
    for table in TABLES {
        copy.forge.relation_with(table, &["id integer"], &[], ReplicaIdentity::Full);
    }
    more(&mut copy, 1);
    copy.applier(&["add-tables", "a_loose", "loose"]).succeed().await;
    copy.sync(0).await;
    copy
}

fn more(copy: &mut LocalCopy, id: u32) {
    copy.forge.segment(&[TABLES.iter().map(|table| insert(table, id)).collect::<Vec<_>>()]);
}

fn run(copy: &LocalCopy, program: &str, arguments: &[&str]) {
    let file = copy.server.data_folder().join("kept.dump");
    let (port, folder) = (copy.server.port().to_string(), copy.server.socket_folder().display().to_string());
    let (file, user) = (file.display().to_string(), copy.server.user());
    let mut all = vec!["-h", &folder, "-p", &port, "-U", user, "-d", copy.server.database()];
    all.extend(arguments);
    match program {
        "pg_dump" => all.extend(["-Fc", "-f", &file]),
        _ => all.extend(["--clean", "--if-exists", &file]),
    }
    copy.server.run(program, &all);
}

async fn assert_rows(copy: &LocalCopy, expected: &str) {
    for table in TABLES {
        assert_eq!(copy.rows(&format!("SELECT id FROM {table} ORDER BY id")).await, expected, "{table}");
    }
}

#[tokio::test]
async fn a_dump_that_was_restored_as_a_whole_goes_on() {
    let mut copy = synced().await;
    run(&copy, "pg_dump", &[]);
    more(&mut copy, 2);
    copy.sync(0).await;
    for table in TABLES {
        copy.server.execute(&format!("DROP TABLE {table}; CREATE TABLE {table} (id int)")).await;
        copy.applier(&["resync", table]).succeed().await;
    }
    run(&copy, "pg_restore", &[]);
    assert_rows(&copy, "1").await;
    more(&mut copy, 3);
    copy.sync(0).await;
    assert_rows(&copy, "1 2 3").await;
}

#[tokio::test]
async fn our_tables_of_a_time_before_the_tables_were_made_again_are_noticed() {
    for what in [&["-t", "public.*", "-T", "loose", "-T", "a_loose"][..], &["-T", "loose", "-T", "a_loose"]] {
        let mut copy = synced().await;
        run(&copy, "pg_dump", what);
        more(&mut copy, 2);
        copy.sync(0).await;
        for table in TABLES {
            copy.server.execute(&format!("DROP TABLE {table}; CREATE TABLE {table} (id int)")).await;
            copy.applier(&["resync", table]).succeed().await;
        }
        run(&copy, "pg_restore", &[]);
        let said = copy.sync(1).await;
        assert_rows(&copy, "1 2").await;
        for table in TABLES {
            assert!(
                said.contains(&format!("of another moment; run: syncdata-applier resync {table}")),
                "{said}"
            );
        }
        copy.applier(&["resync", "a_loose", "loose"]).succeed().await;
        more(&mut copy, 3);
        copy.sync(0).await;
        assert_rows(&copy, "1 2 3").await;
    }
}
