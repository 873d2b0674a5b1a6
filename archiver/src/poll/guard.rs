//! The WAL guard: what to do when the slot keeps more WAL on production than is allowed.
//!
//! It counts from `restart_lsn`, which is what pins WAL.

/// What the WAL guard wants done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Pressure {
    /// The slot keeps less than the guard, or everything that it keeps goes its ordinary way.
    #[default]
    None,
    /// The ordinary way is blocked: the spool alone has to do.
    ConfirmFromSpool,
    /// The spool is full as well: production's disk goes before the copy. A gap is published.
    GiveUp,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub retained: u64,
    pub guard: u64,
    /// The backup host does not take what is read, the source does not hand out what it has, or the spool has no room
    /// for it.
    pub is_stuck: bool,
    pub spool_full: bool,
    /// WAL after what the spool holds: only that could be given up.
    pub unread: u64,
}

pub(crate) fn decide(load: Load) -> Pressure {
    if load.retained <= load.guard || !load.is_stuck {
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
        for (retained, is_stuck, spool_full, unread, pressure) in [
            (100, true, true, 1, Pressure::None),
            (101, false, false, 1, Pressure::None),
            (101, false, true, 1, Pressure::None),
            (101, true, false, 1, Pressure::ConfirmFromSpool),
            (101, true, true, 0, Pressure::ConfirmFromSpool),
            (101, true, true, 1, Pressure::GiveUp),
        ] {
            let load = Load { retained, guard: 100, is_stuck, spool_full, unread };
            assert_eq!(decide(load), pressure, "{load:?}");
        }
    }
}
