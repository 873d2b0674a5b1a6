//! Which host key is the backup host's: the known_hosts file of OpenSSH, as sshd(8) describes it. Our own
//! reader, because libssh2's lets a revoked or changed key pass when another line matches, knows no wildcards,
//! and gives up on a whole file for one line it does not like.

use std::path::{Path, PathBuf};

use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_service::small_file;

/// The lines of a known_hosts file that name a key.
#[derive(Debug)]
pub(super) struct KnownHosts {
    path: PathBuf,
    missing: bool,
    lines: Vec<Line>,
    /// Numbers of the lines that could not be understood.
    unreadable: Vec<usize>,
}

#[derive(Debug)]
struct Line {
    number: usize,
    marker: Marker,
    hosts: Hosts,
    key_type: String,
    key: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marker {
    None,
    Revoked,
    CertAuthority,
}

#[derive(Debug)]
enum Hosts {
    Patterns(Vec<String>),
    Hashed { salt: Vec<u8>, hash: Vec<u8> },
}

/// What the file says about a key of a host.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Trusted,
    /// No line has a key of this host; with a note if a line almost did.
    Unknown {
        note: Option<String>,
    },
    /// Lines have other keys of this host: their numbers.
    Changed {
        lines: Vec<usize>,
    },
    Revoked {
        line: usize,
    },
}

/// A host as known_hosts names it: `host` on port 22, `[host]:port` elsewhere.
#[derive(Clone, Debug)]
pub(super) struct HostName {
    plain: String,
    port: u16,
}

impl HostName {
    pub(super) fn new(host: &str, port: u16) -> HostName {
        HostName { plain: host.to_lowercase(), port }
    }

    fn full(&self) -> String {
        if self.port == 22 { self.plain.clone() } else { format!("[{}]:{}", self.plain, self.port) }
    }
}

impl KnownHosts {
    /// A file that is not there knows nobody; one that cannot be read is an error, because it could have
    /// revoked the key.
    pub(super) fn read(path: &Path) -> Result<KnownHosts> {
        let bytes = match small_file::read_if_there(path, small_file::OPERATORS_BYTES_MAX) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                return Ok(KnownHosts { missing: true, ..KnownHosts::empty(path) });
            }
            Err(error) => {
                return Err(Error::new(Kind::BadInput, format!("cannot read {}", path.display()))
                    .caused_by(error)
                    .hint("make the known_hosts file readable for this account, or name another one in archive_known_hosts"));
            }
        };
        KnownHosts::parse(path, &String::from_utf8_lossy(&bytes))
    }

    fn empty(path: &Path) -> KnownHosts {
        KnownHosts { path: path.to_owned(), missing: false, lines: Vec::new(), unreadable: Vec::new() }
    }

    fn parse(path: &Path, text: &str) -> Result<KnownHosts> {
        let mut known = KnownHosts::empty(path);
        for (index, line) in text.lines().enumerate() {
            let (number, line) = (index + 1, line.trim());
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_line(number, line) {
                Some(line) => known.lines.push(line),
                None if line.starts_with("@revoked") => {
                    return Err(Error::new(
                        Kind::BadInput,
                        format!("{} line {number} revokes a key that cannot be read", path.display()),
                    )
                    .hint("correct or remove the line: no key can be trusted while nobody knows which one it revokes"));
                }
                None => known.unreadable.push(number),
            }
        }
        Ok(known)
    }

    /// Whether `key` may be `host`'s. A revoked key stays revoked whatever else matches it; another key of the
    /// host outweighs wildcards only if none of its lines has this one, as in OpenSSH.
    pub(super) fn judge(&self, host: &HostName, key: &[u8]) -> Verdict {
        let full = host.full();
        let revoked = |line: &&Line| {
            line.marker == Marker::Revoked
                && line.key == key
                && (line.hosts.matches(&full) || line.hosts.matches(&host.plain))
        };
        if let Some(line) = self.lines.iter().find(revoked) {
            return Verdict::Revoked { line: line.number };
        }
        let of_host = self.keys_of(&full);
        if of_host.iter().any(|line| line.key == key) {
            return Verdict::Trusted;
        }
        if !of_host.is_empty() {
            return Verdict::Changed { lines: of_host.iter().map(|line| line.number).collect() };
        }
        // A line without port vouches for the host on any port, but only with this very key.
        if self.keys_of(&host.plain).iter().any(|line| line.key == key) {
            return Verdict::Trusted;
        }
        Verdict::Unknown { note: self.note(&full) }
    }

    /// The key types of the host's lines: to be asked for first, so that a host with several keys shows one we
    /// know.
    pub(super) fn key_types(&self, host: &HostName) -> Vec<&str> {
        let mut lines = self.keys_of(&host.full());
        if lines.is_empty() {
            lines = self.keys_of(&host.plain);
        }
        lines.into_iter().map(|line| line.key_type.as_str()).collect()
    }

    /// The refusal that goes with a verdict, `None` for a trusted key.
    pub(super) fn refusal(&self, host: &HostName, key: &[u8]) -> Option<Error> {
        let (name, file, shown) = (host.full(), self.path.display(), fingerprint(key));
        let key_type = key_type(key);
        let refuse = |what: String| Error::new(Kind::Refused, what);
        let compare = "compare the fingerprint with the one that `ssh-keygen -lf` prints for the key in /etc/ssh on the backup host";
        Some(match self.judge(host, key) {
            Verdict::Trusted => return None,
            Verdict::Unknown { note } => {
                let note = note.map_or(String::new(), |note| format!(" ({note})"));
                let (port, plain) = (host.port, &host.plain);
                let scan = key_type.trim_start_matches("ssh-").split('-').next().unwrap_or_default();
                refuse(format!("the host key of {name} is unknown: it shows {key_type} {shown}, {file} has no key of it{note}"))
                    .hint(format!("{compare}; if it is the same, run: ssh-keyscan -p {port} -t {scan} {plain} >> {file}"))
            }
            Verdict::Changed { lines } => refuse(format!(
                "the host key of {name} has changed: it shows {key_type} {shown}, {file} has other keys of it (line {})",
                join(&lines)
            ))
            .hint(format!("somebody may be listening in; {compare}; only if the host was set up anew, run: ssh-keygen -R '{name}' -f {file} and then add the new key")),
            Verdict::Revoked { line } => refuse(format!(
                "the host key of {name} is revoked: it shows {key_type} {shown}, {file} line {line} revokes it"
            ))
            .hint("the key was declared stolen or lost: give the backup host a new one; do not remove the line"),
        })
    }

    fn keys_of(&self, name: &str) -> Vec<&Line> {
        let of_host = |line: &&Line| line.marker == Marker::None && line.hosts.matches(name);
        self.lines.iter().filter(of_host).collect()
    }

    fn note(&self, name: &str) -> Option<String> {
        if self.missing {
            return Some("the file does not exist".into());
        }
        let authority = |line: &&Line| line.marker == Marker::CertAuthority && line.hosts.matches(name);
        if let Some(line) = self.lines.iter().find(authority) {
            return Some(format!("@cert-authority in line {} is not supported", line.number));
        }
        (!self.unreadable.is_empty())
            .then(|| format!("line {} could not be understood", join(&self.unreadable)))
    }
}

impl Hosts {
    fn parse(text: &str) -> Option<Hosts> {
        let Some(hashed) = text.strip_prefix("|1|") else {
            return Some(Hosts::Patterns(text.split(',').map(str::to_lowercase).collect()));
        };
        let (salt, hash) = hashed.split_once('|')?;
        Some(Hosts::Hashed { salt: decode(salt)?, hash: decode(hash)? })
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Hosts::Hashed { salt, hash } => hash_name(salt, name).is_some_and(|found| found == *hash),
            Hosts::Patterns(patterns) => {
                let hit = |pattern: &str| glob(pattern.as_bytes(), name.as_bytes());
                let denied = patterns.iter().filter_map(|pattern| pattern.strip_prefix('!')).any(hit);
                !denied && patterns.iter().any(|pattern| hit(pattern))
            }
        }
    }
}

/// `SHA256:…` as OpenSSH prints it.
pub(super) fn fingerprint(key: &[u8]) -> String {
    let encoded = openssl::base64::encode_block(&openssl::sha::sha256(key));
    format!("SHA256:{}", encoded.trim_end_matches('='))
}

/// The name with which the key itself begins.
fn key_type(key: &[u8]) -> String {
    let name = key
        .split_first_chunk::<4>()
        .and_then(|(length, rest)| rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?));
    String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
}

fn parse_line(number: usize, line: &str) -> Option<Line> {
    let mut words = line.split_ascii_whitespace();
    let mut first = words.next()?;
    let marker = match first {
        "@revoked" => Marker::Revoked,
        "@cert-authority" => Marker::CertAuthority,
        _ if first.starts_with('@') => return None,
        _ => Marker::None,
    };
    if marker != Marker::None {
        first = words.next()?;
    }
    let hosts = Hosts::parse(first)?;
    let (named_type, key) = (words.next()?, decode(words.next()?)?);
    // What the key says of itself is what the server will show.
    (key_type(&key) == named_type).then(|| Line {
        number,
        marker,
        hosts,
        key_type: named_type.to_owned(),
        key,
    })
}

fn decode(text: &str) -> Option<Vec<u8>> {
    openssl::base64::decode_block(text).ok()
}

fn hash_name(salt: &[u8], name: &str) -> Option<Vec<u8>> {
    // SHA-1 is what the file format says; it hides names here and protects nothing.
    let key = PKey::hmac(salt).ok()?;
    let mut signer = Signer::new(MessageDigest::sha1(), &key).ok()?;
    signer.sign_oneshot_to_vec(name.as_bytes()).ok()
}

/// `*` is any text, `?` any character.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on if the text after the last star turns out to have begun later.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

fn join(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    // Keys made with ssh-keygen for this test.
    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO32o+QZntdPvhqUs2lRzUf27yxPeDk6Xndrl2xUnbHx";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAevzOPBouOd1rO0UYa9L3OJovonpCmXV9cel1Iv9LMi";

    fn blob(line: &str) -> Vec<u8> {
        decode(line.split(' ').nth(1).expect("type and key")).expect("base64")
    }

    fn known(text: &str) -> KnownHosts {
        KnownHosts::parse(Path::new("/"), text).expect("readable")
    }

    fn verdict(text: &str, port: u16) -> Verdict {
        known(text).judge(&HostName::new("Backup.example", port), &blob(KEY))
    }

    fn hashed(name: &str) -> String {
        let salt = b"01234567890123456789";
        let hash = hash_name(salt, name).expect("HMAC works");
        format!("|1|{}|{}", openssl::base64::encode_block(salt), openssl::base64::encode_block(&hash))
    }

    #[test]
    fn trusts_the_key_of_a_line_that_names_the_host() {
        for (hosts, port) in [
            ("backup.example", 22),
            ("BACKUP.example", 22),
            ("other,backup.example", 22),
            ("*.example", 22),
            ("back?p.example", 22),
            ("[backup.example]:2222", 2222),
            ("[*]:2222", 2222),
            ("backup.example", 2222),
            (&hashed("backup.example"), 22),
            (&hashed("[backup.example]:2222"), 2222),
        ] {
            assert_eq!(verdict(&format!("{hosts} {KEY} comment\n"), port), Verdict::Trusted, "{hosts}");
        }
    }

    #[test]
    fn does_not_know_a_host_that_no_line_names() {
        for (hosts, port) in [
            ("other.example", 22),
            ("*.example,!backup.example", 22),
            ("!backup.example", 22),
            ("[backup.example]:2222", 22),
            ("[backup.example]:2222", 2223),
            (&hashed("other.example"), 22),
        ] {
            let found = verdict(&format!("{hosts} {KEY}\n"), port);
            assert_eq!(found, Verdict::Unknown { note: None }, "{hosts}");
        }
    }

    #[test]
    fn another_key_of_the_host_is_a_changed_key() {
        assert_eq!(verdict(&format!("backup.example {OTHER}"), 22), Verdict::Changed { lines: vec![1] });
        let text = format!("[backup.example]:2222 {OTHER}\nbackup.example {KEY}\n");
        assert_eq!(verdict(&text, 2222), Verdict::Changed { lines: vec![1] }, "the port's own line decides");
        let text = format!("backup.example {OTHER}\nbackup.example {KEY}\n");
        assert_eq!(verdict(&text, 22), Verdict::Trusted, "a host may have several keys");
        assert_eq!(verdict(&format!("backup.example {OTHER}"), 2222), Verdict::Unknown { note: None });
    }

    #[test]
    fn revoked_wins_over_every_other_line() {
        for text in [
            format!("backup.example {KEY}\n@revoked * {KEY}\n"),
            format!("@revoked backup.example {KEY}\nbackup.example {KEY}\n"),
            format!("@revoked\t{}\t{KEY}\nbackup.example {KEY}", hashed("backup.example")),
        ] {
            assert!(matches!(verdict(&text, 22), Verdict::Revoked { .. }), "{text}");
        }
        let text = format!("@revoked * {OTHER}\nbackup.example {KEY}\n");
        assert_eq!(verdict(&text, 22), Verdict::Trusted, "another key is revoked");
        let text = format!("@revoked backup.example {KEY}\n[backup.example]:2222 {KEY}\n");
        assert_eq!(verdict(&text, 2222), Verdict::Revoked { line: 1 }, "on every port");
    }

    #[test]
    fn a_certificate_authority_is_no_host_key() {
        let note = Some("@cert-authority in line 1 is not supported".to_owned());
        assert_eq!(verdict(&format!("@cert-authority *.example {KEY}"), 22), Verdict::Unknown { note });
    }

    #[test]
    fn comments_blanks_and_windows_line_ends_do_no_harm() {
        let text = format!("# keys\r\n\r\n  \t\r\nbackup.example {KEY} a comment\r\n");
        assert_eq!(verdict(&text, 22), Verdict::Trusted);
    }

    #[test]
    fn a_line_that_cannot_be_understood_is_passed_over_and_named() {
        let short = format!("backup.example {}", KEY.replace("ssh-ed25519", "ssh-rsa"));
        for line in [
            "backup.example",
            "backup.example ssh-ed25519",
            "backup.example ssh-ed25519 !",
            "@new x y z",
            &short,
            "|1|x ssh-ed25519 AAAA",
        ] {
            let note = Some("line 1 could not be understood".to_owned());
            assert_eq!(verdict(line, 22), Verdict::Unknown { note }, "{line}");
            assert_eq!(verdict(&format!("{line}\nbackup.example {KEY}\n"), 22), Verdict::Trusted, "{line}");
        }
    }

    #[test]
    fn a_revocation_that_cannot_be_understood_is_an_error() {
        for line in ["@revoked", "@revoked *", "@revoked * ssh-ed25519 !"] {
            let text = format!("backup.example {KEY}\n{line}\n");
            assert!(KnownHosts::parse(Path::new("/"), &text).is_err(), "accepted {line}");
        }
    }

    #[test]
    fn asks_for_the_types_it_knows() {
        let text = format!("[backup.example]:2222 {KEY}\nelse {OTHER}");
        assert_eq!(known(&text).key_types(&HostName::new("backup.example", 2222)), ["ssh-ed25519"]);
        assert!(known(&text).key_types(&HostName::new("backup.example", 22)).is_empty());
    }

    #[test]
    fn refusals_tell_the_three_cases_apart() {
        let host = HostName::new("backup.example", 2222);
        for (text, what, hint) in [
            (String::new(), "is unknown", "ssh-keyscan -p 2222 -t ed25519 backup.example"),
            (
                format!("[backup.example]:2222 {OTHER}"),
                "has changed",
                "ssh-keygen -R '[backup.example]:2222'",
            ),
            (format!("@revoked * {KEY}"), "is revoked", "do not remove the line"),
        ] {
            let refusal = known(&text).refusal(&host, &blob(KEY)).expect("refused");
            assert_eq!(refusal.kind(), Kind::Refused);
            let report = refusal.report();
            for part in [what, hint, &fingerprint(&blob(KEY)), "ssh-ed25519"] {
                assert!(report.contains(part), "{part:?} is missing in {report}");
            }
        }
    }

    #[test]
    fn fuzz_known_hosts() {
        let key = blob(KEY);
        syncdata_fuzz::replay("known_hosts", |bytes| {
            let Ok(known) = KnownHosts::parse(Path::new("/"), &String::from_utf8_lossy(bytes)) else {
                return false;
            };
            let mut trusted = false;
            for (host, port) in [("backup.example", 22), ("backup.example", 2222), ("", 0), ("*", 22)] {
                let host = HostName::new(host, port);
                let is_trusted = known.judge(&host, &key) == Verdict::Trusted;
                assert_eq!(known.refusal(&host, &key).is_none(), is_trusted);
                known.key_types(&host);
                trusted |= is_trusted;
            }
            trusted
        });
    }

    #[test]
    fn globs() {
        for (pattern, text, hit) in [
            ("", "", true),
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "abcd", false),
            ("*b*", "abc", true),
            ("?", "", false),
            ("a?c", "abc", true),
            ("*ab", "aab", true),
            ("a", "b", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxcyyb", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), hit, "{pattern} {text}");
        }
    }
}
