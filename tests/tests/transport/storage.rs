//! What a store, and what stands before it, can do wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use syncdata_archive::{self as archive, Archive, Patience, Put, S3Archive, probe};
use syncdata_formats::Kind;
use syncdata_formats::layout::ArchivePath;
use syncdata_service::config::{ArchiveSettings, BucketPlace, S3KeySource, S3Settings};
use syncdata_tests::proxy::{Direction, Proxy};
use syncdata_tests::store::{Place, Who};
use syncdata_tests::store_proxy::{Asked, StoreProxy, Trick};

use super::{IMPATIENT, assert_refused, content, path, put, read, storage};

const SEGMENT: &str = "segments/2026-02-05/0000000001-0000000000000001.jsonl.zst";
/// More than one piece, and the last one is short.
const LARGE_BYTES: usize = (8 << 20) + 70_000;

const PATIENT: Patience = Patience { retries: 4, ..IMPATIENT };
const HASTY: Patience =
    Patience { connect: Duration::from_millis(700), answer: Duration::from_millis(700), ..IMPATIENT };
const SOON: Duration = Duration::from_secs(10);

fn behind(place: &Place) -> (StoreProxy, S3Archive) {
    let proxy = StoreProxy::start(place.address());
    let archive = storage(&place.settings_at(proxy.address(), Who::Owner)).with_patience(PATIENT);
    (proxy, archive)
}

/// Does it to the first so many requests that are of that kind, and counts them.
fn at_first(
    times: u32,
    trick: Trick,
    is_it: impl Fn(&Asked) -> bool + Send + 'static,
) -> impl FnMut(&Asked) -> Trick + Send {
    let mut left = times;
    move |asked| {
        if left == 0 || !is_it(asked) {
            return Trick::Pass;
        }
        left -= 1;
        trick.clone()
    }
}

#[test]
fn a_write_whose_answer_is_lost_is_found_to_be_ours() {
    let place = Place::new();
    let (proxy, mut archive) = behind(&place);
    proxy.plan(at_first(1, Trick::LoseAnswer, |asked| asked.method == "PUT"));
    assert_eq!(put(&mut archive, &path(SEGMENT), b"ours").expect("found"), Put::AlreadyThere);
    assert_eq!(place.read(SEGMENT), b"ours");
    for text in [&b"1"[..], b"22", b"333"] {
        proxy.plan(at_first(1, Trick::LoseAnswer, |asked| asked.method == "PUT"));
        archive.replace(&ArchivePath::head(), text).expect("found");
        assert_eq!(place.read("head.json"), text);
    }
    proxy.plan(at_first(1, Trick::LoseAnswer, |asked| asked.method == "DELETE"));
    assert!(archive.remove(&path(SEGMENT)).expect("removed"));
    assert_eq!(place.names(), ["head.json"]);
}

#[test]
fn every_lost_answer_of_a_large_write_is_made_good() {
    let place = Place::new();
    let (proxy, mut archive) = behind(&place);
    let content = content(LARGE_BYTES);
    proxy.plan(|_| Trick::Pass);
    assert_eq!(put(&mut archive, &path("segments/large"), &content).expect("written"), Put::Written);
    let writes = proxy.take_asked().iter().filter(|asked| asked.method != "GET").count();
    for lost in 0..writes {
        let mut seen = 0;
        proxy.plan(move |asked| {
            let is_it = asked.method != "GET" && seen == lost;
            seen += usize::from(asked.method != "GET");
            if is_it { Trick::LoseAnswer } else { Trick::Pass }
        });
        let name = format!("segments/large-{lost}");
        put(&mut archive, &path(&name), &content)
            .unwrap_or_else(|error| panic!("{lost}: {}", error.report()));
        assert!(place.read(&name) == content, "{lost}");
    }
}

#[test]
fn of_two_archivers_the_later_one_is_told() {
    let place = Place::new();
    let (mut first, mut second) = (storage(&place.settings()), storage(&place.settings()));
    first.replace(&ArchivePath::head(), b"first").expect("nobody was before");
    assert_eq!(read(&mut second, &ArchivePath::head()).expect("there"), b"first");
    second.replace(&ArchivePath::head(), b"second").expect("what was read last");
    let parts = ["head.json", "second archiver"];
    assert_refused(first.replace(&ArchivePath::head(), b"other"), Kind::Conflict, &parts);
    assert_eq!(place.read("head.json"), b"second");
    put(&mut first, &path(SEGMENT), b"one").expect("written");
    assert_refused(put(&mut second, &path(SEGMENT), b"two"), Kind::Conflict, &[SEGMENT, "second archiver"]);
    // Who finds none and makes one is told as well.
    let place = Place::new();
    let (proxy, mut late) = behind(&place);
    let mut early = storage(&place.settings());
    let is_made = Arc::new(AtomicU32::new(0));
    let made = Arc::clone(&is_made);
    proxy.plan(move |asked| {
        if asked.method == "PUT" && made.fetch_add(1, Ordering::Relaxed) == 0 {
            early.replace(&ArchivePath::head(), b"early").expect("made");
        }
        Trick::Pass
    });
    assert_refused(late.replace(&ArchivePath::head(), b"late"), Kind::Conflict, &parts);
    assert_eq!(place.read("head.json"), b"early");
}

/// A balancer or a page of maintenance says 200, or 404: nothing was kept, and nothing is missing.
#[test]
fn what_answers_in_the_place_of_the_store_is_not_believed() {
    const PAGE: &str = "<html>back soon</html>";
    let place = Place::new();
    let (proxy, mut archive) = behind(&place);
    proxy.plan(at_first(2, Trick::Say(200, PAGE), |asked| asked.method == "PUT"));
    assert_eq!(put(&mut archive, &path(SEGMENT), b"ours").expect("written"), Put::Written);
    assert_eq!(place.read(SEGMENT), b"ours");
    proxy.plan(at_first(1, Trick::Say(200, PAGE), |asked| asked.method == "PUT"));
    archive.replace(&ArchivePath::head(), b"1").expect("replaced");
    assert_eq!(place.read("head.json"), b"1");
    let content = content(LARGE_BYTES);
    for said in [PAGE, ""] {
        proxy.plan(at_first(1, Trick::Say(200, said), |asked| {
            asked.method == "POST" && asked.path.contains("uploadId")
        }));
        let name = format!("segments/large{}", said.len());
        assert_eq!(put(&mut archive, &path(&name), &content).expect("written"), Put::Written);
        assert_eq!(place.read(&name), content);
    }
    // Amazon's takes no piece with a checksum unless it is said at the beginning which.
    let begun = proxy.take_asked().into_iter().find(|asked| asked.path.ends_with("?uploads="));
    let begun = begun.expect("it was begun");
    assert_eq!(begun.header("x-amz-checksum-algorithm"), Some("SHA256"));
    proxy.plan(at_first(1, Trick::Say(404, PAGE), |asked| asked.method == "GET"));
    assert_eq!(read(&mut archive, &path(SEGMENT)).expect("read"), b"ours");
    proxy.plan(|_| Trick::Say(404, PAGE));
    assert_refused(
        read(&mut archive, &path(SEGMENT)),
        Kind::Unreachable,
        &["what answered is not the store"],
    );
}

#[test]
fn a_large_file_does_not_take_a_name_that_was_taken_meanwhile() {
    let place = Place::new();
    let (proxy, mut archive) = behind(&place);
    let other = place.clone();
    // When the pieces are put together.
    proxy.plan(move |asked| {
        if asked.method == "POST" && asked.path.contains("uploadId") {
            other.plant("segments/large", b"another");
        }
        Trick::Pass
    });
    let outcome = put(&mut archive, &path("segments/large"), &content(LARGE_BYTES));
    assert_refused(outcome, Kind::Conflict, &["segments/large", "other content"]);
    assert_eq!(place.read("segments/large"), b"another");
}

#[test]
fn a_store_that_asks_for_time_gets_it_and_patience_ends() {
    let place = Place::new();
    let (proxy, mut archive) = behind(&place);
    for status in [503, 500, 429] {
        proxy.plan(at_first(PATIENT.retries, Trick::Answer(status, "SlowDown"), |_| true));
        put(&mut archive, &path(&format!("segments/{status}")), b"x").expect("in the end");
    }
    proxy.plan(at_first(3, Trick::Answer(503, "SlowDown"), |asked| asked.path.contains("partNumber=2")));
    put(&mut archive, &path("segments/large"), &content(LARGE_BYTES)).expect("in the end");
    proxy.plan(at_first(2, Trick::Answer(503, "SlowDown"), |asked| asked.method == "POST"));
    put(&mut archive, &path("segments/large2"), &content(LARGE_BYTES)).expect("in the end");
    proxy.plan(|_| Trick::Answer(503, "SlowDown"));
    let parts = ["503 SlowDown", "later"];
    assert_refused(put(&mut archive, &path(SEGMENT), b"x"), Kind::Unreachable, &parts);
    assert_refused(read(&mut archive, &path("segments/503")), Kind::Unreachable, &parts);
    assert_refused(archive.list(&path("segments")), Kind::Unreachable, &parts);
    let outcome = put(&mut archive, &path("segments/l3"), &content(LARGE_BYTES));
    assert_refused(outcome, Kind::Unreachable, &parts);
    proxy.plan(|_| Trick::Pass);
    assert_eq!(read(&mut archive, &path("segments/503")).expect("it is well again"), b"x");
    assert!(!place.names().contains(&SEGMENT.to_owned()));
}

#[test]
fn bytes_that_change_on_the_way_are_sent_again_or_found_out() {
    let place = Place::new();
    let (proxy, mut archive) = behind(&place);
    let content = content(100_000);
    proxy.plan(at_first(2, Trick::Corrupt, |asked| asked.method == "PUT"));
    put(&mut archive, &path(SEGMENT), &content).expect("sent again");
    assert!(place.read(SEGMENT) == content, "the store has other bytes");
    proxy.plan(|asked| if asked.method == "PUT" { Trick::Corrupt } else { Trick::Pass });
    assert_refused(
        put(&mut archive, &path("segments/never"), &content),
        Kind::Unreachable,
        &["segments/never"],
    );
    assert_eq!(place.names(), [SEGMENT]);
}

#[test]
fn wrong_keys_and_missing_rights_are_told_apart_and_no_secret_is_said() {
    let place = Place::new();
    put(&mut storage(&place.settings()), &path(SEGMENT), b"x").expect("written");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys");
    let settings = S3Settings {
        keys: S3KeySource::File { path: file.clone(), profile: "default".to_owned() },
        ..place.settings()
    };
    let mut archive = storage(&settings);
    assert_refused(
        read(&mut archive, &path(SEGMENT)),
        Kind::BadInput,
        &["no keys", "archive_credentials_file"],
    );
    let write = |text: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(&file, text).expect("ours");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("ours");
    };
    write("nothing", 0o600);
    assert_refused(read(&mut archive, &path(SEGMENT)), Kind::BadInput, &["no keys under [default]"]);
    let wrong = "aws_access_key_id = OWNER\naws_secret_access_key = canary-wrong\n";
    write(wrong, 0o644);
    assert_refused(read(&mut archive, &path(SEGMENT)), Kind::BadInput, &["chmod"]);
    write(wrong, 0o600);
    let parts = ["SignatureDoesNotMatch", "secret key"];
    for error in [
        assert_refused(read(&mut archive, &path(SEGMENT)), Kind::Refused, &parts),
        assert_refused(put(&mut archive, &path("segments/new"), b"x"), Kind::Refused, &parts),
        assert_refused(archive.list(&path("segments")), Kind::Refused, &parts),
    ] {
        assert!(!format!("{error:?} {}", error.report()).contains("canary"), "{error:?}");
    }
    assert!(!format!("{archive:?} {settings:?}").contains("canary"));
    write("aws_access_key_id = NOBODY\naws_secret_access_key = x\n", 0o600);
    assert_refused(
        read(&mut archive, &path(SEGMENT)),
        Kind::Refused,
        &["InvalidAccessKeyId", "does not know these keys"],
    );
    // New ones are taken without a word.
    place.write_keys(Who::Reader, &file);
    assert_eq!(read(&mut archive, &path(SEGMENT)).expect("readable"), b"x");
    let parts = ["AccessDenied", "rights"];
    assert_refused(put(&mut archive, &path("segments/new"), b"x"), Kind::Refused, &parts);
    assert_refused(put(&mut archive, &path("segments/large"), &content(LARGE_BYTES)), Kind::Refused, &parts);
    assert_refused(archive.replace(&ArchivePath::head(), b"x"), Kind::Refused, &parts);
    assert_refused(archive.remove(&path(SEGMENT)), Kind::Refused, &parts);
    assert_eq!(place.names(), [SEGMENT]);
}

#[test]
fn keys_that_may_not_delete_are_enough_for_all_but_a_prune() {
    let place = Place::new();
    let (proxy, mut archive) = behind(&place);
    proxy.plan(
        |asked| if asked.method == "DELETE" { Trick::Answer(403, "AccessDenied") } else { Trick::Pass },
    );
    probe::require_names_kept(&mut archive).expect("nothing has to be removed for it");
    put(&mut archive, &path(SEGMENT), b"x").expect("written");
    archive.replace(&ArchivePath::head(), b"1").expect("replaced");
    assert_refused(
        probe::probe(&mut archive),
        Kind::Refused,
        &["prune cannot do its work", "s3:DeleteObject"],
    );
    proxy.plan(|_| Trick::Pass);
    assert!(!probe::probe(&mut archive).expect("all is allowed"), "nothing is renamed");
    assert_eq!(place.names(), ["head.json", SEGMENT]);
}

#[test]
fn a_store_that_ignores_conditions_is_no_place_for_an_archive() {
    let place = Place::new();
    let (proxy, mut archive) = behind(&place);
    for (header, words) in [("if-none-match", "ignores If-None-Match"), ("if-match", "ignores If-Match")] {
        // As if it had taken no notice of the condition.
        proxy.plan(move |asked| match asked.header(header) {
            Some(_) if asked.method == "PUT" => Trick::SayInstead(200),
            _ => Trick::Pass,
        });
        assert_refused(probe::require_names_kept(&mut archive), Kind::Refused, &[words, "another one"]);
        assert_refused(probe::probe(&mut archive), Kind::Refused, &[words]);
    }
    // When pieces are put together it may be another one than when a file is written at once.
    proxy.plan(|asked| match asked.method.as_str() {
        "POST" if asked.path.contains("uploadId") => {
            Trick::Say(200, "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
        }
        _ => Trick::Pass,
    });
    assert_refused(
        probe::require_names_kept(&mut archive),
        Kind::Refused,
        &["ignores If-None-Match when it puts the pieces of a file together"],
    );
    proxy.plan(|asked| match asked.header("if-none-match") {
        Some(_) => Trick::Answer(501, "NotImplemented"),
        None => Trick::Pass,
    });
    assert_refused(
        probe::require_names_kept(&mut archive),
        Kind::Refused,
        &["501", "cannot do what an archive needs"],
    );
}

#[test]
fn looking_again_at_what_did_not_change_costs_one_question_and_no_body() {
    let place = Place::new();
    let (proxy, mut archive) = behind(&place);
    archive.replace(&ArchivePath::head(), b"{\"seq\":1}").expect("made");
    proxy.take_asked();
    for _ in 0..3 {
        assert_eq!(read(&mut archive, &ArchivePath::head()).expect("there"), b"{\"seq\":1}");
        let asked = proxy.take_asked();
        let [asked] = &asked[..] else { panic!("one question, not {asked:?}") };
        assert_eq!((asked.method.as_str(), asked.header("if-none-match").is_some()), ("GET", true));
    }
    let mut other = storage(&place.settings());
    read(&mut other, &ArchivePath::head()).expect("there");
    other.replace(&ArchivePath::head(), b"{\"seq\":2}").expect("replaced");
    assert_eq!(read(&mut archive, &ArchivePath::head()).expect("there"), b"{\"seq\":2}");
    proxy.take_asked();
    archive.changed_at(&ArchivePath::head()).expect("asked");
    assert_eq!(proxy.take_asked().iter().map(|asked| asked.method.as_str()).collect::<Vec<_>>(), ["HEAD"]);
    archive.replace(&ArchivePath::head(), b"{\"seq\":3}").expect("what was read last");
    assert_eq!(proxy.take_asked().len(), 1, "what was read last is known");
}

#[test]
fn a_folder_of_more_than_a_page_is_listed_whole_and_from_a_name_on() {
    let place = Place::new();
    let mut archive = storage(&place.settings());
    let names: Vec<String> = (0..1100).map(|n| format!("{n:05}")).collect();
    for name in &names {
        place.plant(&format!("segments/d/{name}"), b"x");
    }
    let listed =
        |entries: Vec<archive::Entry>| entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>();
    assert!(listed(archive.list(&path("segments/d")).expect("listed")) == names);
    assert_eq!(listed(archive.list_after(&path("segments/d"), "01097").expect("listed")), ["01098", "01099"]);
    assert_eq!(listed(archive.list(&path("segments")).expect("listed")), ["d"]);
}

#[test]
fn a_store_that_is_away_or_silent_is_given_up_and_found_again() {
    let place = Place::new();
    let mut archive = storage(&place.settings());
    put(&mut archive, &path(SEGMENT), &content(300_000)).expect("written");
    let nobody = syncdata_tests::free_address().parse().expect("an address");
    let mut away = storage(&place.settings_at(nobody, Who::Owner));
    let parts = ["out of reach", "archive_endpoint"];
    assert_refused(away.stat(&ArchivePath::head()), Kind::Unreachable, &parts);
    let mut settings = place.settings();
    settings.place = BucketPlace::read("s3://no-such-bucket/x").expect("a place");
    let parts = ["NoSuchBucket", "archive_url"];
    let mut nowhere = storage(&settings);
    assert_refused(nowhere.list(&path("segments")), Kind::BadInput, &parts);
    assert_refused(nowhere.stat(&ArchivePath::head()), Kind::BadInput, &parts);
    assert_refused(read(&mut nowhere, &path(SEGMENT)), Kind::BadInput, &parts);
    assert_refused(put(&mut nowhere, &path(SEGMENT), b"x"), Kind::BadInput, &parts);

    let proxy = Proxy::start(place.address());
    let mut archive =
        storage(&place.settings_at(([127, 0, 0, 1], proxy.port()).into(), Who::Owner)).with_patience(HASTY);
    assert_eq!(read(&mut archive, &path(SEGMENT)).expect("there").len(), 300_000);
    proxy.hang();
    let started = Instant::now();
    assert_refused(read(&mut archive, &path(SEGMENT)), Kind::Unreachable, &["did not answer"]);
    assert_refused(put(&mut archive, &path("segments/x"), b"x"), Kind::Unreachable, &["did not answer"]);
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
    proxy.heal();
    assert_eq!(archive.list(&path("segments/2026-02-05")).expect("healed").len(), 1);
}

#[test]
fn a_read_that_is_cut_at_any_byte_resumes_where_it_was() {
    let place = Place::new();
    let bytes = content(400_000);
    put(&mut storage(&place.settings()), &path(SEGMENT), &bytes).expect("written");
    for position in [0, 1, 100, 300, 500, 100_000, 250_000, 400_000] {
        let proxy = Proxy::start(place.address());
        let settings = place.settings_at(([127, 0, 0, 1], proxy.port()).into(), Who::Owner);
        let mut archive = storage(&settings);
        proxy.cut_after(Direction::Down, position);
        let mut found = Vec::new();
        if let Err(error) = archive.read(&path(SEGMENT), 0, &mut found) {
            assert_eq!(error.kind(), Kind::Unreachable, "{position}: {error:?}");
            assert!(bytes.starts_with(&found), "{position}: what arrived is a beginning");
            let offset = found.len() as u64;
            archive.read(&path(SEGMENT), offset, &mut found).expect("the rest");
        }
        assert!(found == bytes, "{position}");
        let mut archive = storage(&settings).with_patience(PATIENT);
        proxy.cut_every(Direction::Down, 90_000, 2 * PATIENT.retries);
        assert!(read(&mut archive, &path(SEGMENT)).expect("whole, as long as it gets on") == bytes);
    }
}

#[test]
fn a_write_that_is_cut_at_any_byte_is_whole_or_not_there() {
    let place = Place::new();
    let bytes = content(400_000);
    for position in [0, 1, 400, 900, 100_000, 399_000, 400_500] {
        for direction in [Direction::Up, Direction::Down] {
            let proxy = Proxy::start(place.address());
            let mut archive = storage(&place.settings_at(([127, 0, 0, 1], proxy.port()).into(), Who::Owner));
            proxy.cut_after(direction, position);
            let name = format!("segments/{position}-{direction:?}");
            if let Err(error) = put(&mut archive, &path(&name), &bytes) {
                assert_eq!(error.kind(), Kind::Unreachable, "{name}: {error:?}");
            }
            if place.names().contains(&name) {
                assert!(place.read(&name) == bytes, "{name}: published unfinished");
            }
            drop(proxy);
            put(&mut storage(&place.settings()), &path(&name), &bytes).expect("again");
            assert!(place.read(&name) == bytes, "{name}");
        }
    }
}

/// What a run of this test that is to be killed is told: the prefix, and where the store is.
const CHILD: &str = "SYNCDATA_TEST_STORE";

#[test]
fn a_putter_killed_or_failing_at_any_step_can_be_followed_by_another() {
    if let Ok(order) = std::env::var(CHILD) {
        return put_as_told(&order);
    }
    for bytes in [100_000, LARGE_BYTES] {
        for point in ["archive.part_written", "archive.before_rename", "archive.after_rename"] {
            for action in ["kill", "error"] {
                let place = Place::new();
                let status = have_put(&place, place.address(), bytes, &format!("{point}={action}"));
                assert!(!status.success(), "{point}={action} was never visited");
                let published = place.names().contains(&SEGMENT.to_owned());
                assert_eq!(published, point == "archive.after_rename", "{point}={action}");
                let proxy = StoreProxy::start(place.address());
                assert!(have_put(&place, proxy.address(), bytes, "").success(), "after {point}={action}");
                assert!(place.read(SEGMENT) == content(bytes), "{point}={action}");
                assert_eq!(place.names(), [SEGMENT], "{point}={action}");
                // Pieces of one that was killed are let go of; one that failed has done that itself.
                let asked = proxy.take_asked();
                let let_go =
                    asked.iter().any(|asked| asked.method == "DELETE" && asked.path.contains("uploadId"));
                let left = bytes == LARGE_BYTES && action == "kill" && !published;
                assert_eq!(let_go, left, "{bytes} {point}={action}");
            }
        }
    }
}

fn have_put(
    place: &Place,
    address: std::net::SocketAddr,
    bytes: usize,
    faults: &str,
) -> std::process::ExitStatus {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its program"));
    command.args(["--exact", "storage::a_putter_killed_or_failing_at_any_step_can_be_followed_by_another"]);
    command.env(CHILD, format!("{} {address} {bytes}", place.url()));
    command.env("SYNCDATA_FAULTS", faults);
    command.output().expect("a test can start its own program").status
}

fn put_as_told(order: &str) {
    let parts: Vec<&str> = order.split(' ').collect();
    let [url, address, bytes] = parts[..] else { panic!("{order:?} is not an order") };
    let settings = Place::told(url).settings_at(address.parse().expect("an address"), Who::Owner);
    let mut archive = archive::open(&ArchiveSettings::S3(settings)).expect("opening connects to nobody");
    put(&mut *archive, &path(SEGMENT), &content(bytes.parse().expect("a number"))).expect("put");
}

#[test]
fn names_of_the_makers_files_are_what_they_say() {
    // Where nothing of ours names keys, those of the usual file count.
    let place = Place::new();
    let home = tempfile::tempdir().expect("a folder");
    let file: PathBuf = home.path().join(".aws/credentials");
    fs::create_dir(home.path().join(".aws")).expect("ours");
    place.write_keys(Who::Owner, &file);
    let config = syncdata_service::config::Config::load(
        None,
        |name| match name {
            "HOME" => Some(home.path().to_str().expect("plain").to_owned()),
            "SYNCDATA_ARCHIVE_URL" => Some(place.url()),
            "AWS_ENDPOINT_URL_S3" => Some(place.endpoint()),
            _ => None,
        },
        &syncdata_service::config::Overrides::default(),
    )
    .expect("sound settings");
    let mut archive = archive::open(config.archive().expect("set")).expect("opened");
    put(&mut *archive, &path(SEGMENT), b"x").expect("written");
    assert_eq!(place.names(), [SEGMENT]);
    assert!(Path::new(&file).exists());
}
