//! Times, and what is said of them.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) fn timed(mut command: Command) -> Duration {
    let start = Instant::now();
    let status = command.status().expect("the program is there");
    assert!(status.success(), "{command:?}: {status}");
    start.elapsed()
}

/// Beside the profile that this example was built in.
pub(crate) fn release(name: &str) -> PathBuf {
    let here = std::env::current_exe().expect("we run from a file");
    here.ancestors().nth(3).expect("target/debug/examples/bench").join("release").join(name)
}

fn median(times: &[Duration]) -> f64 {
    let mut seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

pub(crate) fn spread(times: &[Duration]) -> String {
    let least = times.iter().min().expect("at least one round").as_secs_f64();
    let most = times.iter().max().expect("at least one round").as_secs_f64();
    format!("{:6.2} s [{least:.2}..{most:.2}]", median(times))
}

/// Round by round, since a machine's pace drifts.
pub(crate) fn ratio(ours: &[Duration], peers: &[Duration]) -> String {
    let mut ratios: Vec<f64> =
        ours.iter().zip(peers).map(|(ours, peer)| ours.as_secs_f64() / peer.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    format!("{:.2} [{:.2}..{:.2}]", ratios[ratios.len() / 2], ratios[0], ratios[ratios.len() - 1])
}
