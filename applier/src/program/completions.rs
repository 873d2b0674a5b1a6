//! Completions for shells: what clap makes of the commands, and names of tables, for which the program is asked.

use std::io::{self, Write as _};

use clap_complete::Shell;
use syncdata_formats::error::{Context as _, Result};

/// What prints the names that are on the whitelist, and those that could be added: quickly, or nothing.
const SYNCED: &str = "list-tables --complete synced 2>/dev/null";
const CAPTURED: &str = "list-tables --complete captured 2>/dev/null";

/// Commands whose words are tables of the whitelist; those of `consistency` are found by their own word.
const OF_TABLES: [&str; 8] =
    ["remove-tables", "resync", "retry", "drill", "history", "rows", "validate", "repair"];

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
    let commands = OF_TABLES.join("|");
    let tables = format!(
        r#"{function}_tables() {{
    {function} "$@"
    local cur=${{COMP_WORDS[COMP_CWORD]}} word asks table quoted
    if [[ $cur == -* ]]; then return 0; fi
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in
        add-tables) asks=captured ;;
        {commands}) asks=synced ;;
        *) continue ;;
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
    given + &asking.concat() + end
}

fn fish(name: &str, script: &str) -> String {
    let condition = format!("__fish_{}_using_subcommand", name.replace('-', "_"));
    let of_synced = OF_TABLES.iter().map(|command| (*command, SYNCED));
    let lines = of_synced.chain([("add-tables", CAPTURED)]).filter_map(|(command, asks)| {
        let is_there = script.contains(&format!("{condition} {command}\""));
        is_there
            .then(|| format!("complete -c {name} -n \"{condition} {command}\" -f -a \"({name} {asks})\"\n"))
    });
    script.to_owned() + &lines.collect::<String>()
}
