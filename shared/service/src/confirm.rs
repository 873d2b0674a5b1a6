//! Asks a person before something is written that nobody can take back.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use syncdata_formats::error::{Context as _, Error, Kind, Result};

/// `command` is what asks; `question` ends without its mark.
pub fn confirm(command: &str, question: &str) -> Result<bool> {
    if !io::stdin().is_terminal() {
        let message = format!("{command} asks first, and there is no terminal to ask on");
        return Err(Error::new(Kind::BadInput, message).hint("say --yes"));
    }
    let asking = || "asking on the terminal".to_owned();
    write!(io::stderr(), "{question}? [y/N] ").context(asking)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context(asking)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
