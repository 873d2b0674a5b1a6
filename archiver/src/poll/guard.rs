//! The WAL guard: what to do when the slot keeps more WAL on production than is allowed.
//!
//! It counts from `restart_lsn`, which is what pins WAL.

/// What the guard demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Pressure {
    /// The slot keeps less than the guard, or everything that it keeps can still be shipped.
    #[default]
    None,
    /// The backup host is away: the spool alone has to do.
    ConfirmFromSpool,
    /// The spool is full as well: production's disk goes before the copy. A gap is published.
    GiveUp,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub retained: u64,
    pub guard: u64,
    pub backup_host_away: bool,
    pub spool_full: bool,
    /// WAL behind what the spool holds: only that could be given up.
    pub unread: u64,
}

pub(crate) fn decide(load: Load) -> Pressure {
    if load.retained <= load.guard || !load.backup_host_away {
        Pressure::None
    } else if load.spool_full && load.unread > 0 {
        Pressure::GiveUp
    } else {
        Pressure::ConfirmFromSpool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn production_is_given_up_last() {
        for (retained, backup_host_away, spool_full, unread, pressure) in [
            (100, true, true, 1, Pressure::None),
            (101, false, false, 1, Pressure::None),
            (101, false, true, 1, Pressure::None),
            (101, true, false, 1, Pressure::ConfirmFromSpool),
            (101, true, true, 0, Pressure::ConfirmFromSpool),
            (101, true, true, 1, Pressure::GiveUp),
        ] {
            let load = Load { retained, guard: 100, backup_host_away, spool_full, unread };
            assert_eq!(decide(load), pressure, "{load:?}");
        }
    }
}
