//! What befalls a run of one of the programs.

use std::net::SocketAddr;

use crate::disk::Disk;
use crate::program::Program;
use crate::proxy::{Direction, Proxy};
use crate::workload::Prng;
use crate::world::World;

#[derive(Clone, Copy, Debug)]
pub(super) enum Mishap {
    /// As `kill -9`, at which of the fault points that were seen so far, and at which of its visits.
    Kill {
        point: u64,
        visit: u64,
    },
    /// The connection to its PostgreSQL is cut after so many bytes.
    ServerCut {
        answers: bool,
        bytes: u64,
    },
    /// The one to the backup host.
    ArchiveCut {
        answers: bool,
        bytes: u64,
    },
    /// The clock is so many hours wrong.
    Clock(i64),
    FullDisk,
}

/// `is_hard`: also what needs root and tools.
pub(super) fn random(random: &mut Prng, is_hard: bool) -> Option<Mishap> {
    if random.chance(50) {
        return None;
    }
    let bytes = 1 << random.below(16);
    let bytes = bytes + random.below(bytes);
    let answers = random.chance(50);
    Some(match random.below(if is_hard { 14 } else { 10 }) {
        0..=6 => Mishap::Kill { point: random.number(), visit: 1 + random.below(5) / 3 },
        7..=8 => Mishap::ServerCut { answers, bytes },
        9 => Mishap::ArchiveCut { answers, bytes },
        10..=11 => Mishap::Clock(*random.pick(&[-50, -1, 1, 30, 24 * 40])),
        _ => Mishap::FullDisk,
    })
}

/// The ways between the programs and what they talk to, each with a proxy on it.
#[derive(Debug)]
pub(super) struct Ways {
    source: Proxy,
    target: Proxy,
    backup: Option<Proxy>,
    disk: Option<Disk>,
}

impl Ways {
    pub(super) fn lay(world: &mut World, over_sftp: bool, is_hard: bool) -> Ways {
        let local = |port: u16| Proxy::start(SocketAddr::from(([127, 0, 0, 1], port)));
        let (source, target) = (local(world.source.port()), local(world.target.port()));
        world.set_archiver("pg_port", i64::from(source.port()));
        world.set_applier("pg_port", i64::from(target.port()));
        let backup = over_sftp.then(|| Proxy::start(world.backup.address()));
        if let Some(proxy) = &backup {
            let line = format!("[127.0.0.1]:{} {}\n", proxy.port(), world.backup.host_key("ed25519"));
            std::fs::write(world.backup.known_hosts(), line).expect("our folder");
            world.set_archiver("archive_port", i64::from(proxy.port()));
            world.set_applier("archive_port", i64::from(proxy.port()));
        }
        let disk = is_hard.then(|| Disk::mount("size=64m"));
        if let Some(disk) = &disk {
            let path = |name: &str| disk.path().join(name).display().to_string();
            world.set_archiver("spool_dir", path("spool"));
            world.set_applier("cache_dir", path("cache"));
        }
        Ways { source, target, backup, disk }
    }

    /// `points` are those that this program has visited so far. What is done, in words, and the run.
    pub(super) fn begin(
        &self,
        mishap: Mishap,
        program: Program,
        is_archiver: bool,
        points: &[String],
    ) -> (String, Program) {
        let server = if is_archiver { &self.source } else { &self.target };
        match mishap {
            Mishap::Kill { .. } if points.is_empty() => ("nothing to be killed at".to_owned(), program),
            Mishap::Kill { point, visit } => {
                let point = &points[usize::try_from(point % points.len() as u64).expect("a few points")];
                let plan = format!("{point}=kill@{visit}");
                (plan.clone(), program.fault(&plan))
            }
            Mishap::ServerCut { answers, bytes } => {
                server.cut_after(direction(answers), bytes);
                (format!("server cut, answers: {answers}, after {bytes} bytes"), program)
            }
            Mishap::ArchiveCut { answers, bytes } => {
                let backup = self.backup.iter();
                backup.for_each(|proxy| proxy.cut_every(direction(answers), bytes, 40));
                (format!("archive cut, answers: {answers}, after {bytes} bytes"), program)
            }
            Mishap::Clock(hours) => (format!("clock {hours:+} h"), program.clock(&format!("{hours:+}h"))),
            Mishap::FullDisk => {
                self.disk.iter().for_each(Disk::fill);
                ("full disk".to_owned(), program)
            }
        }
    }

    pub(super) fn end(&self, mishap: Mishap) {
        let proxies = [Some(&self.source), Some(&self.target), self.backup.as_ref()];
        for proxy in proxies.into_iter().flatten() {
            // Never due.
            proxy.cut_every(Direction::Down, u64::MAX, 1);
        }
        if matches!(mishap, Mishap::FullDisk) {
            self.disk.iter().for_each(Disk::relieve);
        }
    }
}

fn direction(answers: bool) -> Direction {
    if answers { Direction::Down } else { Direction::Up }
}
