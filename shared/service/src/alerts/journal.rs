//! Alerts on this host's disk, where they are before anybody is told.

use std::path::PathBuf;

use syncdata_formats::error::{Error, Kind, Result};

use super::Book;
use crate::{own_files, small_file};

/// Some thousand alerts.
const BYTES_MAX: usize = 4 << 20;

/// The file.
#[derive(Clone, Debug)]
pub struct Journal(PathBuf);

impl Journal {
    pub fn at(path: PathBuf) -> Journal {
        Journal(path)
    }

    /// One that cannot be read is no reason to watch nothing: then alerts begin anew.
    pub fn read(&self) -> Book {
        let read = small_file::read_own_if_there(&self.0, BYTES_MAX);
        match read.and_then(|bytes| bytes.map_or_else(|| Ok(Book::default()), |bytes| parse(&bytes))) {
            Ok(book) => book,
            Err(error) => {
                tracing::warn!(
                    file = %self.0.display(), error = %error.one_line(), "alerts of an earlier daemon cannot be read"
                );
                Book::default()
            }
        }
    }

    /// On the disk when this returns.
    pub fn write(&self, book: &Book) -> Result<()> {
        own_files::replace(&self.0, &encode(book), "alerts.before_rename")
    }
}

fn parse(bytes: &[u8]) -> Result<Book> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::new(Kind::Corrupt, "these are no alerts").caused_by(error))
}

fn encode(book: &Book) -> Vec<u8> {
    serde_json::to_vec(book).expect("alerts are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_alerts() {
        syncdata_fuzz::replay("alerts", |bytes| {
            let Ok(mut book) = parse(bytes) else { return false };
            assert_eq!(parse(&encode(&book)).ok().as_ref(), Some(&book));
            book.check(Vec::new(), syncdata_formats::time::Timestamp::now());
            true
        });
    }

    #[test]
    fn what_cannot_be_read_is_no_reason_to_watch_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state/alerts.json");
        let journal = Journal::at(path.clone());
        assert_eq!(journal.read(), Book::default());
        journal.write(&Book::default()).expect("it is made");
        assert_eq!(journal.read(), Book::default());
        std::fs::write(&path, "{\"alerts\": [7]}").expect("ours");
        assert_eq!(journal.read(), Book::default());
        journal.write(&Book::default()).expect("it is made anew");
        let names = std::fs::read_dir(path.parent().expect("a folder")).expect("ours").count();
        assert_eq!(names, 1, "nothing else is left there");
    }
}
