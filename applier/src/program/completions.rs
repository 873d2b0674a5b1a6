//! Completions for shells: what clap makes of the commands, and names of tables, for which the program is asked.

use std::io::{self, Write as _};

use clap_complete::Shell;
use syncdata_formats::error::{Context as _, Result};

/// What prints the names that are on the whitelist, and those that could be added: quickly, or nothing.
const SYNCED: &str = "list-tables --complete synced 2>/dev/null";
const CAPTURED: &str = "list-tables --complete captured 2>/dev/null";

/// Commands whose words are tables of the whitelist, with the command that they belong to where they do to one.
const OF_TABLES: [(Option<&str>, &str); 10] = [
    (None, "remove-tables"),
    (None, "resync"),
    (None, "retry"),
    (None, "drill"),
    (None, "history"),
    (Some("consistency"), "check"),
    (Some("consistency"), "rows"),
    (Some("consistency"), "validate"),
    (Some("consistency"), "repair"),
    (Some("dead-letters"), "list"),
];

pub(super) fn print(shell: Shell, mut command: clap::Command) -> Result<()> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, &name, &mut script);
    let script = with_tables(shell, &name, &String::from_utf8_lossy(&script));
    io::stdout().write_all(script.as_bytes()).context(|| "printing the completions".to_owned())
}

fn with_tables(shell: Shell, name: &str, script: &str) -> String {
    match shell {
        Shell::Bash => bash(name, script),
        Shell::Zsh => zsh(name, script),
        Shell::Fish => fish(name, script),
        // Their scripts have no place for words that are asked for.
        _ => script.to_owned(),
    }
}

fn bash(name: &str, script: &str) -> String {
    let function = format!("_{}", name.replace('-', "__"));
    let patterns = OF_TABLES.map(|(of, command)| format!(r"{}\ {command}", of.unwrap_or("*")));
    let commands = patterns.join("|");
    let tables = format!(
        r#"{function}_tables() {{
    {function} "$@"
    local cur=${{COMP_WORDS[COMP_CWORD]}} word before= asks table quoted
    if [[ $cur == -* ]]; then return 0; fi
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$before $word" in
        *\ add-tables) asks=captured ;;
        {commands}) asks=synced ;;
        *) before=$word; continue ;;
        esac
        # Not by compgen, which runs what stands in a word.
        while IFS= read -r table; do
            printf -v quoted %q "$table"
            if [[ $table == "$cur"* ]]; then COMPREPLY+=("$quoted"); fi
        done < <({name} list-tables --complete "$asks" 2>/dev/null)
        return 0
    done
}}

"#
    );
    tables + &script.replace(&format!("complete -F {function} "), &format!("complete -F {function}_tables "))
}

/// The words of `add-tables` come first, and are not on the whitelist yet.
fn zsh(name: &str, script: &str) -> String {
    let functions = [("captured", CAPTURED), ("synced", SYNCED)];
    let asking = functions.map(|(kind, asks)| {
        let function = format!("_{name}_{kind}_tables");
        format!(
            "(( $+functions[{function}] )) ||\n{function}() {{\n    local -a tables\n    \
             tables=(${{(f)\"$({name} {asks})\"}})\n    compadd -a tables\n}}\n\n"
        )
    });
    let taken = "several in a list or as words:_default";
    let asked = |kind: &str| taken.replace("_default", &format!("_{name}_{kind}_tables"));
    let begins = script.find("\nif [ \"$funcstack[1]\"").map_or(script.len(), |place| place + 1);
    let (given, end) = script.split_at(begins);
    let given = given.replacen(taken, &asked("captured"), 1).replace(taken, &asked("synced"));
    let given: Vec<String> =
        given.split('\n').map(|line| one_table(line, &format!("_{name}_synced_tables"))).collect();
    given.join("\n") + &asking.concat() + end
}

/// A line of what a command takes, where that is one table, or a list of them.
fn one_table(line: &str, function: &str) -> String {
    let is_one = [":table", "::table"].iter().any(|begin| line.trim_start_matches('\'').starts_with(begin));
    if is_one { line.replace(":_default'", &format!(":{function}'")) } else { line.to_owned() }
}

fn fish(name: &str, script: &str) -> String {
    let condition = format!("__fish_{}_using_subcommand", name.replace('-', "_"));
    let condition = |(of, command): (Option<&str>, &str)| match of {
        None => format!("{condition} {command}"),
        Some(of) => format!("{condition} {of}; and __fish_seen_subcommand_from {command}"),
    };
    let of_synced = OF_TABLES.map(|command| (command, SYNCED));
    let lines = of_synced.into_iter().chain([((None, "add-tables"), CAPTURED)]).map(|(command, asks)| {
        format!("complete -c {name} -n \"{}\" -f -a \"({name} {asks})\"\n", condition(command))
    });
    script.to_owned() + &lines.collect::<String>()
}
