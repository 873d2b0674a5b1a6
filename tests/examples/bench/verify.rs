//! Proving an archive, against `zstd -t` and `sha256sum` over the same files, on the same two cores.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use syncdata_tests::Prng;
use syncdata_tests::forge::Forge;

use crate::measure::{ratio, release, spread, timed};
use crate::{Arguments, say};

/// As the archiver cuts them.
const SEGMENT_BYTES: usize = 64 << 20;
const TRANSACTION_ROWS: usize = 200;

pub(crate) fn run(arguments: &Arguments) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let archive = folder.path().join("archive");
    let mut random = Prng::new(7);
    let mut forge = Forge::new(&archive);
    let columns =
        ["id bigint not null", "customer integer", "total numeric(12,2)", "state text", "note text"];
    forge.relation("sales.orders", &columns, &["id"]);
    let (mut compressed, mut rest) = (0, arguments.mib << 20);
    let mut content = 0;
    while rest > 0 {
        let wanted = SEGMENT_BYTES.min(usize::try_from(rest).unwrap_or(SEGMENT_BYTES));
        let (transactions, bytes) = transactions(&mut random, wanted);
        let forged = forge.segment(&transactions);
        compressed += std::fs::metadata(&forged.file).expect("it was written").len();
        content += bytes;
        rest = rest.saturating_sub(wanted as u64);
    }
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        ours.push(timed(two_cores(verify(folder.path(), &archive))));
        peers.push(timed(two_cores(stock_tools(&archive))));
    }
    say(&format!("verify, {} MiB of lines in {} MiB of files", content >> 20, compressed >> 20));
    say(&format!("  verify (chain, SHA-256, frame, every line, counts)  {}", spread(&ours)));
    say(&format!("  zstd -t and sha256sum, two at a time                {}", spread(&peers)));
    say(&format!("  ratio of their speeds (0.5 is half as fast)         {}", ratio(&peers, &ours)));
}

/// Rows as a shop has them: some text repeats, some does not.
fn transactions(random: &mut Prng, bytes: usize) -> (Vec<Vec<String>>, usize) {
    let (mut transactions, mut written) = (Vec::new(), 0);
    while written < bytes {
        let rows: Vec<String> = (0..TRANSACTION_ROWS).map(|_| row(random)).collect();
        // lsn, ts and the line's end come with it.
        written += rows.iter().map(|row| row.len() + 50).sum::<usize>();
        transactions.push(rows);
    }
    (transactions, written)
}

fn row(random: &mut Prng) -> String {
    let id = random.below(50_000_000);
    let old = format!("\"old_keys\":{{\"id\":{id}}}");
    if random.below(10) == 0 {
        return format!("{{\"table\":\"sales.orders\",\"op\":\"DELETE\",{old}}}");
    }
    let mut data = format!(
        "{{\"id\":{id},\"customer\":{},\"total\":{}.{:02},\"state\":\"{}\",\"note\":\"",
        random.below(900_000),
        random.below(10_000),
        random.below(100),
        ["new", "paid", "shipped", "returned"][usize::try_from(random.below(4)).expect("small")],
    );
    for _ in 0..1 + random.below(3) {
        write!(data, "{:016x} delivered to the usual place, ", random.number()).expect("a String takes all");
    }
    data.push_str("\"}");
    match random.below(3) {
        0 => format!("{{\"table\":\"sales.orders\",\"op\":\"UPDATE\",\"data\":{data},{old}}}"),
        _ => format!("{{\"table\":\"sales.orders\",\"op\":\"INSERT\",\"data\":{data}}}"),
    }
}

fn verify(folder: &Path, archive: &Path) -> Command {
    let mut command = Command::new(release("syncdata-archiver"));
    command.arg("verify").env("SYNCDATA_ARCHIVE_DIR", archive).env("STATE_DIRECTORY", folder);
    command
}

/// As an operator would have both cores at work.
fn stock_tools(archive: &Path) -> Command {
    let mut command = Command::new("sh");
    let script =
        "printf '%s\\n' segments/*/*.zst | xargs -P 2 -n 4 sh -c 'zstd -tq \"$@\" && sha256sum \"$@\"' sh";
    command.args(["-c", script]).current_dir(archive);
    command
}

fn two_cores(command: Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.args(["--cpu-list", "0,1"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        pinned.env(name, value.expect("only set"));
    }
    if let Some(folder) = command.get_current_dir() {
        pinned.current_dir(folder);
    }
    pinned.stdout(Stdio::null());
    pinned
}
