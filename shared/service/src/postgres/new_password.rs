//! A password for a role that is made: from a file, from a person, or made and shown once. The server gets its verifier
//! only, and so do its logs.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use postgres_protocol::password::scram_sha_256;
use syncdata_formats::error::{Context as _, Error, Kind, Result};
use syncdata_formats::printed;

use crate::small_file;

/// From the file, from a person, or made and shown once.
pub fn find(file: Option<&Path>, role: &str, say: impl Fn(&str)) -> Result<String> {
    if let Some(file) = file {
        let text = small_file::read_handed_over(file)?;
        let password = text.trim_end_matches(['\r', '\n']).to_owned();
        if password.is_empty() {
            return Err(Error::new(Kind::BadInput, format!("{} is empty", file.display())));
        }
        return Ok(password);
    }
    if std::io::stdin().is_terminal() {
        say(&format!("password for {role} (empty: one is made): "));
        let typed = read_hidden()?;
        if !typed.is_empty() {
            return Ok(typed);
        }
    }
    let made = random_password()?;
    say(&format!("password of {role}, shown only now: {made}"));
    Ok(made)
}

fn read_hidden() -> Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    let doing = || "reading the password".to_owned();
    let before = tcgetattr(&stdin).map_err(std::io::Error::from).context(doing)?;
    let mut hidden = before.clone();
    hidden.local_modes -= LocalModes::ECHO;
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(std::io::Error::from).context(doing)?;
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Flush, &before).map_err(std::io::Error::from).context(doing)?;
    read.context(doing)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// 24 letters and digits: more than 140 bits.
fn random_password() -> Result<String> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = [0; 24];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes));
    read.context(|| "making a password".to_owned())?;
    Ok(bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 64)])).collect())
}

/// What stands after PASSWORD in the statement: the password cannot be read from it.
pub fn verifier(password: &str) -> String {
    printed::literal(&scram_sha_256(password.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_passwords_differ() {
        let (one, two) = (random_password().expect("random"), random_password().expect("random"));
        assert_eq!(one.len(), 24);
        assert_ne!(one, two);
    }
}
