//! Manual pages, made of the commands that the program knows: one of the program, one of each command.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use syncdata_formats::error::{Context, Result};

/// Prints the program's page, or writes the pages of the program and of all its commands into `folder`.
pub fn write(program: Command, folder: Option<&Path>) -> Result<()> {
    // Its page would say what every other page says too, and nothing of its own.
    let program = program.disable_help_subcommand(true);
    let Some(folder) = folder else {
        let mut page = Vec::new();
        Man::new(program)
            .render(&mut page)
            .and_then(|()| io::stdout().write_all(&page))
            .context(|| "printing the manual page".to_owned())?;
        return Ok(());
    };
    let writing = || format!("writing manual pages into {}", folder.display());
    fs::create_dir_all(folder).context(writing)?;
    clap_mangen::generate_to(program, folder).context(writing)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_that_a_page_names_is_written() {
        let deep = Command::new("status").subcommand(Command::new("all").about("everything"));
        let program = Command::new("prog").subcommand(deep).subcommand(Command::new("stop"));
        let folder = tempfile::tempdir().expect("a folder");
        write(program, Some(folder.path())).expect("written");
        let mut pages: Vec<String> = fs::read_dir(folder.path())
            .expect("it is there")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        pages.sort();
        assert_eq!(pages, ["prog-status-all.1", "prog-status.1", "prog-stop.1", "prog.1"]);
        for page in &pages {
            let text = fs::read_to_string(folder.path().join(page)).expect("it is there").replace("\\-", "-");
            for named in text.split_whitespace().filter_map(|word| word.strip_suffix("(1)")) {
                assert!(pages.contains(&format!("{named}.1")), "{page} names {named}(1)");
            }
        }
    }
}
