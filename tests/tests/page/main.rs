//! The page in a real browser, over real daemons: what an administrator sees who sees nothing else, and what a click does.

mod many;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use syncdata_tests::{Browser, Daemon, Program, Scheme, World, WorldOptions, browser, free_port};

/// A name that would run in a page that takes names for HTML.
const HOSTILE: &str = "<img src=x onerror=document.title='pwned'>";

/// A value of a row: nobody without a token may see it.
const CANARY: &str = "canary4711";

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A pass and a question of the page are soon over; a machine under load gets this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Both daemons, tables that are live, and a browser.
struct Scene {
    world: World,
    archiver: Daemon,
    /// `None`: it was killed.
    applier: Option<Daemon>,
    browser: Browser,
    pages: [String; 2],
    tokens: PathBuf,
}

async fn scene() -> Scene {
    let ports = [free_port(), free_port()];
    let mut world = WorldOptions::default()
        .archiver_setting("http_listen", format!("127.0.0.1:{}", ports[0]))
        .applier_setting("http_listen", format!("127.0.0.1:{}", ports[1]))
        .applier_setting("data_sync_freq", 3600)
        .start()
        .await;
    let tokens = world.folder().join("tokens");
    write_tokens(&tokens, TOKEN);
    world.set_applier("api_token_file", tokens.to_str().expect("a plain name"));
    world.set_archiver("api_token_file", tokens.to_str().expect("a plain name"));
    let schema = format!(
        "CREATE TABLE users (id int PRIMARY KEY, name text);
         CREATE TABLE orders (id int PRIMARY KEY, note text, amount int);
         CREATE TABLE products (id int PRIMARY KEY, name text);
         CREATE TABLE \"{HOSTILE}\" (id int PRIMARY KEY)"
    );
    world.execute_on_both(&schema).await;
    world.source.execute("SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')").await;
    let mut archiver = world.archiver(["run"]).spawn();
    archiver.says("started").await;
    world.source.execute("INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 500) n").await;
    world.source.execute("INSERT INTO products SELECT n, 'product' FROM generate_series(1, 40) n").await;
    world.source.execute(&format!("INSERT INTO \"{HOSTILE}\" VALUES (1)")).await;
    world.source.execute("INSERT INTO orders VALUES (1, 'first', 5)").await;
    world.archiver(["run", "--once"]).succeed().await;
    leave_minutes(&world, start(world.applier(["start"])).await).await;
    let applier = start(world.applier(["start"])).await;
    world.applier(["add-tables", "*", "--wait"]).succeed().await;
    world.target.execute("ANALYZE").await;
    let pages = ports.map(|port| format!("http://127.0.0.1:{port}/"));
    let applier = Some(applier);
    Scene { world, archiver, applier, browser: Browser::start().await, pages, tokens }
}

/// A day of an earlier daemon: a quiet night, a busy noon, and an hour without one.
async fn leave_minutes(world: &World, earlier: Daemon) {
    let folder = world.applier_config().parent().expect("a folder");
    let mut sockets = fs::read_dir(folder.join("run")).expect("it runs").filter_map(Result::ok);
    let socket = sockets.find_map(|entry| entry.file_name().into_string().ok()).expect("a socket");
    let copy = socket.strip_suffix(".sock").and_then(|name| name.rsplit('-').next()).expect("a copy's name");
    earlier.stop().await;
    let now = jiff::Timestamp::now().as_second() / 60;
    let a_minute = |ago: i64| {
        let noon = (720 - (720 - ago).abs()).max(0);
        json!([now - ago, 20 + (ago * 7) % 23 + noon / 12, noon * noon / 300 + (ago * 13) % 40, 0])
    };
    let points: Vec<Value> = (1..1440).rev().filter(|ago| !(300..360).contains(ago)).map(a_minute).collect();
    let kept = json!({"format": 1, "program": "syncdata-applier", "points": points});
    fs::write(folder.join(format!("state/points-{copy}.json")), kept.to_string()).expect("ours");
}

async fn start(program: Program) -> Daemon {
    let mut applier = program.spawn();
    applier.says("pass done").await;
    applier
}

fn write_tokens(path: &std::path::Path, token: &str) {
    fs::write(path, format!("{token}\n")).expect("the world's folder is ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("ours");
}

impl Scene {
    /// Waits until what a person sees of the page contains that.
    async fn sees(&self, selector: &str, words: &str) -> String {
        self.browser.wait_until(selector, |text| text.contains(words)).await
    }

    async fn is_seen(&self, selector: &str) -> bool {
        !self.browser.text(selector).await.is_empty()
    }

    async fn gives_token(&self, token: &str) {
        self.browser.types("#token", token).await;
        self.browser.key("\u{e007}").await;
    }

    /// No window is so narrow that something lies beside it.
    async fn fits(&self, width: u32, scheme: Scheme) {
        self.browser.looks(width, 800, scheme).await;
        let wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        assert_eq!(self.browser.run(wide, json!(null)).await, 0, "{width} {scheme:?}");
        let paper = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)";
        let paper = self.browser.run(paper, json!(null)).await;
        let is_dark = paper[0].as_u64().expect("a colour") < 128;
        assert_eq!(is_dark, scheme == Scheme::Dark, "{paper}");
    }

    /// The row of a table, by its name.
    async fn row(&self, table: &str) -> String {
        let script = "const row = [...document.querySelectorAll('#tables tr')]
            .find((row) => row.querySelector('th').textContent.includes(arguments[0]));
            return row ? row.innerText : ''";
        self.browser.run(script, json!(table)).await.as_str().expect("text").to_owned()
    }

    /// A button of a table's row, pressed with the keyboard.
    async fn presses(&self, table: &str, action: &str) {
        let script = "const row = [...document.querySelectorAll('#tables tr')]
            .find((row) => row.querySelector('th').textContent.includes(arguments[0][0]));
            row.querySelector(`[data-act=${arguments[0][1]}]`).focus()";
        self.browser.run(script, json!([table, action])).await;
        self.browser.key("\u{e007}").await;
    }

    async fn focused(&self) -> String {
        let focused = self.browser.run("return document.activeElement.id", json!(null)).await;
        focused.as_str().expect("text").to_owned()
    }

    /// KiB that the applier has had at most.
    fn memory(&self) -> u64 {
        self.applier.as_ref().and_then(Daemon::peak_kib).expect("it runs")
    }

    fn signals(&self, signal: Signal) {
        self.applier.as_ref().expect("it runs").signal(signal);
    }
}

/// Lines of the console that are about scripts and the policy. That an address does not answer is what some steps want.
fn of_scripts(console: Vec<String>) -> Vec<String> {
    let is_of_network =
        |line: &String| line.contains("Failed to load resource") || line.contains("no answer");
    console.into_iter().filter(|line| !is_of_network(line)).collect()
}

/// `SYNCDATA_WRITE_PAGES=1` keeps what is seen as docs/page.png.
async fn keep_screenshot(browser: &Browser) {
    browser.looks(1280, 1180, Scheme::Light).await;
    // Where the test's archive lies is of no interest to a reader.
    let location = "document.getElementById('about').textContent = arguments[0]";
    browser.run(location, json!("sftp://reader@backup.example:22/archive")).await;
    let shot = browser.screenshot().await;
    assert!(shot.starts_with(b"\x89PNG") && shot.len() > 20_000, "{} bytes", shot.len());
    if std::env::var_os("SYNCDATA_WRITE_PAGES").is_some() {
        fs::write(browser::docs().join("page.png"), shot).expect("docs can be written");
    }
}

#[tokio::test]
async fn a_quarantine_is_seen_and_mended_in_the_browser_and_a_silent_daemon_is_told() {
    let mut scene = scene().await;
    scene.world.target.execute("ALTER TABLE orders ADD CONSTRAINT positive CHECK (amount > 0)").await;
    scene.world.source.execute(&format!("INSERT INTO orders VALUES (2, '{CANARY}', -3)")).await;
    scene.world.source.execute("INSERT INTO users VALUES (501, 'after it')").await;
    scene.world.archiver(["run", "--once"]).succeed().await;
    scene.world.applier(["sync"]).run().await.expect_code(1);
    let unwatched = scene.memory();

    anybody_sees_what_is_wrong_and_no_rows(&scene).await;
    a_token_opens_the_rest(&scene).await;
    every_window_and_scheme_fits(&scene).await;
    a_click_mends(&scene).await;
    a_resync_asks_first(&scene).await;
    let console = of_scripts(scene.browser.console().await);
    assert!(console.is_empty(), "{console:?}");

    a_hop_that_breaks_is_named(&mut scene).await;
    a_token_that_is_revoked_is_forgotten(&scene).await;
    // The page's document is made again and again, and leaves nothing behind.
    let watched = scene.memory();
    assert!(watched * 5 <= unwatched * 6, "{watched} KiB with the page, {unwatched} KiB before it");
    silence_is_told(&mut scene).await;
    the_archiver_has_its_own(&scene).await;

    let console = of_scripts(scene.browser.console().await);
    assert!(console.is_empty(), "{console:?}");
    let asked = scene.browser.requests().await;
    assert!(asked.len() > 20, "{asked:?}");
    let elsewhere: Vec<&String> =
        asked.iter().filter(|url| !scene.pages.iter().any(|page| url.starts_with(page.as_str()))).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    a_kill_while_minutes_are_written_leaves_those_before(&mut scene).await;
    scene.archiver.stop().await;
}

/// Which hop, which table, since when, and what to do.
async fn anybody_sees_what_is_wrong_and_no_rows(scene: &Scene) {
    scene.browser.looks(1280, 900, Scheme::Light).await;
    scene.browser.go(&scene.pages[1]).await;
    scene.sees("#verdict", "1 problem, between this host and tables: orders").await;
    let trouble = scene.browser.text("#troubles").await;
    for words in [
        "orders is quarantined",
        "as of",
        "ago",
        "mend what the reason names, then retry",
        "syncdata-applier retry orders",
    ] {
        assert!(trouble.contains(words), "{words} is not in {trouble}");
    }
    let way = scene.browser.text("#way").await;
    assert!(way.contains("✕ broken") && way.matches("● well").count() == 2, "{way}");
    assert!(scene.row("orders").await.contains("quarantined"));
    assert!(scene.row("users").await.contains("● live"));
    let whole = scene.browser.run("return document.documentElement.innerHTML", json!(null)).await.to_string();
    assert!(!whole.contains(CANARY) && !whole.contains("Failing row"), "{whole}");
    for hidden in ["#logged", "#dead", "#done", "#curves", "#run", "#tables button"] {
        assert!(!scene.is_seen(hidden).await, "{hidden}");
    }
    // A name is a name.
    assert!(scene.row(HOSTILE).await.contains("live"), "{}", scene.browser.text("#tables").await);
    let images = scene.browser.run("return document.images.length", json!(null)).await;
    assert_eq!(
        (images, scene.browser.run("return document.title", json!(null)).await.to_string().contains("pwned")),
        (1.into(), false)
    );
}

async fn a_token_opens_the_rest(scene: &Scene) {
    scene.gives_token("wrong0123456789abcdef0123456789ab").await;
    scene.sees("#said", "not accepted").await;
    assert!(!scene.is_seen("#dead").await);
    scene.gives_token(TOKEN).await;
    let letter = scene.sees("#letters", "orders").await;
    assert!(letter.contains("positive") && letter.contains(CANARY), "{letter}");
    assert!(scene.sees("#executions", "pass").await.contains("succeeded"));
    scene.sees("#log", "the table is quarantined, the others go on").await;
    assert!(!scene.is_seen("#more").await);
    // Minutes of the daemon before this one, with a hole where there was none.
    assert!(scene.browser.text("#records-words").await.contains("in all"));
    let holes = "return document.querySelectorAll('#lag .line').length";
    assert_eq!(scene.browser.run(holes, json!(null)).await, 2);
    // Heads for who cannot see the columns, and landmarks to go to.
    let said = "return [document.querySelectorAll('main, header, footer').length,
        document.querySelectorAll('th[scope=col]').length > 20, document.querySelectorAll('#tables th[scope=row]').length,
        document.querySelector('#verdict').getAttribute('aria-live')]";
    assert_eq!(scene.browser.run(said, json!(null)).await, json!([3, true, 4, "polite"]));
    the_document_is_as_described(scene).await;
    keep_screenshot(&scene.browser).await;
}

/// What the documents say of the page's document, and what the page may load.
async fn the_document_is_as_described(scene: &Scene) {
    let ask = "return fetch('/api/v1/data-sync/monitoring/dashboard', {headers: {Authorization: 'Bearer ' + arguments[0]}})
        .then(async (answer) => [await answer.json(), (await fetch('/')).headers.get('content-security-policy')])";
    let answer = scene.browser.run(ask, json!(TOKEN)).await;
    let policy = answer[1].as_str().expect("a policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let document = answer[0].as_object().expect("a document");
    let printed: BTreeSet<&str> = document.keys().map(String::as_str).collect();
    let agent = fs::read_to_string(browser::docs().join("../shared/Documents/syncdata-agent.md"))
        .expect("it is there");
    let (_, section) = agent.split_once("## The page's document\n").expect("it is described");
    let section = section.split("\n## ").next().expect("it ends");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let described: BTreeSet<&str> = rows.map(|path| path.trim_end_matches("[]")).collect();
    assert_eq!(printed, described);
    assert_eq!(document["dead_letters"][0]["table"], "orders");
    let hops = document["status"]["hops"].as_array().expect("three hops");
    let lags: u64 = hops.iter().filter_map(|hop| hop["lag_seconds"].as_u64()).sum();
    let at =
        |value: &Value| value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()).expect("a time");
    let age = at(&document["now"]).as_second() - at(&document["status"]["copy"]["data_as_of"]).as_second();
    let lags = i64::try_from(lags).expect("seconds");
    // Each is cut to whole seconds.
    assert!((age - lags).abs() <= 5, "{age} s old, and the hops' lags are {lags} s: {hops:?}");
}

async fn every_window_and_scheme_fits(scene: &Scene) {
    for scheme in [Scheme::Dark, Scheme::Light] {
        for width in [360, 768, 1280] {
            scene.fits(width, scheme).await;
        }
    }
}

async fn a_click_mends(scene: &Scene) {
    // What the page says: mend what the reason names, then retry.
    scene.world.target.execute("ALTER TABLE orders DROP CONSTRAINT positive").await;
    scene.browser.click("#troubles button[data-act=retry]").await;
    scene.sees("#said", "The retry of orders: succeeded").await;
    scene.sees("#verdict", "All is well").await;
    assert!(scene.row("orders").await.contains("● live"));
    assert!(!scene.is_seen("#problems").await);
    scene.sees("#dead", "None is open").await;
    scene.world.assert_same(&["users", "orders", "products"]).await;
    scene.browser.click("#run").await;
    scene.sees("#said", "A pass: succeeded").await;
}

async fn a_resync_asks_first(scene: &Scene) {
    scene.world.archiver(["snapshot"]).succeed().await;
    scene.world.target.execute("UPDATE users SET name = 'by hand' WHERE id = 1").await;
    scene.presses("users", "resync").await;
    scene.sees("#sure", "Make users anew from the archive?").await;
    assert_eq!(scene.focused().await, "sure-no", "nothing is lost by enter");
    scene.browser.key("\u{e00c}").await;
    scene.browser.wait_until("#sure", str::is_empty).await;
    let by_hand = "SELECT name FROM users WHERE id = 1";
    assert_eq!(scene.world.target.value(by_hand).await, "by hand");
    scene.presses("users", "resync").await;
    scene.sees("#sure", "Make users anew").await;
    scene.browser.click("#sure-yes").await;
    scene.sees("#said", "The resync of users: succeeded").await;
    assert_eq!(scene.world.target.value(by_hand).await, "user 1");
    scene.world.assert_same(&["users"]).await;
    // The name with all that it contains is one segment of a path.
    scene.presses(HOSTILE, "check").await;
    scene.sees("#said", &format!("The check of \"{HOSTILE}\": succeeded: ")).await;
    scene.sees("#executions", "check").await;
    // All of them, for whoever says so.
    scene.browser.click("#check-all").await;
    scene.sees("#sure", "Check all tables now?").await;
    assert_eq!(scene.focused().await, "sure-no");
    scene.browser.click("#sure-no").await;
    scene.browser.wait_until("#sure", str::is_empty).await;
    let checks = "SELECT count(*) FROM sync_executions WHERE kind = 'check'";
    assert_eq!(scene.world.target.value(checks).await, "1", "who says no gets nothing");
    scene.browser.click("#check-all").await;
    scene.sees("#sure", "Check all tables now?").await;
    scene.browser.click("#sure-yes").await;
    let said = scene.sees("#said", "The check of all tables: succeeded: ").await;
    assert!(said.contains(" checks equal, 0 differ, "), "{said}");
    assert_eq!(scene.world.target.value(checks).await, "2");
}

async fn a_hop_that_breaks_is_named(scene: &mut Scene) {
    scene.world.backup.stop();
    // Reading its settings anew, it makes a pass.
    scene.signals(Signal::HUP);
    scene.sees("#verdict", "between backup host and this host").await;
    let trouble = scene.browser.text("#troubles").await;
    assert!(trouble.contains("Look at the backup host"), "{trouble}");
    scene.world.backup.restart();
    scene.browser.click("#run").await;
    scene.sees("#verdict", "All is well").await;
}

async fn a_token_that_is_revoked_is_forgotten(scene: &Scene) {
    write_tokens(&scene.tokens, "another0123456789abcdef0123456789");
    scene.signals(Signal::HUP);
    scene.sees("#said", "not accepted").await;
    scene.browser.wait_until("#logged", str::is_empty).await;
    let kept = scene.browser.run("return sessionStorage.length", json!(null)).await;
    assert_eq!(kept, 0);
    assert!(scene.is_seen("#token-use").await, "another one may be typed");
}

async fn silence_is_told(scene: &mut Scene) {
    // The first minute is on the disk before anybody is killed.
    points_of(&scene.world).await;
    scene.signals(Signal::STOP);
    scene.sees("#verdict", "No answer since 20").await;
    assert!(scene.sees("#why", "hangs").await.contains("systemctl status syncdata-applier"));
    scene.signals(Signal::CONT);
    scene.sees("#verdict", "All is well").await;

    scene.applier.take().expect("it runs").kill().await;
    let said = scene.sees("#verdict", "No answer since 20").await;
    assert!(said.ends_with('Z'), "{said}");
    scene.sees("#why", "It does not run").await;
    let title = scene.browser.run("return document.title", json!(null)).await;
    assert!(title.as_str().is_some_and(|title| title.contains("no answer")), "{title}");
    assert!(scene.row("users").await.contains("live"), "what was seen last stays to be read");

    write_tokens(&scene.tokens, TOKEN);
    scene.applier = Some(start(scene.world.applier(["start"])).await);
    scene.sees("#verdict", "All is well").await;
    scene.gives_token(TOKEN).await;
    scene.sees("#lag-words", "at most").await;
}

async fn a_kill_while_minutes_are_written_leaves_those_before(scene: &mut Scene) {
    scene.applier.take().expect("it runs").stop().await;
    let before = points_of(&scene.world).await;
    // A minute ends at any time after the start.
    let killed = scene.world.applier(["start"]).fault("points.before_rename=kill").spawn().ended().await;
    assert!(killed.was_killed(), "{killed}");
    assert_eq!(points_of(&scene.world).await, before);
    let applier = start(scene.world.applier(["start"])).await;
    let log = applier.stop().await.stderr;
    assert!(!log.contains("begin anew"), "{log}");
}

/// How many minutes are kept, once there are some.
async fn points_of(world: &World) -> usize {
    let state = world.applier_config().parent().expect("a folder").join("state");
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let files = fs::read_dir(&state).expect("the state's folder").filter_map(|entry| entry.ok());
        let file = files.map(|entry| entry.path()).find(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("points-") && name.ends_with(".json")
        });
        let kept = file.and_then(|file| serde_json::from_slice::<Value>(&fs::read(file).ok()?).ok());
        if let Some(kept) = kept {
            return kept["points"].as_array().expect("points").len();
        }
        assert!(Instant::now() < deadline, "no minute is kept");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn the_archiver_has_its_own(scene: &Scene) {
    scene.browser.go(&scene.pages[0]).await;
    scene.sees("#verdict", "All is well").await;
    let way = scene.browser.text("#way").await;
    assert!(way.matches("● well").count() == 2 && way.contains("○ not known"), "{way}");
    assert!(scene.row("users").await.contains("captured"));
    assert!(scene.browser.text("#host").await.contains("syncdata_slot"));
    scene.gives_token(TOKEN).await;
    assert!(scene.sees("#executions", "poll").await.contains("succeeded"));
    for absent in ["#dead", "#run", "#tables button"] {
        assert!(!scene.is_seen(absent).await, "{absent}");
    }
    scene.fits(360, Scheme::Dark).await;
}
