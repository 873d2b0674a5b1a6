//! An archive on object storage: files are objects of a bucket, folders are the beginnings of their names.
//!
//! ```text
//! put ─▶ PUT If-None-Match: * ─┬─ 200  written: whole, durable, never seen in part
//!        (large: pieces, then  └─ 412  somebody has the name: read it, and compare
//!         put together so)
//! head.json ─▶ PUT If-Match: what was read last ── 412  another archiver
//! ```
//! Nothing is written under another name first, and nothing is renamed. What is read is held against our own digests; what the
//! store calls an object (its `ETag`) only says whether it is still the same one.

mod client;
mod connection;
mod pages;
mod refusal;
mod request;
mod signature;
mod upload;
mod xml;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use bytes::Bytes;
use hyper::Method;
use syncdata_formats::digest::{Digest, Hashing};
use syncdata_formats::error::{Context as _, Error, Kind, Result};
use syncdata_formats::layout::ArchivePath;
use syncdata_formats::time::Timestamp;
use syncdata_service::backoff::Dice;
use syncdata_service::config::S3Settings;
use syncdata_service::faults;

use self::client::{Client, http_date};
use self::refusal::Refusal;
use self::request::Request;
use self::upload::{Ended, PIECE_BYTES};
use super::content::{conflict, pour};
use super::patience::Patience;
use super::{Archive, Content, Entry, EntryKind, Facts, Put};

/// A store that is asked too much says so for seconds, not for a moment.
const RETRIES: u32 = 5;

/// Documents that change are kept as they were seen, so that asking again costs an answer without a body.
const SEEN_BYTES_MAX: u64 = 1 << 20;

const SECOND_ARCHIVER: &str = "a second archiver writes to this archive: stop one of them";

/// See the module.
pub struct S3Archive {
    client: Client,
    /// Before every name: empty, or with a slash at its end.
    prefix: String,
    location: String,
    /// The documents at the top: archive.json, head.json, floor.json.
    seen: BTreeMap<ArchivePath, Seen>,
}

#[derive(Clone)]
struct Seen {
    etag: String,
    bytes: Bytes,
}

impl S3Archive {
    /// Connects to nobody yet, and reads no keys.
    pub fn new(settings: &S3Settings) -> S3Archive {
        let prefix = match settings.place.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let patience = Patience { retries: RETRIES, ..Patience::default() };
        S3Archive {
            client: Client::new(settings, patience),
            prefix,
            location: settings.place.to_string(),
            seen: BTreeMap::new(),
        }
    }

    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> S3Archive {
        self.client.patience = patience;
        self
    }

    fn key(&self, path: &ArchivePath) -> String {
        format!("{}{path}", self.prefix)
    }

    /// Runs the job, again and again while what is in the way passes, until patience ends. `job` says whether it got on
    /// since its last attempt: that earns new patience.
    fn attempt<T>(&mut self, mut job: impl FnMut(&mut S3Archive, &mut bool) -> Result<T>) -> Result<T> {
        let mut backoff = self.client.patience.backoff();
        loop {
            let mut got_on = false;
            let error = match job(self, &mut got_on) {
                Err(error) if error.kind() == Kind::Unreachable => error,
                other => return other,
            };
            if got_on {
                backoff.reset();
            }
            let Some(wait) = backoff.next(Dice::roll()) else { return Err(error) };
            // Who gives up says so, once; whoever wants to see each call asks for more.
            tracing::debug!(archive = %self.location, error = %error.one_line(), "asking the store again");
            std::thread::sleep(wait);
        }
    }

    /// Asks; a refusal other than those that `expected` names is an error.
    fn ask(
        &mut self,
        request: &Request,
        doing: &str,
        expected: impl Fn(&Refusal) -> bool,
    ) -> Result<Option<client::Said>> {
        match self.client.ask(request)? {
            Ok(said) => Ok(Some(said)),
            Err(refusal) if expected(&refusal) => Ok(None),
            Err(refusal) => Err(refusal.error(doing)),
        }
    }

    /// Equal content under that name is as good as written: the answer to an earlier try may have been lost.
    fn accept_existing(&mut self, path: &ArchivePath, wanted: Facts) -> Result<Put> {
        let mut counted = Hashing::new(std::io::sink());
        self.read(path, 0, &mut counted)?;
        let (_, sha256, bytes) = counted.finish();
        let found = Facts { bytes, sha256 };
        if found == wanted { Ok(Put::AlreadyThere) } else { Err(conflict(path, found, wanted)) }
    }

    /// In one request; false where something has the name.
    fn create(&mut self, path: &ArchivePath, bytes: &Bytes) -> Result<bool> {
        let create = Request::new(Method::PUT, Some(self.key(path)))
            .header("if-none-match", "*")
            .with_checksum(bytes.clone());
        let doing = format!("writing {path}");
        let said = self.attempt(|archive, _| archive.ask(&create, &doing, Refusal::is_unmet_condition))?;
        Ok(said.is_some())
    }

    fn create_large(&mut self, path: &ArchivePath, content: &mut dyn Content, facts: Facts) -> Result<bool> {
        // Before much is sent for nothing.
        if self.stat_file(path)?.is_some() {
            return Ok(false);
        }
        let key = self.key(path);
        match upload::upload(&mut self.client, &key, path, content, facts)? {
            Ended::Written => Ok(true),
            Ended::Taken => Ok(false),
        }
    }

    /// Only if it is still as it was read last: who replaced it meanwhile is a second archiver.
    fn replace_seen(&mut self, path: &ArchivePath, content: Bytes) -> Result<()> {
        if !self.seen.contains_key(path) && matches!(self.look(path)?, Looked::TooLarge) {
            return Err(Error::new(Kind::Conflict, format!("{path} is larger than any of ours"))
                .hint("another file stands in its place: look who put it there"));
        }
        let put = Request::new(Method::PUT, Some(self.key(path)));
        let put = match self.seen.get(path) {
            Some(seen) => put.header("if-match", &seen.etag),
            None => put.header("if-none-match", "*"),
        };
        let put = put.with_checksum(content.clone());
        let doing = format!("replacing {path}");
        let is_another = |refusal: &Refusal| refusal.is_unmet_condition() || refusal.is_missing();
        let said = self.attempt(|archive, _| archive.ask(&put, &doing, is_another))?;
        match said {
            Some(said) => {
                self.remember(path, said.etag, content);
                Ok(())
            }
            // The answer to an earlier try may have been lost.
            None if matches!(self.look(path)?, Looked::Seen(seen) if seen.bytes == content) => Ok(()),
            None => {
                Err(Error::new(Kind::Conflict, format!("{path} was replaced by somebody else meanwhile"))
                    .hint(SECOND_ARCHIVER))
            }
        }
    }

    fn remember(&mut self, path: &ArchivePath, etag: Option<String>, bytes: Bytes) {
        match etag.filter(|etag| !etag.is_empty()) {
            Some(etag) => drop(self.seen.insert(path.clone(), Seen { etag, bytes })),
            None => drop(self.seen.remove(path)),
        }
    }

    /// A document as it is now. Bytes come only where it is another one than was seen.
    fn look(&mut self, path: &ArchivePath) -> Result<Looked> {
        self.attempt(|archive, _| {
            let mut get = Request::get(&archive.key(path));
            if let Some(seen) = archive.seen.get(path) {
                get = get.header("if-none-match", &seen.etag);
            }
            let mut answer = match archive.client.begin(&get)? {
                Ok(answer) => answer,
                Err(refusal) if refusal.status == 304 => {
                    return Ok(archive
                        .seen
                        .get(path)
                        .map_or(Looked::Missing, |seen| Looked::Seen(seen.clone())));
                }
                Err(refusal) if refusal.is_missing() => {
                    archive.seen.remove(path);
                    return Ok(Looked::Missing);
                }
                Err(refusal) => return Err(refusal.error(&format!("reading {path}"))),
            };
            let bytes = answer.header("content-length").and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
            if bytes > SEEN_BYTES_MAX {
                archive.client.hang_up();
                return Ok(Looked::TooLarge);
            }
            let bytes = Bytes::from(archive.client.wait(answer.document())?);
            archive.remember(path, answer.header("etag").map(str::to_owned), bytes);
            archive.seen.get(path).map(|seen| Looked::Seen(seen.clone())).ok_or_else(|| {
                Error::new(Kind::Refused, format!("reading {path}: the store gives no ETag"))
                    .hint("this store cannot do what an archive needs: use another one")
            })
        })
    }

    fn copy(
        &mut self,
        path: &ArchivePath,
        offset: u64,
        bytes: Option<u64>,
        into: &mut dyn Write,
    ) -> Result<u64> {
        let mut copied = 0;
        self.attempt(|archive, got_on| {
            let before = copied;
            let outcome = archive.copy_on(path, offset, bytes, &mut copied, into);
            *got_on = copied > before;
            outcome
        })?;
        Ok(copied)
    }

    /// Goes on after what was copied.
    fn copy_on(
        &mut self,
        path: &ArchivePath,
        offset: u64,
        bytes: Option<u64>,
        copied: &mut u64,
        into: &mut dyn Write,
    ) -> Result<()> {
        let from = offset.saturating_add(*copied);
        let left = bytes.map(|bytes| bytes - *copied);
        if left == Some(0) {
            return match self.stat_file(path)? {
                Some(_) => Ok(()),
                None => Err(self.missing(path)),
            };
        }
        let mut get = Request::get(&self.key(path));
        match left {
            None if from == 0 => {}
            None => get = get.header("range", format!("bytes={from}-")),
            Some(left) => {
                get = get.header("range", format!("bytes={from}-{}", from.saturating_add(left - 1)))
            }
        }
        let mut answer = match self.client.begin(&get)? {
            Ok(answer) => answer,
            // It ends before that.
            Err(refusal) if refusal.status == 416 => return Ok(()),
            Err(refusal) if refusal.is_missing() => return Err(self.missing(path)),
            Err(refusal) => return Err(refusal.error(&format!("reading {path}"))),
        };
        if from > 0 && answer.status().as_u16() != 206 {
            self.client.hang_up();
            return Err(Error::new(
                Kind::Refused,
                format!("reading {path}: the store does not begin where it is told to"),
            )
            .hint("this store cannot do what an archive needs: use another one"));
        }
        let end = left.map(|left| *copied + left);
        while let Some(piece) = self.client.wait(answer.piece())? {
            let fits = end.map_or(piece.len() as u64, |end| (end - *copied).min(piece.len() as u64));
            let piece = &piece[..usize::try_from(fits).expect("of a piece")];
            if let Err(error) = into.write_all(piece) {
                self.client.hang_up();
                return Err(error).context(|| format!("storing what was read of {path}"));
            }
            *copied += fits;
            if end == Some(*copied) && answer.status().as_u16() != 206 {
                self.client.hang_up();
                return Ok(());
            }
        }
        Ok(())
    }

    fn missing(&self, path: &ArchivePath) -> Error {
        Error::new(Kind::NotFound, format!("{path} does not exist in {}", self.location))
    }

    /// Size and time of a file; `None` where there is none of that name.
    fn stat_file(&mut self, path: &ArchivePath) -> Result<Option<FileFacts>> {
        let head = Request::new(Method::HEAD, Some(self.key(path)));
        self.attempt(|archive, _| match archive.client.begin(&head)? {
            Ok(answer) => {
                let bytes = answer.header("content-length").and_then(|bytes| bytes.parse().ok());
                let changed_at = answer.header("last-modified").and_then(http_date);
                let bytes = bytes.ok_or_else(|| {
                    Error::new(Kind::Io, format!("looking at {path}: the store does not say how long it is"))
                })?;
                Ok(Some(FileFacts { bytes, changed_at }))
            }
            Err(refusal) if refusal.is_missing() => Ok(None),
            Err(refusal) => Err(archive.in_words(path, refusal)?.error(&format!("looking at {path}"))),
        })
    }

    /// A HEAD is refused without a word: one byte is asked for to hear why.
    fn in_words(&mut self, path: &ArchivePath, refusal: Refusal) -> Result<Refusal> {
        let get = Request::get(&self.key(path)).header("range", "bytes=0-0");
        match self.client.begin(&get)? {
            Err(said) if said.status == refusal.status => Ok(said),
            _ => {
                self.client.hang_up();
                Ok(refusal)
            }
        }
    }

    fn is_folder(&mut self, path: &ArchivePath) -> Result<bool> {
        let prefix = format!("{}/", self.key(path));
        self.attempt(|archive, _| pages::is_any(&mut archive.client, &prefix))
    }

    fn listed(&mut self, folder: &ArchivePath, after: Option<&str>) -> Result<Vec<Entry>> {
        let prefix = format!("{}/", self.key(folder));
        let names = self.attempt(|archive, _| pages::all(&mut archive.client, &prefix, after))?;
        let files = names.files.into_iter().map(|(name, bytes)| (name, EntryKind::File, bytes));
        let folders = names.folders.into_iter().map(|name| (name, EntryKind::Directory, 0));
        let mut entries = Vec::new();
        for (name, kind, bytes) in files.chain(folders) {
            // Some tools make an object for a folder itself.
            if name.as_deref() == Some("") {
                continue;
            }
            let plain = name.as_deref().map(|name| name.strip_suffix('/').unwrap_or(name));
            let Some(plain) = plain.filter(|name| folder.join(name).is_ok()) else {
                tracing::warn!(folder = %folder, name = ?name, "foreign name in the archive passed over");
                continue;
            };
            entries.push(Entry { name: plain.to_owned(), kind, bytes });
        }
        entries.sort();
        Ok(entries)
    }
}

/// What became of a look at a document.
enum Looked {
    Missing,
    Seen(Seen),
    /// Larger than any of ours: nothing of it was read.
    TooLarge,
}

struct FileFacts {
    bytes: u64,
    changed_at: Option<Timestamp>,
}

/// What changes: the documents at the top of an archive.
fn is_document(path: &ArchivePath) -> bool {
    path.parent().is_none()
}

impl Archive for S3Archive {
    fn location(&self) -> &str {
        &self.location
    }

    fn put(&mut self, path: &ArchivePath, content: &mut dyn Content, facts: Facts) -> Result<Put> {
        let is_written = if facts.bytes > PIECE_BYTES as u64 {
            self.create_large(path, content, facts)?
        } else {
            let mut bytes = Vec::new();
            pour(path, content, facts, |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            })?;
            faults::hit("archive.part_written")?;
            faults::hit("archive.before_rename")?;
            self.create(path, &Bytes::from(bytes))?
        };
        faults::hit("archive.after_rename")?;
        if is_written { Ok(Put::Written) } else { self.accept_existing(path, facts) }
    }

    fn replace(&mut self, path: &ArchivePath, content: &[u8]) -> Result<()> {
        let content = Bytes::copy_from_slice(content);
        faults::hit("archive.part_written")?;
        faults::hit("archive.before_rename")?;
        if *path == ArchivePath::head() {
            self.replace_seen(path, content)?;
        } else {
            let put = Request::new(Method::PUT, Some(self.key(path))).with_checksum(content);
            let doing = format!("replacing {path}");
            self.attempt(|archive, _| archive.ask(&put, &doing, |_| false))?;
            self.seen.remove(path);
        }
        faults::hit("archive.after_rename")
    }

    fn read(&mut self, path: &ArchivePath, offset: u64, into: &mut dyn Write) -> Result<u64> {
        if offset > 0 || !is_document(path) {
            return self.copy(path, offset, None, into);
        }
        let seen = match self.look(path)? {
            Looked::Seen(seen) => seen,
            Looked::Missing => return Err(self.missing(path)),
            // Its reader says that it is none of ours.
            Looked::TooLarge => return self.copy(path, offset, None, into),
        };
        into.write_all(&seen.bytes).context(|| format!("storing what was read of {path}"))?;
        Ok(seen.bytes.len() as u64)
    }

    fn read_part(
        &mut self,
        path: &ArchivePath,
        offset: u64,
        bytes: u64,
        into: &mut dyn Write,
    ) -> Result<u64> {
        self.copy(path, offset, Some(bytes), into)
    }

    fn list(&mut self, folder: &ArchivePath) -> Result<Vec<Entry>> {
        self.listed(folder, None)
    }

    fn list_after(&mut self, folder: &ArchivePath, name: &str) -> Result<Vec<Entry>> {
        self.listed(folder, Some(name))
    }

    fn stat(&mut self, path: &ArchivePath) -> Result<Option<Entry>> {
        let name = path.file_name().to_owned();
        if let Some(file) = self.stat_file(path)? {
            return Ok(Some(Entry { name, kind: EntryKind::File, bytes: file.bytes }));
        }
        let folder = Entry { name, kind: EntryKind::Directory, bytes: 0 };
        Ok(self.is_folder(path)?.then_some(folder))
    }

    fn remove(&mut self, path: &ArchivePath) -> Result<bool> {
        if self.stat_file(path)?.is_none() {
            return match self.is_folder(path)? {
                true => Err(Error::new(Kind::Conflict, format!("the folder {path} is not empty"))),
                false => Ok(false),
            };
        }
        let delete = Request::new(Method::DELETE, Some(self.key(path)));
        let doing = format!("removing {path}");
        self.attempt(|archive, _| archive.ask(&delete, &doing, Refusal::is_missing))?;
        self.seen.remove(path);
        Ok(true)
    }

    fn changed_at(&mut self, path: &ArchivePath) -> Result<Option<Timestamp>> {
        Ok(self.stat_file(path)?.and_then(|file| file.changed_at))
    }

    /// A store does not say.
    fn room(&mut self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn keeps_names(&mut self, path: &ArchivePath, content: &[u8]) -> Result<bool> {
        let content = Bytes::copy_from_slice(content);
        let ignores = |what: &str| {
            Error::new(
                Kind::Refused,
                format!("{} ignores {what}: names would not be safe in it", self.location),
            )
            .hint("an archive needs a store that honours If-None-Match and If-Match: use another one")
        };
        let (twice, other) = (ignores("If-None-Match"), ignores("If-Match"));
        let in_pieces = ignores("If-None-Match when it puts the pieces of a file together");
        // One that was left behind does as well.
        self.create(path, &content)?;
        if self.create(path, &content)? {
            return Err(twice);
        }
        let key = self.key(path);
        if !upload::keeps_name(&mut self.client, &key, path, &content)? {
            return Err(in_pieces);
        }
        let another = format!("\"{}\"", &Digest::of(b"another").to_string()[..32]);
        let put = Request::new(Method::PUT, Some(self.key(path)))
            .header("if-match", another)
            .with_checksum(content);
        let doing = format!("replacing {path}");
        // Who may not replace this file cannot try it; head.json tells.
        let is_kept = |refusal: &Refusal| refusal.is_unmet_condition() || refusal.status == 403;
        match self.attempt(|archive, _| archive.ask(&put, &doing, is_kept))? {
            None => Ok(true),
            Some(_) => Err(other),
        }
    }
}

impl fmt::Debug for S3Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Archive")
            .field("location", &self.location)
            .field("connected", &self.client.is_connected())
            .finish_non_exhaustive()
    }
}
