//! Where batches stand: no position in WAL is one of these.

use syncdata_formats::lsn::Lsn;

/// What manifests say in place of a plugin.
pub(crate) const NAME: &str = "triggers";

/// No position in WAL has this bit: that of a batch is its number beside it.
const BATCH: u64 = 1 << 63;

/// Where the batch with that number ends.
pub(crate) fn position_of(number: u64) -> Lsn {
    Lsn::from_u64(BATCH | number)
}

/// The number of the batch that ends there; `None` for a position in WAL.
pub(crate) fn number_of(position: Lsn) -> Option<u64> {
    (position.as_u64() & BATCH != 0).then_some(position.as_u64() & !BATCH)
}

/// Where the batch ends that follows.
pub(crate) fn next(position: Lsn) -> Lsn {
    position_of(number_of(position).unwrap_or_default() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_batches_rise_and_are_none_of_wal() {
        let first = next(Lsn::ZERO);
        assert_eq!((first.to_string().as_str(), number_of(first)), ("80000000/1", Some(1)));
        assert!(next(first) > first && first > Lsn::from_u64(u64::MAX >> 1));
        assert_eq!(number_of("16/B374D848".parse().expect("an LSN")), None);
    }
}
