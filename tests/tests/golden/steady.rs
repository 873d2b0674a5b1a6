//! The same text for every run: what differs from run to run becomes a fixed word.

use syncdata_tests::LocalCopy;
use syncdata_tests::world::World;

/// The name of a snapshot or a proof: its position and its time.
const ID: &str = "hhhhhhhhhhhhhhhh-ddddddddTddddddZ";

/// The hexadecimal digits of a UUID's five parts.
const UUID: [usize; 5] = [8, 4, 4, 4, 12];

/// The output of a command of that copy.
pub(crate) fn of_copy(copy: &LocalCopy, text: &str) -> String {
    let server = &copy.server;
    let text = text.replace(&copy.archive_dir().display().to_string(), "ARCHIVE_DIR");
    let text = text.replace(&copy.folder().display().to_string(), "FOLDER");
    let text = text.replace(&format!("{}:{}", server.host(), server.port()), "HOST:PORT");
    let text = text.replace(&format!("pg_port = {}", server.port()), "pg_port = PORT");
    let text = text.replace(&format!("\"value\":{}", server.port()), "\"value\":PORT");
    let text = text.replace(server.host(), "HOST").replace(&format!("user {}", server.user()), "user USER");
    let lines = text.lines().map(without_server_version);
    let text: String = lines.map(|line| line + "\n").collect();
    without_room(&steady(&text))
}

/// How full this machine's disks are.
fn without_room(text: &str) -> String {
    let mut out = text.to_owned();
    for key in ["\"free_bytes\":", "\"size_bytes\":"] {
        let mut parts = out.split(key);
        let mut said = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            said.push_str(key);
            said.push('N');
            said.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
        }
        out = said;
    }
    out
}

/// The output of a program of that world. Numbers are of this run: sizes, positions, seconds. What is said of
/// wal2json depends on its version.
pub(crate) fn of_world(world: &World, text: &str) -> String {
    let text = text.replace(&world.archive_dir().display().to_string(), "ARCHIVE_DIR");
    let text = text.replace(&world.folder().display().to_string(), "FOLDER");
    let mut text = text.to_owned();
    for server in [&world.source, &world.target] {
        text = text.replace(&format!("{}:{}", server.host(), server.port()), "HOST:PORT");
    }
    let text = text.replace(world.source.host(), "HOST");
    // Newer servers put names of settings in quotes.
    let text = text.replace("\"temp_file_limit\"", "temp_file_limit");
    // How much room there is depends on the machine.
    let is_steady = |line: &&str| !line.contains("wal2json") && !line.contains(" room: ");
    let lines = text.lines().filter(is_steady).map(without_server_version);
    let text: String = lines.map(|line| line + "\n").collect();
    without_numbers(&steady(&text))
}

/// Positions and numbers as fixed words.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_inclusive(|c: char| !(c.is_ascii_hexdigit() || c == '/' || c == '.')) {
        let (body, end) = match word.char_indices().next_back() {
            Some((at, c)) if !(c.is_ascii_hexdigit() || c == '/' || c == '.') => word.split_at(at),
            _ => (word, ""),
        };
        let is_position = body.split_once('/').is_some_and(|(high, low)| {
            [high, low].iter().all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_hexdigit()))
        });
        match (is_position, body.starts_with(|c: char| c.is_ascii_digit())) {
            (true, _) => out.push_str("LSN"),
            (false, true) => {
                let number = body.trim_end_matches('.');
                out.push_str(if number.chars().all(|c| c.is_ascii_digit() || c == '.') {
                    "N"
                } else {
                    number
                });
                out.push_str(&body[number.len()..]);
            }
            (false, false) => out.push_str(body),
        }
        out.push_str(end);
    }
    let units = ["N B", "N KiB", "N MiB", "N GiB", "N TiB"];
    units.iter().fold(out, |text, unit| text.replace(unit, "SIZE"))
}

/// The tests run on several versions of PostgreSQL.
fn without_server_version(line: &str) -> String {
    match line.split_once("PostgreSQL ") {
        Some((before, after)) if after.starts_with(|c: char| c.is_ascii_digit()) => {
            let end = if line.contains('"') { after.find('"') } else { None };
            let rest = end.map_or_else(String::new, |end| without_server_version(&after[end..]));
            format!("{before}PostgreSQL VERSION{rest}")
        }
        Some((before, after)) => format!("{before}PostgreSQL {}", without_server_version(after)),
        _ => line.to_owned(),
    }
}

/// Times and UUIDs as fixed words.
pub(crate) fn steady(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (word, length) = if let Some(length) = time(rest) {
            ("TIME", length)
        } else if is_like(ID, rest) {
            ("ID", ID.len())
        } else if let Some(length) = uuid(rest) {
            ("UUID", length)
        } else {
            (&rest[..c.len_utf8()], c.len_utf8())
        };
        out.push_str(word);
        rest = &rest[length..];
    }
    out
}

/// Whether it begins like that: `d` for a digit, `h` for a hexadecimal one.
fn is_like(shape: &str, text: &str) -> bool {
    let fits = |(have, want): (char, char)| match want {
        'd' => have.is_ascii_digit(),
        'h' => have.is_ascii_hexdigit(),
        _ => have == want,
    };
    text.is_char_boundary(shape.len()) && text.chars().zip(shape.chars()).all(fits)
}

/// `2026-02-05T10:30:00.123456Z` at the beginning: its length.
fn time(text: &str) -> Option<usize> {
    let shape = "dddd-dd-ddTdd:dd:dd";
    if !is_like(shape, text) {
        return None;
    }
    let fraction = text[shape.len()..].find(|c: char| c != '.' && !c.is_ascii_digit())?;
    let end = shape.len() + fraction;
    text[end..].starts_with('Z').then_some(end + 1)
}

/// `6f1c2f0e-…` at the beginning: its length.
fn uuid(text: &str) -> Option<usize> {
    let mut end = 0;
    for (number, digits) in UUID.into_iter().enumerate() {
        if number > 0 {
            end += text[end..].strip_prefix('-').map(|_| 1)?;
        }
        let part = text.get(end..end + digits)?;
        part.chars().all(|c| c.is_ascii_hexdigit()).then_some(())?;
        end += digits;
    }
    Some(end)
}

#[test]
fn times_and_ids_become_words_and_all_else_stays() {
    let text = "as of 2026-02-05T10:30:00.5Z, archive 6f1c2f0e-0000-4000-8000-00000000abcd; 2026-02-05 stays – so; \
         00000000016B3D40-20260205T103000Z, 00000000016B3D40-";
    assert_eq!(steady(text), "as of TIME, archive UUID; 2026-02-05 stays – so; ID, 00000000016B3D40-");
}

#[test]
fn positions_and_numbers_of_a_run_become_words() {
    let text = "up to 0/16B3D00, 1.5 MiB in 12 files; exit code a; face/b";
    assert_eq!(without_numbers(text), "up to LSN, SIZE in N files; exit code a; LSN");
}
