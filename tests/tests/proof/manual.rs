//! docs/proofs.md, played: whoever spoils one value by hand is told which row and column, and who it was, and mends it with
//! the three commands that stand there.

use syncdata_tests::world::WorldOptions;

use crate::scene::{self, TABLES, assert_all_equal, prove, prove_differing};

const PAGE: &str = include_str!("../../../docs/proofs.md");

/// Each command of the page's `console` block, and what is printed below it.
fn steps() -> Vec<(&'static str, String)> {
    let (_, block) = PAGE.split_once("```console\n").expect("a block of commands");
    let (block, _) = block.split_once("\n```").expect("it ends");
    let mut steps: Vec<(&str, String)> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => steps.push((command, String::new())),
            None => {
                let printed = &mut steps.last_mut().expect("a command comes first").1;
                printed.push_str(line);
                printed.push('\n');
            }
        }
    }
    steps
}

/// Positions, proofs and times are others each time.
fn evened_out(text: &str) -> String {
    let even = |word: &str| {
        let bare = word.trim_matches(['(', ')', ',', ':', ';']);
        let is_lsn = bare.split_once('/').is_some_and(|(high, low)| {
            [high, low].iter().all(|half| !half.is_empty() && half.chars().all(|c| c.is_ascii_hexdigit()))
        });
        let is_time = bare.len() == 20 && bare.starts_with("20") && bare.ends_with('Z');
        let is_proof = bare.len() == 33 && bare.ends_with('Z') && bare.as_bytes()[16] == b'-';
        match (is_lsn, is_time, is_proof) {
            (true, _, _) => word.replace(bare, "LSN"),
            (_, true, _) => word.replace(bare, "TIME"),
            (_, _, true) => word.replace(bare, "PROOF"),
            _ => word.to_owned(),
        }
    };
    let line = |line: &str| line.split(' ').map(even).collect::<Vec<String>>().join(" ") + "\n";
    text.lines().map(line).collect()
}

#[tokio::test]
async fn whoever_spoils_one_value_mends_it_with_the_three_commands_of_the_manual() {
    let world = scene::world(WorldOptions::default()).await;
    world.target.execute("UPDATE accounts SET owner = 'Mallory' WHERE id = 42").await;
    prove_differing(&world).await;
    let steps = steps();
    assert_eq!(steps.len(), 3);
    for (command, prints) in steps {
        let words: Vec<&str> = command.split_whitespace().collect();
        let ["syncdata-applier", arguments @ ..] = words.as_slice() else { panic!("{command}") };
        let printed = world.applier(arguments.iter()).run().await;
        assert_eq!(evened_out(&printed.stdout), evened_out(&prints), "{command}\n{printed}");
    }
    world.assert_same(&TABLES).await;
    prove(&world).await;
    assert_all_equal(&world).await;
}
