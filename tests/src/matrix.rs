//! A matrix whose cases differ in what no version of PostgreSQL decides is shared by the versions that are tested on, one
//! after the other: `SYNCDATA_TEST_MATRIX=1/2` takes every second case from the first, `2/2` the others. Without it a run
//! has all of them.

/// Those of the cases that are to run here.
///
/// # Panics
/// When the variable says something else.
pub fn cases<T>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let Ok(share) = std::env::var("SYNCDATA_TEST_MATRIX") else {
        return all.into_iter().collect();
    };
    let numbers = share.split_once('/').and_then(|(share, of)| Some((share.parse().ok()?, of.parse().ok()?)));
    let (share, of): (usize, usize) = numbers.expect("SYNCDATA_TEST_MATRIX is like 1/2");
    let mine = all.into_iter().skip(share - 1).step_by(of).collect::<Vec<T>>();
    assert!(!mine.is_empty(), "no case is left for {share}/{of}");
    mine
}
