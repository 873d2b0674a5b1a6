//! The packages in throw-away roots: what they install runs, an upgrade goes over it, and what is removed is gone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use syncdata_tests::program;

const PROGRAMS: [&str; 2] = ["archiver", "applier"];

pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// The packages of the programs that were built last.
pub(crate) fn packed(out: &Path, only: &str) -> Vec<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/package");
    let mut command = Command::new(script);
    let from = program::program("syncdata-archiver").parent().expect("a folder").to_owned();
    command.args(["--only", only, &format!("--{only}-from")]).arg(&from).arg("--out").arg(out);
    // Nobody downloads these.
    command.env("DPKG_DEB_COMPRESSOR_TYPE", "gzip").env("DPKG_DEB_COMPRESSOR_LEVEL", "1");
    text(&run(&mut command).stdout).lines().map(PathBuf::from).collect()
}

/// A machine that has dpkg and nothing else.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Root {
        let root = tempfile::tempdir().expect("a folder");
        for folder in ["var/lib/dpkg/updates", "var/lib/dpkg/info", "etc"] {
            fs::create_dir_all(root.path().join(folder)).expect("a folder");
        }
        for (file, content) in [
            ("var/lib/dpkg/status", ""),
            ("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
            ("etc/group", "root:x:0:\n"),
        ] {
            fs::write(root.path().join(file), content).expect("writable");
        }
        Root(root)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Dependencies are the distribution's business; scripts run here, with DPKG_ROOT, as in any chrootless root.
    fn dpkg(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("dpkg");
        command
            .arg(format!("--root={}", self.0.path().display()))
            .args(["--force-script-chrootless", "--force-not-root", "--force-depends", "--no-triggers"])
            .args(arguments)
            .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
        let output = run(&mut command);
        text(&output.stdout) + &text(&output.stderr)
    }

    /// Everything that is no folder, without dpkg's own books.
    fn files(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("readable") {
                let path = entry.expect("an entry").path();
                let name = path.strip_prefix(self.0.path()).expect("inside").to_string_lossy().into_owned();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else if !name.starts_with("var/lib/dpkg/") {
                    found.insert(name);
                }
            }
        }
        found
    }
}

#[test]
fn packages_are_installed_upgraded_removed_and_purged() {
    let out = tempfile::tempdir().expect("a folder");
    let debs = packed(out.path(), "debs");
    assert_eq!(debs.len(), 2, "{debs:?}");
    let root = Root::new();
    let bare = root.files();
    let names: Vec<&str> = debs.iter().map(|deb| deb.to_str().expect("UTF-8")).collect();
    let mut install = vec!["--install"];
    install.extend(&names);

    let said = root.dpkg(&install);
    for program in PROGRAMS {
        assert!(said.contains(&format!("write /etc/syncdata/{program}.toml")), "{said}");
        let binary = root.path(&format!("usr/bin/syncdata-{program}"));
        let version = run(Command::new(&binary).arg("--version"));
        assert_eq!(text(&version.stdout), format!("syncdata-{program} {}\n", env!("CARGO_PKG_VERSION")));
        let example = root.path(&format!("usr/share/doc/syncdata-{program}/examples/{program}.toml"));
        let config = run(Command::new(&binary)
            .arg("config")
            .arg("--config")
            .arg(&example)
            .env_clear()
            .env("HOME", root.path("")));
        assert!(text(&config.stdout).contains("backup.example.org"), "{config:?}");
        let unit = root.path(&format!("usr/lib/systemd/system/syncdata-{program}.service"));
        let unit = fs::read_to_string(unit).expect("it is there");
        assert!(unit.contains(&format!("ExecStart=/usr/bin/syncdata-{program} ")), "{unit}");
    }
    let files = root.files();
    for file in [
        "usr/lib/systemd/system/syncdata-archiver-snapshot.timer",
        "usr/lib/systemd/system/syncdata-applier-drill.timer",
        "usr/share/man/man1/syncdata-archiver-drop-slot.1.gz",
        "usr/share/man/man1/syncdata-applier-consistency-rows.1.gz",
        "usr/share/man/man1/syncdata.1.gz",
        "usr/share/bash-completion/completions/syncdata",
        "usr/share/zsh/vendor-completions/_syncdata-archiver",
        "usr/share/fish/vendor_completions.d/syncdata-applier.fish",
        "usr/bin/syncdata",
    ] {
        assert!(files.contains(file), "{file} is not among {files:?}");
    }
    // Pages name pages that are there.
    for page in files.iter().filter(|file| file.ends_with(".1.gz")) {
        let shown = text(&run(Command::new("zcat").arg(root.path(page))).stdout).replace("\\-", "-");
        for named in shown
            .split_whitespace()
            .filter_map(|word| word.trim_matches(|c| c == '.' || c == ',').strip_suffix("(1)"))
        {
            assert!(files.contains(&format!("usr/share/man/man1/{named}.1.gz")), "{page} names {named}(1)");
        }
    }
    // Each completion is what its shell takes.
    let bash = root.path("usr/share/bash-completion/completions/syncdata");
    run(Command::new("bash").arg("-n").arg(&bash));
    // Tables are those that the program names.
    let named = tempfile::tempdir().expect("a folder");
    let asked = named.path().join("syncdata");
    fs::write(
        &asked,
        "#!/bin/sh\ncase \"$*\" in\n'list-tables --complete synced') printf 'users\\nsales.orders\\nsales.lines\\n' ;;\n\
         'list-tables --complete captured') printf '%s\\n' sales.new log 'sales.$(touch ran) x' ;;\nesac\n",
    )
    .expect("ours");
    fs::set_permissions(&asked, fs::Permissions::from_mode(0o755)).expect("ours");
    let words = "source \"$1\"; complete -p syncdata; for command in resync add-tables; do \
        COMP_WORDS=(syncdata $command sales.); COMP_CWORD=2; COMPREPLY=(); \
        _syncdata_tables syncdata sales. $command; printf '%s\\n' \"${COMPREPLY[@]}\"; done";
    let path = format!("{}:{}", named.path().display(), std::env::var("PATH").unwrap_or_default());
    let said = text(
        &run(Command::new("bash")
            .args(["-c", words, "bash"])
            .arg(&bash)
            .env("PATH", path)
            .current_dir(named.path()))
        .stdout,
    );
    assert!(said.starts_with("complete ") && said.contains("-F _syncdata_tables syncdata"), "{said}");
    assert!(
        said.ends_with("\nsales.orders\nsales.lines\nsales.new\nsales.\\$\\(touch\\ ran\\)\\ x\n"),
        "{said}"
    );
    assert!(!named.path().join("ran").exists(), "a name is not run");
    let group = fs::read_to_string(root.path("etc/group")).expect("it is there");
    assert!(group.contains("syncdata:"), "{group}");
    let mode = fs::metadata(root.path("etc/syncdata")).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o750);

    // Over the files of a service that may be running, with an operator's settings and a spool.
    fs::write(root.path("etc/syncdata/archiver.toml"), "# mine\n").expect("writable");
    let spool = root.path("var/lib/private/syncdata/spool");
    fs::create_dir_all(&spool).expect("a folder");
    fs::write(spool.join("1.jsonl.zst"), "changes").expect("writable");
    let cache = root.path("var/lib/private/syncdata-applier");
    fs::create_dir_all(&cache).expect("a folder");
    fs::write(cache.join("1.jsonl.zst"), "changes").expect("writable");
    let said = root.dpkg(&install);
    assert!(!said.contains("write /etc/syncdata"), "it is no first installation: {said}");
    assert!(!said.contains("drop-slot"), "{said}");
    assert_eq!(fs::read_to_string(root.path("etc/syncdata/archiver.toml")).expect("kept"), "# mine\n");

    let said = root.dpkg(&["--remove", "syncdata-archiver", "syncdata-applier"]);
    assert!(said.contains("syncdata-archiver drop-slot"), "{said}");
    assert!(spool.join("1.jsonl.zst").exists() && cache.exists(), "only purging takes data");

    let said = root.dpkg(&["--purge", "syncdata-archiver", "syncdata-applier"]);
    assert!(said.contains("is kept: it holds changes"), "{said}");
    assert!(spool.join("1.jsonl.zst").exists(), "the archive may not have it");
    assert!(!cache.exists());
    let kept = root.files();
    let more: Vec<&String> = kept.difference(&bare).collect();
    assert_eq!(
        more.iter()
            .filter(|file| !file.starts_with("etc/g") && !file.starts_with("etc/."))
            .collect::<Vec<_>>(),
        ["etc/syncdata/archiver.toml", "var/lib/private/syncdata/spool/1.jsonl.zst"]
            .iter()
            .collect::<Vec<_>>(),
        "settings of an operator and changes stay, and nothing else"
    );
}
