//! Times, and what is said of them.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub(crate) fn timed(mut command: Command) -> Duration {
    let start = Instant::now();
    let status = command.status().expect("the program is there");
    assert!(status.success(), "{command:?}: {status}");
    start.elapsed()
}

/// How long it took, and the MiB of memory that it had at most.
pub(crate) fn timed_with_peak(mut command: Command) -> (Duration, f64) {
    let start = Instant::now();
    let mut child = command.spawn().expect("the program is there");
    let mut peak_kib = 0;
    let status = loop {
        peak_kib = peak_kib.max(high_water_mark(&child));
        if let Some(status) = child.try_wait().expect("it is our child") {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(status.success(), "{command:?}: {status}");
    (start.elapsed(), peak_kib as f64 / 1024.0)
}

/// 0 once it has ended.
pub(crate) fn high_water_mark(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
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
    let ratios = ratios(ours, peers);
    format!("{:.2} [{:.2}..{:.2}]", ratios[ratios.len() / 2], ratios[0], ratios[ratios.len() - 1])
}

/// In their order.
pub(crate) fn ratios(ours: &[Duration], peers: &[Duration]) -> Vec<f64> {
    let mut ratios: Vec<f64> =
        ours.iter().zip(peers).map(|(ours, peer)| ours.as_secs_f64() / peer.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}
