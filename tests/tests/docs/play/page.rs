//! A page as steps: commands after a prompt, with what they print, and settings to be written.

use crate::pages::blocks;

pub(super) enum Step<'a> {
    Command(Command<'a>),
    Settings(Settings<'a>),
}

impl Step<'_> {
    /// The heading that it stands under.
    pub(super) fn under(&self) -> &str {
        match self {
            Step::Command(command) => command.under,
            Step::Settings(settings) => settings.under,
        }
    }
}

/// `local# syncdata-applier sync   # exit code 1`, and the lines below it.
#[derive(Debug)]
pub(super) struct Command<'a> {
    pub host: &'a str,
    pub line: &'a str,
    pub exit_code: i32,
    pub prints: Vec<&'a str>,
    pub under: &'a str,
}

/// A block of TOML, whose first line names the file.
pub(super) struct Settings<'a> {
    pub file: &'a str,
    pub text: String,
    pub under: &'a str,
}

const HOSTS: [&str; 4] = ["production", "local", "backup", "standby"];

pub(super) fn steps(page: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    for block in blocks(page) {
        match block.kind {
            "console" => steps.extend(commands(&block.lines, block.under).into_iter().map(Step::Command)),
            "toml" => {
                let file = block.lines.first().and_then(|line| line.strip_prefix("# "));
                let file = file.expect("the first line of settings names their file");
                steps.push(Step::Settings(Settings {
                    file,
                    text: block.lines.join("\n"),
                    under: block.under,
                }));
            }
            _ => {}
        }
    }
    steps
}

fn commands<'a>(lines: &[&'a str], under: &'a str) -> Vec<Command<'a>> {
    let mut commands: Vec<Command<'a>> = Vec::new();
    for line in lines {
        let prompted = line.split_once("# ").filter(|(host, _)| HOSTS.contains(host));
        match prompted {
            Some((host, line)) => {
                let (line, code) = line.split_once("# exit code ").unwrap_or((line, "0"));
                let exit_code = code.trim().parse().expect("an exit code");
                commands.push(Command { host, line: line.trim(), exit_code, prints: Vec::new(), under });
            }
            None => commands.last_mut().expect("a block begins with a prompt").prints.push(line),
        }
    }
    commands
}

/// Whether these lines are among those printed, in this order; `…` stands for anything.
pub(super) fn first_missing<'a>(wanted: &[&'a str], printed: &str) -> Option<&'a str> {
    let mut lines = printed.lines();
    wanted.iter().find(|wanted| !lines.any(|line| is_like(wanted, line))).copied()
}

fn is_like(wanted: &str, line: &str) -> bool {
    let mut rest = Some(line);
    for piece in wanted.trim().split('…') {
        rest = rest.and_then(|rest| rest.split_once(piece)).map(|(_, rest)| rest);
    }
    rest.is_some()
}

#[test]
fn a_block_is_taken_apart() {
    let page = "## Here\n```console\nlocal# ls # exit code 2\nno …\nbackup# pwd\n```\n```toml\n# /etc/x\na = 1\n```\n";
    let steps = steps(page);
    let [Step::Command(first), Step::Command(second), Step::Settings(settings)] = steps.as_slice() else {
        panic!("three steps were expected");
    };
    assert_eq!((first.host, first.line, first.exit_code, first.under), ("local", "ls", 2, "Here"));
    assert_eq!((first.prints.as_slice(), second.exit_code), (["no …"].as_slice(), 0));
    assert_eq!((settings.file, settings.text.as_str()), ("/etc/x", "# /etc/x\na = 1"));
}

#[test]
fn printed_lines_are_looked_for_in_their_order() {
    let printed = "a 1 b\nnoise\nhealthy: yes\n";
    assert_eq!(first_missing(&["a … b", "healthy: yes"], printed), None);
    assert_eq!(first_missing(&["healthy: yes", "a … b"], printed), Some("a … b"));
}
