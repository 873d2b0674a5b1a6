//! What a setting's value may look like: one parser for each kind. An error says what is accepted.

use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use super::Secret;
use super::raw::{Given, RawValue};
use super::reading::Parsed;
use super::{
    BucketPlace, Confirm, Endpoint, LocalWrites, OnError, Percent, Publish, QuarantineValues, Source, Target,
};
use crate::postgres::SslMode;
use crate::webhook::Webhook;
use syncdata_formats::name::{SlotName, TablePattern};

pub(super) const FREQ_MIN: Duration = Duration::from_secs(60);

/// Ten years: a longer one is a slip, and could not be added to every clock.
const TIME_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

pub(super) fn text(given: &Given) -> Parsed<String> {
    match &given.value {
        RawValue::Text(text) if !text.is_empty() && !text.contains('\0') => Ok(text.clone()),
        _ => Err("a text (in quotes, in the file)".to_owned()),
    }
}

pub(super) fn secret(given: &Given) -> Parsed<Secret> {
    text(given).map(Secret::new)
}

pub(super) fn path(given: &Given) -> Parsed<PathBuf> {
    text(given).map(PathBuf::from)
}

/// An identifier that PostgreSQL would not cut.
pub(super) fn identifier(given: &Given) -> Parsed<String> {
    let accepted = || "a name of at most 63 bytes".to_owned();
    text(given).ok().filter(|name| name.len() <= 63).ok_or_else(accepted)
}

fn whole(given: &Given) -> Option<i64> {
    match &given.value {
        RawValue::Number(number) => Some(*number),
        RawValue::Text(text) if !given.is_typed() => text.trim().parse().ok(),
        _ => None,
    }
}

pub(super) fn port(given: &Given) -> Parsed<u16> {
    let port = whole(given).and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0);
    port.ok_or_else(|| "a port number, 1 to 65535".to_owned())
}

/// PostgreSQL counts changes in an int4.
pub(super) fn count(given: &Given) -> Parsed<NonZeroU32> {
    let count = whole(given).and_then(|number| i32::try_from(number).ok());
    let count = count.and_then(|number| u32::try_from(number).ok()).and_then(NonZeroU32::new);
    count.ok_or_else(|| format!("a whole number, 1 to {}", i32::MAX))
}

pub(super) fn days(given: &Given) -> Parsed<u32> {
    let days = whole(given).and_then(|number| u32::try_from(number).ok()).filter(|days| *days <= 36_500);
    days.ok_or_else(|| "a number of days, 0 to 36500".to_owned())
}

/// Above 19, a reader would need more memory for the window than readers of the archive allow.
pub(super) fn compression_level(given: &Given) -> Parsed<i32> {
    let level = whole(given).and_then(|number| i32::try_from(number).ok());
    level.filter(|level| (1..=19).contains(level)).ok_or_else(|| "a zstd level, 1 to 19".to_owned())
}

pub(super) fn size(given: &Given) -> Parsed<ByteSize> {
    let size = match &given.value {
        RawValue::Number(number) => u64::try_from(*number).ok().map(ByteSize::b),
        RawValue::Text(text) => text.trim().parse().ok(),
        RawValue::List(_) | RawValue::Bool(_) | RawValue::Decimal(_) => None,
    };
    let accepted = || "a size above 0: 64MiB, 8GiB, or a number of bytes".to_owned();
    size.filter(|size| size.as_u64() > 0).ok_or_else(accepted)
}

/// What PostgreSQL can print of a row is the most, and what names of columns take the least.
pub(super) fn line_max(given: &Given) -> Parsed<usize> {
    let bytes = size(given).ok().filter(|size| (ByteSize::kib(256)..=ByteSize::gib(1)).contains(size));
    let bytes = bytes.and_then(|size| usize::try_from(size.as_u64()).ok());
    bytes.ok_or_else(|| "a size from 256KiB to 1GiB".to_owned())
}

/// A time; `unit` is that of a bare number.
fn time(given: &Given, unit: Duration) -> Option<Duration> {
    let time = match (whole(given), &given.value) {
        (Some(number), _) => u32::try_from(number).ok().and_then(|number| unit.checked_mul(number)),
        (None, RawValue::Text(text)) => humantime::parse_duration(text.trim()).ok(),
        _ => None,
    };
    time.filter(|time| *time <= TIME_MAX)
}

pub(super) fn sync_freq(given: &Given) -> Parsed<Duration> {
    const LEAST: Duration = Duration::from_secs(5);
    let freq = time(given, Duration::from_secs(1)).filter(|freq| *freq >= LEAST);
    freq.ok_or_else(|| "a time of at least 5 seconds (60 where a slot is read): 600, 10min, 1h".to_owned())
}

pub(super) fn follow_interval(given: &Given) -> Parsed<Duration> {
    const LEAST: Duration = Duration::from_millis(100);
    let time = time(given, Duration::from_secs(1)).filter(|time| (LEAST..=FREQ_MIN).contains(time));
    time.ok_or_else(|| "a time from 100ms to a minute: 500ms, 1s".to_owned())
}

pub(super) fn seconds(given: &Given) -> Parsed<Duration> {
    let time = time(given, Duration::from_secs(1)).filter(|time| *time >= Duration::from_secs(1));
    time.ok_or_else(|| "a time of at least a second: 1800, 30min, 2h".to_owned())
}

/// How often something is done; 0 is never.
pub(super) fn every(given: &Given) -> Parsed<Duration> {
    let every = time(given, Duration::from_secs(1)).filter(|time| time.is_zero() || *time >= FREQ_MIN);
    every.ok_or_else(|| "0 (never) or a time of at least a minute: 1d, 6h".to_owned())
}

/// The earlier tool counted this one in hours.
pub(super) fn metric_freq(given: &Given) -> Parsed<Duration> {
    let hour = Duration::from_secs(3600);
    let freq = time(given, hour).filter(|freq| *freq >= FREQ_MIN);
    freq.ok_or_else(|| "a time of at least a minute: 24 (hours), 24h, 30min".to_owned())
}

pub(super) fn slot_name(given: &Given) -> Parsed<SlotName> {
    let accepted = || "a slot name: a-z, 0-9 and _, at most 63".to_owned();
    text(given)?.parse().map_err(|_| accepted())
}

pub(super) fn listen(given: &Given) -> Parsed<SocketAddr> {
    let accepted = || "an address and a port: 127.0.0.1:9187, [::1]:9187".to_owned();
    text(given).ok().and_then(|text| text.parse().ok()).ok_or_else(accepted)
}

/// Without ports: what a browser would be led to by another name counts, not where it listens.
pub(super) fn host_names(given: &Given) -> Parsed<Vec<String>> {
    let accepted = || "a list of host names without ports: sync.example.com, 10.0.0.7, [fd00::7]".to_owned();
    let items = match &given.value {
        RawValue::List(items) => items.clone(),
        RawValue::Text(text) if !given.is_typed() => split_list(text).ok_or_else(accepted)?,
        _ => return Err(accepted()),
    };
    let is_address = |name: &str| {
        let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok())
    };
    let is_plain = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let is_sound = items.iter().all(|name| is_plain(name) || is_address(name));
    (is_sound && !items.is_empty())
        .then(|| items.iter().map(|name| name.to_lowercase()).collect())
        .ok_or_else(accepted)
}

pub(super) fn ssl_mode(given: &Given) -> Parsed<SslMode> {
    choice(given, &SslMode::ALL.map(|mode| (mode.as_str(), mode)))
}

pub(super) fn confirm(given: &Given) -> Parsed<Confirm> {
    choice(given, &[("shipped", Confirm::Shipped), ("spooled", Confirm::Spooled)])
}

pub(super) fn source(given: &Given) -> Parsed<Source> {
    let all = [Source::Wal2json, Source::Pgoutput, Source::Triggers];
    choice(given, &all.map(|source| (source.as_str(), source)))
}

pub(super) fn target(given: &Given) -> Parsed<Target> {
    choice(given, &[("postgres", Target::Postgres), ("duckdb", Target::Duckdb)])
}

pub(super) fn publish(given: &Given) -> Parsed<Option<Publish>> {
    choice(given, &[("none", None), ("duckdb", Some(Publish::Duckdb))])
}

pub(super) fn threads(given: &Given) -> Parsed<u16> {
    let threads = whole(given).and_then(|number| u16::try_from(number).ok());
    threads.filter(|threads| (1..=512).contains(threads)).ok_or_else(|| "a whole number, 1 to 512".to_owned())
}

/// Each with its table.
pub(super) fn column_names(given: &Given) -> Parsed<Vec<String>> {
    let accepted = || "a list of columns with their tables: users.name, sales.orders.total".to_owned();
    let items = match &given.value {
        RawValue::List(items) => items.clone(),
        RawValue::Text(text) if !given.is_typed() => split_list(text).ok_or_else(accepted)?,
        _ => return Err(accepted()),
    };
    let is_one = |item: &String| {
        item.rsplit_once('.').is_some_and(|(table, column)| !table.is_empty() && !column.is_empty())
    };
    items.iter().all(is_one).then_some(items).ok_or_else(accepted)
}

pub(super) fn on_error(given: &Given) -> Parsed<OnError> {
    choice(given, &[("quarantine", OnError::Quarantine), ("stop", OnError::Stop)])
}

pub(super) fn yes_or_no(given: &Given) -> Parsed<bool> {
    match &given.value {
        RawValue::Bool(is) => Ok(*is),
        _ => choice(given, &[("true", true), ("false", false), ("1", true), ("0", false)]),
    }
}

pub(super) fn percent(given: &Given) -> Parsed<Percent> {
    let accepted = || "a percentage with at most two digits after the point: 90.0, 99.95".to_owned();
    match &given.value {
        RawValue::Decimal(text) | RawValue::Text(text) => Percent::read(text.trim()).ok_or_else(accepted),
        RawValue::Number(number) => Percent::read(&number.to_string()).ok_or_else(accepted),
        _ => Err(accepted()),
    }
}

/// A number of them.
pub(super) fn minutes(given: &Given) -> Parsed<Duration> {
    count(given).map(|minutes| Duration::from_secs(60 * u64::from(minutes.get())))
}

pub(super) fn webhook(given: &Given) -> Parsed<Webhook> {
    let accepted = || {
        "a web address: http:// or https://, a host, and a path; a name and password may not stand in it"
            .to_owned()
    };
    Webhook::new(&text(given)?).map_err(|_| accepted())
}

pub(super) fn quarantine_values(given: &Given) -> Parsed<QuarantineValues> {
    choice(given, &[("keep", QuarantineValues::Keep), ("hash", QuarantineValues::Hash)])
}

pub(super) fn bucket_place(given: &Given) -> Parsed<BucketPlace> {
    let accepted = || "a bucket and a prefix of plain names: s3://backups/app".to_owned();
    text(given).ok().and_then(|text| BucketPlace::read(&text)).ok_or_else(accepted)
}

pub(super) fn endpoint(given: &Given) -> Parsed<Endpoint> {
    let accepted = || "http:// or https:// and a host, no path: https://minio.example.com:9000".to_owned();
    text(given).ok().and_then(|text| Endpoint::read(&text)).ok_or_else(accepted)
}

pub(super) fn region(given: &Given) -> Parsed<String> {
    let accepted = || "the name of a region: eu-central-1, auto".to_owned();
    let is_plain = |text: &String| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    text(given).ok().filter(is_plain).ok_or_else(accepted)
}

/// What is promised for later is not taken for something else meanwhile.
pub(super) fn local_writes(given: &Given) -> Parsed<LocalWrites> {
    let chosen = choice(given, &[("allow", LocalWrites::Allow), ("block", LocalWrites::Block)]);
    chosen.map_err(|accepted| format!("{accepted} (track is not built yet)"))
}

fn choice<T: Copy>(given: &Given, choices: &[(&str, T)]) -> Parsed<T> {
    let chosen = |text: &str| choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    let accepted = || {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("one of {}", names.join(", "))
    };
    text(given).ok().and_then(|text| chosen(&text)).ok_or_else(accepted)
}

pub(super) fn patterns(given: &Given) -> Parsed<Vec<TablePattern>> {
    let accepted = "a list of tables: users, sales.orders, \"Odd.Name\", sales.*, *";
    let items = match &given.value {
        RawValue::List(items) => items.clone(),
        RawValue::Text(text) if !given.is_typed() => split_list(text).ok_or_else(|| accepted.to_owned())?,
        _ => return Err(format!("{accepted} (in the file: [\"users\", \"sales.*\"])")),
    };
    let pattern = |item: &String| item.parse().map_err(|_| format!("{accepted}; {item:?} is none of these"));
    items.iter().map(pattern).collect()
}

/// Splits at commas outside SQL quotes. `None` when a quote stays open or an item is empty.
pub fn split_list(text: &str) -> Option<Vec<String>> {
    if text.trim().is_empty() {
        return Some(Vec::new());
    }
    let mut items = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        // A doubled quote closes and opens: the state after it is right.
        quoted ^= c == '"';
        match items.last_mut() {
            Some(item) if quoted || c != ',' => item.push(c),
            _ => items.push(String::new()),
        }
    }
    let items: Vec<String> = items.iter().map(|item| item.trim().to_owned()).collect();
    (!quoted && items.iter().all(|item| !item.is_empty())).then_some(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_respect_quotes() {
        for (text, items) in [
            ("", vec![]),
            (" users , sales.* ", vec!["users", "sales.*"]),
            ("users,\"a,b\".x", vec!["users", "\"a,b\".x"]),
            ("\"a\"\",b\",c", vec!["\"a\"\",b\"", "c"]),
        ] {
            assert_eq!(split_list(text).expect(text), items);
        }
        for text in [",", "a,", "a,,b", "\"a,b", "\"a\"\"\",\""] {
            assert_eq!(split_list(text), None, "accepted {text:?}");
        }
    }
}
