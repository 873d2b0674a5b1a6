//! How WAL is laid out.

use syncdata_formats::lsn::Lsn;

/// Every page of WAL begins with a header, on which no record is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages {
    pub size: u64,
    pub segment_size: u64,
}

impl Pages {
    fn header_of(self, page: u64) -> u64 {
        const HEADER: u64 = 24;
        const HEADER_OF_SEGMENT: u64 = 40;
        if page.is_multiple_of(self.segment_size) { HEADER_OF_SEGMENT } else { HEADER }
    }

    /// The server says where the next record will begin. On a page that nothing is on yet that is after the page's
    /// header, a place which is never flushed before that record is; the record before ends where the page begins.
    pub(super) fn end_before(self, next: Lsn) -> Lsn {
        let offset = next.as_u64() % self.size;
        let page = next.as_u64() - offset;
        if offset == self.header_of(page) { Lsn::from_u64(page) } else { next }
    }

    pub(super) fn begin_after(self, end: Lsn) -> Lsn {
        let at = end.as_u64();
        if at.is_multiple_of(self.size) { Lsn::from_u64(at + self.header_of(at)) } else { end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: Pages = Pages { size: 8192, segment_size: 16 << 20 };

    fn lsn(text: &str) -> Lsn {
        text.parse().expect("an LSN")
    }

    #[test]
    fn a_header_of_a_page_that_nothing_is_on_is_no_wal() {
        let before = |next: &str| PAGES.end_before(lsn(next)).to_string();
        assert_eq!(before("0/195A018"), "0/195A000");
        assert_eq!(before("0/195A020"), "0/195A020");
        // A record may end there: what came over from the page before.
        assert_eq!(before("0/195A028"), "0/195A028");
        assert_eq!(before("0/2000028"), "0/2000000");
        assert_eq!(before("0/2000018"), "0/2000018");
    }

    #[test]
    fn a_record_begins_where_the_one_before_ends_or_after_a_header() {
        let after = |end: &str| PAGES.begin_after(lsn(end)).to_string();
        assert_eq!(after("0/195A000"), "0/195A018");
        assert_eq!(after("0/195A018"), "0/195A018");
        assert_eq!(after("0/2000000"), "0/2000028");
    }
}
