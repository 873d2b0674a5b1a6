//! Tokens that open the API: of a file, one a line. Kept as digests, so that neither a log nor a core file tells them.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use syncdata_formats::digest::Digest;
use syncdata_formats::error::{Context as _, Error, Kind, Result};

use crate::small_file;

/// Shorter ones could be guessed.
const LENGTH_MIN: usize = 32;
const LENGTH_MAX: usize = 1024;

/// More of them are another file.
const TOKENS_MAX: usize = 1000;

#[derive(Clone, Debug, Default)]
pub(super) struct Tokens(Vec<String>);

impl Tokens {
    pub(super) fn read(path: &Path) -> Result<Tokens> {
        let doing = || format!("reading api_token_file {}", path.display());
        // Whoever swaps the file between the look and the reading would be read with the other one's rights.
        let file = small_file::open_plain(path).context(doing)?;
        let mode = file.metadata().context(doing)?.mode();
        if mode & 0o007 != 0 {
            let message = format!(
                "everybody may read the api_token_file {} (mode {:04o})",
                path.display(),
                mode & 0o7777
            );
            return Err(Error::new(Kind::BadInput, message)
                .hint(format!("chmod 0640 {}, make new tokens, and reload", path.display())));
        }
        let text = small_file::read_opened_text(file, path).context(doing)?;
        Tokens::parse(&text).context(doing)
    }

    fn parse(text: &str) -> Result<Tokens> {
        let mut tokens = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let refused = |what: &str| {
                // Not the line: it is a secret.
                Error::new(Kind::BadInput, format!("line {} {what}", number + 1))
                    .hint("one token a line, as this makes one: openssl rand -hex 32")
            };
            if line.len() < LENGTH_MIN {
                return Err(refused(&format!("has fewer than {LENGTH_MIN} characters")));
            }
            if line.len() > LENGTH_MAX || !line.bytes().all(is_of_a_token) {
                return Err(refused("is no token: letters, digits and -._~+/= are taken"));
            }
            tokens.push(digest(line.as_bytes()));
        }
        match tokens.len() {
            0 => Err(Error::new(Kind::BadInput, "it holds no token")
                .hint("one token a line, as this makes one: openssl rand -hex 32")),
            1..=TOKENS_MAX => Ok(Tokens(tokens)),
            _ => Err(Error::new(Kind::BadInput, format!("it holds more than {TOKENS_MAX} tokens"))),
        }
    }

    /// Takes as long for a token that is nearly right as for any other.
    pub(super) fn accept(&self, token: &[u8]) -> bool {
        if !(LENGTH_MIN..=LENGTH_MAX).contains(&token.len()) {
            return false;
        }
        let given = digest(token);
        let is_it = |known: &String| openssl::memcmp::eq(known.as_bytes(), given.as_bytes());
        // All of them are looked at, whichever it is.
        self.0.iter().fold(false, |found, known| is_it(known) | found)
    }

    pub(super) fn are_there(&self) -> bool {
        !self.0.is_empty()
    }
}

fn digest(token: &[u8]) -> String {
    Digest::of(token).to_string()
}

/// RFC 6750's alphabet.
fn is_of_a_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn every_line_is_a_token_and_nothing_else_opens() {
        let (one, other) = ("a".repeat(32), format!("{}-._~+/=", "B7".repeat(16)));
        let tokens = Tokens::parse(&format!("\n{one}\r\n  {other}  \n\n")).expect("two tokens");
        assert!(tokens.accept(one.as_bytes()) && tokens.accept(other.as_bytes()));
        for wrong in ["", "a", &"a".repeat(31), &"a".repeat(33), &format!("{one} "), &"a".repeat(5000)] {
            assert!(!tokens.accept(wrong.as_bytes()), "{wrong:?}");
        }
        assert!(!Tokens::default().accept(one.as_bytes()));
        assert!(!format!("{tokens:?}").contains(&one));
    }

    #[test]
    fn what_is_no_list_of_tokens_is_refused_without_being_told() {
        let secret = "s3cret".repeat(5);
        for (text, says) in [
            ("", "holds no token"),
            ("\n \n", "holds no token"),
            (secret.as_str(), "line 1 has fewer than 32"),
            (&format!("{}\n{secret} {secret}", "a".repeat(40)), "line 2 is no token"),
            (&format!("{secret}ä{secret}"), "line 1 is no token"),
            (&"a".repeat(1025), "line 1 is no token"),
        ] {
            let report = Tokens::parse(text).expect_err(text).report();
            assert!(report.contains(says) && !report.contains("s3cret"), "{report}");
        }
    }

    #[test]
    fn a_file_that_everybody_may_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens");
        assert_eq!(Tokens::read(&path).expect_err("not there").kind(), Kind::NotFound);
        fs::write(&path, "x".repeat(40)).expect("written");
        let chmod = |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).expect("ours");
        chmod(0o644);
        let report = Tokens::read(&path).expect_err("exposed").report();
        assert!(report.contains("everybody may read") && report.contains("chmod 0640"), "{report}");
        chmod(0o640);
        assert!(Tokens::read(&path).expect("sound").accept(&[b'x'; 40]));
    }
}
