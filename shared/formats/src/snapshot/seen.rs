//! Which transactions a snapshot has seen: PostgreSQL's `pg_snapshot`, asked with the 32 bits that the stream has.

use serde::{Deserialize, Serialize};

/// Transaction numbers have 64 bits here: they never come again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// All below have ended.
    pub xmin: u64,
    /// None from here on had ended.
    pub xmax: u64,
    /// Those in between that were still running.
    pub xip: Vec<u64>,
}

impl Seen {
    /// `xmin:xmax:xip,xip`, as `pg_current_snapshot()` prints it.
    pub fn parse(text: &str) -> Option<Seen> {
        let mut parts = text.split(':');
        let (xmin, xmax, xip) = (parts.next()?, parts.next()?, parts.next()?);
        let xip = match xip {
            "" => Vec::new(),
            list => list.split(',').map(|xid| xid.parse().ok()).collect::<Option<_>>()?,
        };
        Some(Seen { xmin: xmin.parse().ok()?, xmax: xmax.parse().ok()?, xip })
    }

    /// Whether the effects of that transaction, which has committed, are in the snapshot.
    pub fn has(&self, xid: u32) -> bool {
        let xid = self.widen(xid);
        xid < self.xmin || xid < self.xmax && self.xip.binary_search(&xid).is_err()
    }

    /// Whether all that the other one has seen is seen here too.
    pub fn includes(&self, earlier: &Seen) -> bool {
        let is_missing = |xid: &u64| *xid < earlier.xmax && earlier.xip.binary_search(xid).is_err();
        earlier.xmax <= self.xmax && !self.xip.iter().any(is_missing)
    }

    /// The same, of which no more is believed than that all have ended which are older than the oldest that runs.
    #[must_use]
    pub fn oldest(&self) -> Seen {
        Seen { xmin: self.xmin, xmax: self.xmin, xip: Vec::new() }
    }

    /// The same, of which no more is believed than that all below `xid` have ended.
    #[must_use]
    pub fn before(self, xid: u32) -> Seen {
        let xid = self.widen(xid);
        if xid >= self.xmin { self } else { Seen { xmin: xid, xmax: xid, xip: Vec::new() } }
    }

    /// The number that is nearest to the snapshot. That is right of a transaction in the stream. What stands in the catalog
    /// may be older by more than half of all numbers, and seem to come.
    pub fn widen(&self, xid: u32) -> u64 {
        let near = u32::try_from(self.xmax & u64::from(u32::MAX)).expect("masked");
        let distance = i64::from(xid.wrapping_sub(near).cast_signed());
        self.xmax.saturating_add_signed(distance)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.xmin > self.xmax {
            return Err(format!("xmin {} is above xmax {}", self.xmin, self.xmax));
        }
        let rising = self.xip.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = self.xip.iter().all(|xid| (self.xmin..self.xmax).contains(xid));
        if rising && inside { Ok(()) } else { Err("xip is not in order between xmin and xmax".into()) }
    }
}
