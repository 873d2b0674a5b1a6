//! Random tables and transactions on two real servers, with everything in between; at every moment of rest a
//! table is equal to production's, text for text, or it says that it is not live.

use std::time::{SystemTime, UNIX_EPOCH};

use syncdata_tests::cases;
use syncdata_tests::differential::{Limits, Story};

const LIMITS: Limits = Limits { tables: 5, rounds: 8, is_hard: false };

/// Seeds that are played every time.
const SEEDS: [u64; 6] = [1, 2, 3, 4, 5, 6];

async fn play(seed: u64) -> Story {
    Story::play(seed, LIMITS).await.unwrap_or_else(|failure| panic!("{failure}"))
}

/// `SYNCDATA_TEST_SEED=…` plays that one instead.
#[tokio::test]
async fn the_copy_equals_production_whatever_the_seed() {
    let asked = std::env::var("SYNCDATA_TEST_SEED").ok();
    if let Some(seed) = asked {
        play(seed.parse().expect("SYNCDATA_TEST_SEED is a number")).await;
        return;
    }
    let mut kills = 0;
    let seeds = cases(SEEDS);
    for seed in &seeds {
        kills += play(*seed).await.kills();
    }
    assert!(
        usize::try_from(kills).expect("a few") > seeds.len(),
        "the programs were killed only {kills} times"
    );
}

/// A seed that nobody has played yet. It is named when it fails.
#[tokio::test]
async fn the_copy_equals_production_for_a_seed_of_this_moment() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    play(u64::from(now.subsec_nanos())).await;
}
