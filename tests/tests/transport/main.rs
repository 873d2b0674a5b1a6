//! The archive's transports: one suite of promises that a directory, SFTP and object storage all keep, then what only SSH
//! and only a store can do wrong, and what both programs do over a store.

mod conformance;
mod faults;
mod login;
mod over_storage;
mod storage;

use std::io::Cursor;
use std::time::Duration;

use syncdata_archive::{Archive, Facts, Patience, Put, S3Archive, SftpArchive};
use syncdata_formats::digest::Digest;
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::{S3Settings, SftpSettings};

/// Short waits and no second attempt: the test sees the first failure.
const IMPATIENT: Patience = Patience {
    connect: Duration::from_secs(5),
    answer: Duration::from_secs(5),
    retry_first: Duration::from_millis(10),
    retries: 0,
};

fn sftp(settings: &SftpSettings) -> SftpArchive {
    SftpArchive::new(settings).expect("sound settings").with_patience(IMPATIENT).with_agent(None)
}

fn storage(settings: &S3Settings) -> S3Archive {
    S3Archive::new(settings).with_patience(IMPATIENT)
}

fn path(text: &str) -> ArchivePath {
    ArchivePath::parse(text).expect("a path of the test")
}

/// Bytes that no two places repeat, so that a lost or doubled piece shows.
fn content(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(bytes);
    content
}

fn put(archive: &mut dyn Archive, path: &ArchivePath, bytes: &[u8]) -> Result<Put> {
    let facts = Facts { bytes: bytes.len() as u64, sha256: Digest::of(bytes) };
    archive.put(path, &mut Cursor::new(bytes), facts)
}

fn read(archive: &mut dyn Archive, path: &ArchivePath) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    archive.read(path, 0, &mut bytes)?;
    Ok(bytes)
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(outcome: Result<T>, kind: Kind, parts: &[&str]) -> Error {
    let error = outcome.expect_err("it was to be refused");
    assert_eq!(error.kind(), kind, "{error:?}");
    let report = error.report();
    for part in parts {
        assert!(report.contains(part), "{part:?} is missing in {report}");
    }
    // A library's names of its own errors are no words.
    assert!(!report.contains("Session("), "{report}");
    error
}
