//! Completions for shells: what clap makes of the commands, and names of tables, for which the program is asked.

use std::io::{self, Write as _};

use clap_complete::Shell;
use syncdata_formats::error::{Context as _, Result};

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
    local cur=${{COMP_WORDS[COMP_CWORD]}} word
    if [[ $cur == -* ]]; then return 0; fi
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in
        {commands})
            mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -W "$({name} list-tables 2>/dev/null)" -- "$cur")
            return 0
            ;;
        esac
    done
}}

"#
    );
    tables + &script.replace(&format!("complete -F {function} "), &format!("complete -F {function}_tables "))
}

/// The words of `add-tables` come first, and are not on the whitelist yet.
fn zsh(name: &str, script: &str) -> String {
    let function = format!("_{name}_table_names");
    let tables = format!(
        "(( $+functions[{function}] )) ||\n{function}() {{\n    local -a tables\n    \
         tables=(${{(f)\"$({name} list-tables 2>/dev/null)\"}})\n    compadd -a tables\n}}\n\n"
    );
    let taken = "several in a list or as words:_default";
    let asked = taken.replace("_default", &function);
    let begins = script.find("\nif [ \"$funcstack[1]\"").map_or(script.len(), |place| place + 1);
    let (functions, end) = script.split_at(begins);
    let functions = match functions.split_once(taken) {
        Some((first, rest)) => format!("{first}{taken}{}", rest.replace(taken, &asked)),
        None => functions.to_owned(),
    };
    functions + &tables + end
}

fn fish(name: &str, script: &str) -> String {
    let condition = format!("__fish_{}_using_subcommand", name.replace('-', "_"));
    let lines = OF_TABLES.iter().filter(|command| script.contains(&format!("{condition} {command}\""))).map(
        |command| {
            format!(
                "complete -c {name} -n \"{condition} {command}\" -f -a \"({name} list-tables 2>/dev/null)\"\n"
            )
        },
    );
    script.to_owned() + &lines.collect::<String>()
}
