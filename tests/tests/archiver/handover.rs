//! Two spools for one slot, one after the other, that do not capture the same tables: what one of them did not read, the
//! other one has missed as well.

#![allow(clippy::print_stdout)] // Which of them it was is shown when the test fails.

use std::path::Path;
use std::process::Command;

use syncdata_tests::{Program, cases};

use crate::story::Story;

const SCHEMA: &str = "CREATE TABLE a (id int, day int, note text, PRIMARY KEY (id, day));
    CREATE TABLE b (LIKE a INCLUDING ALL); CREATE TABLE n (id int);
    INSERT INTO a VALUES (1, 1, 'a'); INSERT INTO b VALUES (1, 1, 'b')";

/// How the changes of `b` come to be read without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    /// Another host reads `a` alone for a while.
    OtherHost,
    /// `b` leaves the settings, and then the spool is lost.
    SpoolLost,
    /// `b` leaves the settings, and then the spool of before is brought back.
    SpoolRestored,
    /// Another host reads `a` alone, and the spool of this one is lost.
    BothLost,
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(copied.success());
}

fn other_host(story: &Story) -> Program {
    let spool = story.world.folder().join("other-spool");
    story.world.archiver(["run", "--once"]).env("SYNCDATA_SPOOL_DIR", spool).env("SYNCDATA_TABLES", "a")
}

/// Polls without `b`, in which rows of it come; `while_away` are others.
async fn without_b(story: &mut Story, away: Away, while_away: &str) {
    let (spool, kept) = (story.world.spool_dir(), story.world.folder().join("kept"));
    if away == Away::SpoolRestored {
        copy(&spool, &kept);
    }
    for id in 2..4 {
        story.world.source.execute(&format!("INSERT INTO b VALUES ({id}, 2, 'missed'); {while_away}")).await;
        let ran = match away {
            Away::OtherHost | Away::BothLost => other_host(story).run().await,
            Away::SpoolLost | Away::SpoolRestored => {
                story.set_tables(&["a"]);
                story.world.archiver(["run", "--once"]).run().await
            }
        };
        assert!(matches!(ran.code(), Some(0 | 1)), "{away:?} {ran}");
    }
    if away != Away::OtherHost {
        std::fs::remove_dir_all(&spool).expect("our folder");
    }
    if away == Away::SpoolRestored {
        copy(&kept, &spool);
    }
    story.set_tables(&["a", "b"]);
}

#[tokio::test]
async fn what_another_spool_did_not_capture_is_a_gap() {
    // With a segment that says what is captured, without a new one, and without any.
    let (row, other) =
        ("INSERT INTO a SELECT max(id) + 1, 2, 'while away' FROM a", "INSERT INTO n VALUES (1)");
    let away = [Away::OtherHost, Away::SpoolLost, Away::SpoolRestored, Away::BothLost];
    let all =
        [(row, row), (row, other), (other, other)].into_iter().flat_map(|rows| away.map(|away| (rows, away)));
    for ((before, while_away), away) in cases(all) {
        println!("{away:?}: {before}; {while_away}");
        let mut story = Story::start(&["a", "b"], SCHEMA, &["a", "b"]).await;
        assert_eq!(story.after(&[before]).await, [].into());
        without_b(&mut story, away, while_away).await;
        let back = ["INSERT INTO b VALUES (9, 9, 'back')", "INSERT INTO a VALUES (9, 9, 'back')"];
        assert_eq!(story.after(&back).await, ["b: not captured meanwhile".to_owned()].into());
        assert_eq!(story.state("b").await, "stale");
        assert_eq!(story.state("a").await, "live");
        story.mend().await;
        assert_eq!(story.after(&["DELETE FROM b WHERE id = 9"]).await, [].into());
    }
}

/// The other one, too, knows afterwards what it did not read.
#[tokio::test]
async fn a_host_whose_settings_gain_a_table_that_another_one_captured_has_missed_what_came_meanwhile() {
    let mut story = Story::start(&["a", "b"], SCHEMA, &["a", "b"]).await;
    without_b(&mut story, Away::OtherHost, "INSERT INTO n VALUES (1)").await;
    let ran = other_host(&story).env("SYNCDATA_TABLES", "a,b").run().await.expect_code(1);
    assert!(ran.stderr.contains("not captured meanwhile"), "{ran}");
    story.tolerant = true;
    story.carry().await;
    assert_eq!(story.state("b").await, "stale");
}

/// A name that left the capture long ago is known from the archive, whatever became of spools since.
#[tokio::test]
async fn a_name_that_comes_back_after_the_spool_was_lost_is_a_gap() {
    for leaves in cases(["SELECT 1", "DROP TABLE b"]) {
        let row = "INSERT INTO a SELECT max(id) + 1, 2, 'row' FROM a";
        let mut story = Story::start(&["a", "b"], SCHEMA, &["a", "b"]).await;
        assert_eq!(story.after(&[row, "INSERT INTO b VALUES (2, 2, 'x')"]).await, [].into());
        story.set_tables(&["a"]);
        assert_eq!(story.after(&[row, leaves]).await, [].into());
        assert_eq!(
            story.after(&[row, "CREATE TABLE IF NOT EXISTS b (LIKE a INCLUDING ALL)"]).await,
            [].into()
        );
        std::fs::remove_dir_all(story.world.spool_dir()).expect("our folder");
        assert_eq!(story.after(&[row, "INSERT INTO b VALUES (3, 3, 'missed')"]).await, [].into());
        story.set_tables(&["a", "b"]);
        let gaps = story.after(&[row, "INSERT INTO b VALUES (4, 4, 'back')"]).await;
        assert_eq!(gaps, ["b: not captured meanwhile".to_owned()].into(), "{leaves}");
        assert_eq!(story.state("b").await, "stale");
    }
}
