//! docs/walk-through.md, played: every command in it is run, and what it prints is what stands there.

use syncdata_tests::{Daemon, LocalCopy};

use super::two_tables;

const PAGE: &str = include_str!("../../../docs/walk-through.md");

/// A command of the page and what is printed below it.
struct Step<'a> {
    command: &'a str,
    prints: String,
}

/// The blocks that begin with ```` ```console ````.
fn steps(page: &str) -> Vec<Step<'_>> {
    let mut steps: Vec<Step<'_>> = Vec::new();
    let mut is_inside = false;
    for line in page.lines() {
        match (is_inside, line.strip_prefix("$ ")) {
            (false, _) => is_inside = line == "```console",
            (true, _) if line == "```" => is_inside = false,
            (true, Some(command)) => steps.push(Step { command, prints: String::new() }),
            (true, None) => {
                let step = steps.last_mut().expect("a block begins with a command");
                step.prints.push_str(line);
                step.prints.push('\n');
            }
        }
    }
    steps
}

/// Times differ from run to run; so does where the archive lies.
fn evened_out(text: &str, copy: &LocalCopy) -> String {
    let text = text.replace(&copy.archive_dir().display().to_string(), "/backup/app");
    let is_time = |word: &str| word.len() == 20 && word.starts_with("20") && word.ends_with('Z');
    let even = |line: &str| {
        if line.starts_with("uptime: ") {
            return "uptime: SECONDS\n".to_owned();
        }
        let is_time = |word: &str| is_time(word.trim_end_matches(','));
        let words: Vec<&str> =
            line.split(' ').map(|word| if is_time(word) { "TIME" } else { word }).collect();
        words.join(" ") + "\n"
    };
    text.lines().map(even).collect()
}

#[tokio::test]
async fn the_walk_through_prints_what_it_says() {
    let copy = two_tables().await;
    let mut daemons: Vec<Daemon> = Vec::new();
    let steps = steps(PAGE);
    for wanted in ["add-tables", "start", "status", "list-tables", "stop", "remove-tables", "clear"] {
        assert!(steps.iter().any(|step| step.command.contains(wanted)), "the page does not show {wanted}");
    }
    for step in steps {
        let words: Vec<&str> = step.command.split_whitespace().collect();
        match words.as_slice() {
            ["syncdata-applier", "start", "&"] => {
                let mut daemon = copy.applier(&["start"]).spawn();
                daemon.says("pass done").await;
                daemons.push(daemon);
            }
            ["syncdata-applier", arguments @ ..] => {
                let printed = copy.applier(arguments).run().await;
                let (found, wanted) = (evened_out(&printed.stdout, &copy), evened_out(&step.prints, &copy));
                assert_eq!(found, wanted, "{}\n{printed}", step.command);
            }
            ["echo", "$?"] | ["psql", ..] => {}
            _ => panic!("nobody knows how to play {:?}", step.command),
        }
    }
    for daemon in daemons {
        daemon.ended().await.expect_code(0);
    }
}
