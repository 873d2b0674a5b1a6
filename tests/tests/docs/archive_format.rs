//! docs/archive-format.md, tried: its one-liners run in the shell of an operator, on the archive that the page speaks of
//! and on one that the archiver made.

use std::path::Path;
use std::process::Command;

use syncdata_formats::manifest::{Column, Relation, ReplicaIdentity};
use syncdata_formats::proof::{Digester, Layout};
use syncdata_tests::PostgresServer;
use syncdata_tests::WorldOptions;
use syncdata_tests::forge::Forge;
use syncdata_tests::world::ARCHIVER_ROLE;

const PAGE: &str = include_str!("../../../docs/archive-format.md");

/// A script of the page, and what it prints, where the page says so.
struct Script {
    text: String,
    prints: Option<String>,
}

/// Everything below "One-liners".
fn scripts() -> Vec<Script> {
    let (_, section) = PAGE.split_once("## One-liners").expect("the section");
    let mut scripts: Vec<Script> = Vec::new();
    let mut blocks = section.split("```");
    blocks.next();
    // Inside and outside of blocks take turns.
    while let (Some(block), Some(_)) = (blocks.next(), blocks.next()) {
        match block.split_once('\n').expect("a block has lines") {
            ("sh", text) => scripts.push(Script { text: text.to_owned(), prints: None }),
            ("text", text) => scripts.last_mut().expect("after its script").prints = Some(text.to_owned()),
            (other, _) => panic!("a block of {other:?}"),
        }
    }
    scripts
}

fn run(script: &Script, archive: &Path) -> String {
    let shell = ["-euo", "pipefail", "-c", &script.text];
    let done = Command::new("bash").args(shell).current_dir(archive).output().expect("bash is installed");
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{}\n{out}{err}", script.text);
    out.into_owned()
}

/// Somebody renamed row 7 and moved it to key 70.
fn forged(folder: &Path) {
    let mut forge = Forge::new(folder);
    for table in ["users", "orders"] {
        forge.relation(table, &["id integer not null", "name text"], &["id"]);
    }
    let row = |op: &str, rest: &str| format!(r#"{{"table":"users","op":"{op}",{rest}}}"#);
    forge.set_clock("2026-02-02T10:00:00Z");
    forge.segment(&[vec![
        row("INSERT", r#""data":{"id":7,"name":"Ann"}"#),
        row("INSERT", r#""data":{"id":8,"name":"Bob"}"#),
    ]]);
    forge.set_clock("2026-02-03T09:00:00Z");
    forge.segment(&[
        vec![row("UPDATE", r#""data":{"id":7,"name":"Anna"},"old_keys":{"id":7}"#)],
        vec![row("DELETE", r#""old_keys":{"id":8}"#)],
    ]);
    forge.gap(&["orders"]);
    forge.set_clock("2026-02-04T07:00:00Z");
    forge.segment(&[vec![r#"{"table":"orders","op":"INSERT","data":{"id":1,"name":"x"}}"#]]);
    forge.set_clock("2026-02-05T08:00:00Z");
    forge.segment(&[vec![row("UPDATE", r#""data":{"id":70,"name":"Anna"},"old_keys":{"id":7}"#)]]);
}

#[test]
fn every_one_liner_prints_what_the_page_says() {
    let folder = tempfile::tempdir().expect("a folder");
    forged(folder.path());
    let scripts = scripts();
    assert!(scripts.len() >= 8, "the page has lost its one-liners");
    for script in scripts {
        let prints = script.prints.as_deref().expect("the page says what it prints");
        assert_eq!(run(&script, folder.path()), prints, "{}", script.text);
    }
}

#[tokio::test]
async fn every_one_liner_works_on_an_archive_that_the_archiver_made() {
    let world = WorldOptions::default().archiver_setting("keep_singles", 0).start().await;
    world.source.execute("CREATE TABLE users (id int PRIMARY KEY, name text, big numeric)").await;
    world.source.execute("SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')").await;
    for sql in [
        "INSERT INTO users SELECT i, 'n' || i, i / 3.0 FROM generate_series(1, 500) i",
        "UPDATE users SET name = 'it''s \"7\"' WHERE id = 7",
        "DELETE FROM users WHERE id = 7",
    ] {
        world.source.execute(sql).await;
        world.archiver(["run", "--once"]).succeed().await;
    }
    world.source.execute(&format!("GRANT pg_read_all_data TO {ARCHIVER_ROLE}")).await;
    world.archiver(["snapshot"]).succeed().await;
    // Two days later nothing lies alone.
    world.archiver(["prune"]).clock("+2d").succeed().await;
    let alone = std::fs::read_dir(world.archive_dir().join("segments")).expect("it is there");
    assert_eq!(
        alone.flat_map(|day| std::fs::read_dir(day.expect("a day").path()).expect("a folder")).count(),
        0
    );
    let said: Vec<String> = scripts().iter().map(|script| run(script, world.archive_dir())).collect();
    assert_eq!(said[1].lines().count(), 3, "{said:#?}");
    for words in
        ["content: OK", "files: OK", "chain: OK", "base copies: OK", "roll-ups: OK", "segment 3, all"]
    {
        assert!(said.iter().any(|said| said.contains(words)), "{words}: {said:#?}");
    }
}

/// The script by which a stranger recomputes a bucket finds what our own digest does.
#[tokio::test]
async fn a_bucket_by_hand_is_the_bucket_of_a_proof() {
    let server = PostgresServer::start().await;
    server
        .execute(
            r"CREATE TABLE users (id integer PRIMARY KEY, name text);
             INSERT INTO users SELECT i, CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE E'Jö\n\\ % ' || i END
               FROM generate_series(1, 40) i",
        )
        .await;
    let column = |name: &str, type_name: &str| Column {
        name: name.into(),
        type_name: type_name.into(),
        ..Column::default()
    };
    let columns = vec![column("id", "integer"), column("name", "text")];
    let relation = Relation::new(columns, vec!["id".into()], ReplicaIdentity::Default);
    let mut digester = Digester::new(Layout::of(&relation), 2);
    let client = server.connect().await;
    let rows = client.copy_out("COPY users (id, name) TO STDOUT").await.expect("COPY");
    let pieces: Vec<_> = futures_util::TryStreamExt::try_collect(rows).await.expect("rows");
    pieces.iter().for_each(|piece| digester.push(piece).expect("rows"));
    let buckets = digester.finish().expect("whole rows");

    let (_, section) = PAGE.split_once("### A bucket by hand").expect("the section");
    let (_, block) = section.split_once("```sh\n").expect("its script");
    let (script, _) = block.split_once("```").expect("its end");
    for bucket in 0..4 {
        let done = Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .env("bucket", bucket.to_string())
            .env("PGHOST", server.host())
            .env("PGPORT", server.port().to_string())
            .env("PGUSER", server.user())
            .env("PGDATABASE", server.database())
            .output()
            .expect("bash is installed");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let (count, sum) = buckets.get(bucket);
        assert_eq!(said.trim(), format!("{count:016x}{sum:032x}"), "bucket {bucket}");
    }
}
