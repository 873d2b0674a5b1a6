//! Bytes from outside, for the tests of whatever reads them: the files in `corpus/TARGET`, then random mutations.
//!
//! A file whose name begins with `sound` has to be understood, one that begins with `bad` has to be refused; neither they
//! nor any mutation of them may make the reader panic. Bounded in count and in time. For a longer search, and to see one
//! again:
//!
//! ```text
//! SYNCDATA_FUZZ_SECONDS=600 cargo test --workspace --lib --bins fuzz
//! SYNCDATA_FUZZ_SEED=123 cargo test --workspace --lib --bins fuzz
//! ```
//! What fails is written to `target/fuzz`: put it into the corpus, with the mend.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Without a longer time being asked for.
const ROUNDS: u64 = 2000;
const TIME: Duration = Duration::from_secs(2);

/// Mutated bytes grow no longer than this: length is for the tests of limits.
const BYTES_MAX: usize = 64 << 10;

/// What readers of our formats stop at.
const TOKENS: [&[u8]; 24] = [
    b"\"",
    b"\\",
    b"\\u",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"-",
    b"0",
    b".",
    b"e",
    b"\n",
    b"\r\n",
    b"\0",
    b"\xEF\xBB\xBF",
    b"\xFF",
    b"\xC3",
    b"99999999999999999999",
    b"/",
    b"\t",
];

/// Runs `check`, which tells whether the bytes were understood, on the corpus of `target` and on mutations of it.
///
/// # Panics
///
/// When `check` does, or is wrong about a file of the corpus.
pub fn replay(target: &str, check: impl Fn(&[u8]) -> bool) {
    let corpus = corpus(target);
    assert!(
        corpus.iter().any(|(name, _)| name.starts_with("sound")),
        "{target} has nothing that is understood"
    );
    for (name, bytes) in &corpus {
        let understood = attempt(target, name, bytes, &check);
        assert_eq!(understood, !name.starts_with("bad"), "{target}/{name}: whether it is understood");
    }
    let seed = seed();
    say(&format!("{target}: SYNCDATA_FUZZ_SEED={seed}"));
    let mut random = Random(seed);
    let (rounds, time) = bounds();
    let started = Instant::now();
    for round in 0..rounds {
        if started.elapsed() > time {
            break;
        }
        let bytes = mutated(&corpus, &mut random);
        attempt(target, &format!("seed-{seed}-round-{round}"), &bytes, &check);
    }
}

/// The first file of a corpus that is understood.
///
/// # Panics
///
/// When there is none.
pub fn sound(target: &str) -> Vec<u8> {
    let mut corpus = corpus(target).into_iter();
    corpus.find(|(name, _)| name.starts_with("sound")).expect("a corpus has a sound file").1
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries
        .flatten()
        .map(|entry| {
            let bytes = fs::read(entry.path()).expect("a file of the corpus can be read");
            (entry.file_name().to_string_lossy().into_owned(), bytes)
        })
        .collect();
    // The same order everywhere, or a seed would mean something else on another machine.
    files.sort();
    files
}

fn attempt(target: &str, name: &str, bytes: &[u8], check: &impl Fn(&[u8]) -> bool) -> bool {
    match catch_unwind(AssertUnwindSafe(|| check(bytes))) {
        Ok(understood) => understood,
        Err(panic) => {
            say(&format!("{target}/{name} failed; its bytes: {}", kept(target, name, bytes).display()));
            resume_unwind(panic);
        }
    }
}

/// Where what failed lies from now on.
fn kept(target: &str, name: &str, bytes: &[u8]) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz");
    let path = folder.join(format!("{target}-{name}"));
    let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, bytes));
    written.unwrap_or_else(|error| panic!("{}: {error}; the bytes: {bytes:?}", path.display()));
    path
}

fn seed() -> u64 {
    let given = std::env::var("SYNCDATA_FUZZ_SEED").ok();
    let given = given.map(|text| text.parse().expect("SYNCDATA_FUZZ_SEED is a number"));
    given.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        since.as_secs() << 30 | u64::from(since.subsec_nanos())
    })
}

fn bounds() -> (u64, Duration) {
    match std::env::var("SYNCDATA_FUZZ_SECONDS") {
        Ok(seconds) => {
            let seconds = seconds.parse().expect("SYNCDATA_FUZZ_SECONDS is a number");
            (u64::MAX, Duration::from_secs(seconds))
        }
        Err(_) => (ROUNDS, TIME),
    }
}

/// xorshift: the same seed gives the same bytes with every toolchain.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // Zero would stay zero.
        let mut state = self.0.max(1);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.0 = state;
        state
    }

    /// Below `limit`; 0 when that is 0.
    fn below(&mut self, limit: usize) -> usize {
        let limit = limit.max(1) as u64;
        usize::try_from(self.next() % limit).expect("below a usize")
    }
}

fn mutated(corpus: &[(String, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].1.clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(16)).min(bytes.len());
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).expect("a byte"),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                drop(bytes.splice(to..to, piece));
            }
            4 => bytes.truncate(at),
            5 => {
                let other = &corpus[random.below(corpus.len())].1;
                let from = random.below(other.len() + 1);
                drop(bytes.splice(at.., other[from..].iter().copied()));
            }
            _ => drop(bytes.splice(at..end, TOKENS[random.below(TOKENS.len())].iter().copied())),
        }
        bytes.truncate(BYTES_MAX);
    }
    bytes
}

#[expect(clippy::print_stderr, reason = "for the person who reads a failed test")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_panics_is_found() {
        let panics_at_two_quotes = |bytes: &[u8]| {
            let quotes = bytes.iter().filter(|byte| **byte == b'"').count();
            assert!(quotes < 2);
            quotes == 1
        };
        let found = catch_unwind(|| replay("self", panics_at_two_quotes));
        assert!(found.is_err(), "no mutation had two quotes");
    }

    #[test]
    fn a_reader_that_understands_what_is_bad_is_found() {
        assert!(catch_unwind(|| replay("self", |_| true)).is_err());
        assert!(catch_unwind(|| replay("self", |_| false)).is_err());
    }

    #[test]
    fn a_seed_gives_the_same_bytes() {
        let corpus = corpus("self");
        let ten = |seed| {
            let mut random = Random(seed);
            (0..10).map(|_| mutated(&corpus, &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(ten(7), ten(7));
        assert_ne!(ten(7), ten(8));
    }
}
