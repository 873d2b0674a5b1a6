//! A backup host: a real sshd on a free loopback port, sftp only, with its own keys, in a temporary folder,
//! run by whoever runs the tests (root or not) and logged in to as the same user.

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use syncdata_service::config::SftpSettings;

use crate::ports::free_port;
use crate::process::{Account, Process};
use crate::scratch::Scratch;

const SSHD: &str = "/usr/sbin/sshd";
const START_DEADLINE: Duration = Duration::from_secs(20);

/// How the server differs from an ordinary one.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Arguments of `internal-sftp`, as `-R` (read-only) or `-P posix-rename`.
    pub sftp_arguments: String,
    /// Further lines of sshd_config.
    pub config: String,
    /// Where the archive lies; a folder of the server's own if `None`.
    pub archive_dir: Option<PathBuf>,
    /// The largest file the server can write, as a quota would have it.
    pub file_bytes_max: Option<u64>,
    /// `ed25519` alone if empty.
    pub host_key_types: Vec<&'static str>,
}

/// Stopped when dropped, with all that it started.
#[derive(Debug)]
pub struct Sshd {
    folder: Scratch,
    archive_dir: PathBuf,
    options: Options,
    port: u16,
    user: String,
    listener: Option<Process>,
}

impl Sshd {
    pub fn start() -> Sshd {
        Sshd::start_with(Options::default())
    }

    pub fn start_with(mut options: Options) -> Sshd {
        if options.host_key_types.is_empty() {
            options.host_key_types.push("ed25519");
        }
        let folder = Scratch::new("sshd");
        let archive_dir = options.archive_dir.clone().unwrap_or_else(|| {
            let archive = folder.path().join("archive");
            fs::DirBuilder::new().mode(0o700).create(&archive).expect("a folder for the archive");
            archive
        });
        let mut server = Sshd { folder, archive_dir, options, port: 0, user: user_name(), listener: None };
        server.make_keys();
        // A free port may be taken by somebody else before sshd has it.
        let started = (0..5).any(|_| {
            server.port = free_port();
            server.write_config();
            server.spawn()
        });
        assert!(started, "sshd does not start: {}", server.log());
        server.trust_host_keys();
        server
    }

    /// What a client of this server is configured with.
    pub fn settings(&self) -> SftpSettings {
        SftpSettings {
            host: "127.0.0.1".into(),
            user: self.user.clone(),
            port: self.port,
            dir: self.archive_dir.clone(),
            identity_file: Some(self.identity_file()),
            known_hosts: Some(self.known_hosts()),
            passphrase: None,
        }
    }

    /// The folder of the archive on the backup host.
    pub fn archive_dir(&self) -> &Path {
        &self.archive_dir
    }

    /// The folder of keys, settings and log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub fn identity_file(&self) -> PathBuf {
        self.folder().join("user_key")
    }

    pub fn known_hosts(&self) -> PathBuf {
        self.folder().join("known_hosts")
    }

    /// The public host key of that type as `type base64`.
    pub fn host_key(&self, key_type: &str) -> String {
        public_key(&self.folder().join(format!("host_key_{key_type}")))
    }

    /// Lets a further key in: a line of authorized_keys.
    pub fn authorize(&self, public_key: &str) {
        let path = self.folder().join("authorized_keys");
        let mut keys = fs::read_to_string(&path).expect("authorized_keys was written");
        writeln!(keys, "{public_key}").expect("a String takes all");
        fs::write(&path, keys).expect("authorized_keys can be written");
    }

    /// What the server had to say.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("sshd.log")).unwrap_or_default()
    }

    /// Of the server and its sessions.
    pub fn processes(&self) -> Vec<u32> {
        self.listener.as_ref().map_or_else(Vec::new, |listener| family(listener.id()))
    }

    /// As a crash of the backup host: every process is killed at once.
    pub fn stop(&mut self) {
        let Some(mut listener) = self.listener.take() else { return };
        // Stopped first, so that none of them starts another one meanwhile.
        for process in self.stop_all(&listener) {
            signal(process, Signal::KILL);
        }
        listener.wait(START_DEADLINE);
    }

    /// The largest file that the server can write from its next start on.
    pub fn limit_files(&mut self, bytes_max: Option<u64>) {
        self.options.file_bytes_max = bytes_max;
    }

    /// Starts again on the same port, with the same keys and the same archive.
    pub fn restart(&mut self) {
        self.stop();
        assert!(self.spawn(), "sshd does not start again: {}", self.log());
    }

    /// The server and its sessions stand still; its connections stay open.
    pub fn freeze(&self) {
        let listener = self.listener.as_ref().expect("a stopped server cannot be frozen");
        self.stop_all(listener);
    }

    pub fn thaw(&self) {
        let listener = self.listener.as_ref().expect("a stopped server cannot be thawed");
        for process in family(listener.id()) {
            signal(process, Signal::CONT);
        }
    }

    fn stop_all(&self, listener: &Process) -> Vec<u32> {
        // All that were ever seen: when one in the middle ends by itself, its child is no descendant any more.
        let mut stopped = Vec::new();
        loop {
            let mut found = family(listener.id());
            found.retain(|process| !stopped.contains(process));
            if found.is_empty() {
                return stopped;
            }
            found.iter().for_each(|&process| signal(process, Signal::STOP));
            stopped.extend(found);
        }
    }

    fn make_keys(&self) {
        for key_type in &self.options.host_key_types {
            make_key(&self.folder().join(format!("host_key_{key_type}")), key_type, "");
        }
        make_key(&self.identity_file(), "ed25519", "");
        fs::write(self.folder().join("authorized_keys"), public_key(&self.identity_file()) + "\n")
            .expect("the temporary folder can be written");
    }

    fn trust_host_keys(&self) {
        let mut lines = String::new();
        for key_type in &self.options.host_key_types {
            let key = self.host_key(key_type);
            writeln!(lines, "[127.0.0.1]:{} {key}", self.port).expect("a String takes all");
        }
        fs::write(self.known_hosts(), lines).expect("the temporary folder can be written");
    }

    fn write_config(&self) {
        let folder = self.folder().display();
        let sftp = format!("internal-sftp {}", self.options.sftp_arguments);
        // The folder is below /tmp, which everybody can write: hence StrictModes no.
        let mut config = format!(
            "ListenAddress 127.0.0.1:{}\nPidFile none\nAuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\n\
             UsePAM no\nUseDNS no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nAllowUsers {}\n\
             PermitRootLogin prohibit-password\nDisableForwarding yes\nPermitTTY no\nMaxStartups 100\n\
             Subsystem sftp {sftp}\nForceCommand {sftp}\n",
            self.port, self.user
        );
        for key_type in &self.options.host_key_types {
            writeln!(config, "HostKey {folder}/host_key_{key_type}").expect("a String takes all");
        }
        config.push_str(&self.options.config);
        fs::write(self.folder().join("sshd_config"), config).expect("the temporary folder can be written");
    }

    /// False if the server ended instead of listening.
    fn spawn(&mut self) -> bool {
        if rustix::process::geteuid().is_root() {
            // Where sshd drops its privileges; the package's service makes it at boot.
            fs::create_dir_all("/run/sshd").expect("root can make /run/sshd");
        }
        assert!(Path::new(SSHD).exists(), "{SSHD} is missing; `scripts/install-deps` installs it");
        // sshd writes a log of its own; here come the words of what starts it.
        let log = self.folder().join("sshd.stderr");
        let mut child = Process::spawn(&self.command(), &Account::own(), "TERM", &log);
        let deadline = Instant::now() + START_DEADLINE;
        while !greets(self.address()) {
            if child.ended().is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "sshd does not answer: {}", self.log());
        }
        self.listener = Some(child);
        true
    }

    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        // A process that ignores the signal gets an error from write instead, as from a quota.
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
        if let Some(bytes) = self.options.file_bytes_max {
            command.args(["prlimit", &format!("--fsize={bytes}"), "--"]);
        }
        command.args([SSHD, "-D", "-f"]).arg(self.folder().join("sshd_config"));
        command.arg("-E").arg(self.folder().join("sshd.log"));
        command
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes `path` and `path.pub`.
pub fn make_key(path: &Path, key_type: &str, passphrase: &str) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", key_type, "-N", passphrase, "-C", "syncdata test", "-f"]).arg(path);
    let made = command.stdin(Stdio::null()).status().expect("ssh-keygen is installed (openssh-client)");
    assert!(made.success(), "ssh-keygen failed");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("our own file");
}

/// `type base64` of the key `path.pub`.
pub fn public_key(path: &Path) -> String {
    let line = fs::read_to_string(path.with_extension("pub")).expect("the key was made");
    line.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
        // Nobody listens yet, which the kernel says at once: no reason to burn a core.
        std::thread::sleep(Duration::from_millis(5));
        return false;
    };
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("more than nothing");
    let mut greeting = [0; 7];
    stream.read_exact(&mut greeting).is_ok() && &greeting == b"SSH-2.0"
}

fn user_name() -> String {
    let output = Command::new("id").arg("-un").output().expect("id is part of coreutils");
    String::from_utf8(output.stdout).expect("user names are ASCII").trim().to_owned()
}

fn signal(process: u32, signal: Signal) {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process id from the kernel");
    // It may have ended meanwhile.
    let _ = kill_process(pid, signal);
}

/// The process and all its descendants: sessions leave the listener's process group.
fn family(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .expect("Linux has /proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|process| Some((process, parent_of(process)?)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(process, _)| *process));
        next += 1;
    }
    found
}

fn parent_of(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses too.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greets_again_after_a_restart_and_is_gone_after_a_stop() {
        let mut server = Sshd::start();
        let (address, before) = (server.address(), server.host_key("ed25519"));
        server.restart();
        assert_eq!((server.address(), server.host_key("ed25519")), (address, before));
        assert!(greets(address));
        server.stop();
        assert!(TcpStream::connect(address).is_err());
    }
}
