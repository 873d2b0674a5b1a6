//! The archiver's half.

use serde_json::json;
use syncdata_tests::world::WorldOptions;

use super::{API, free_address, get, send, tokens};

#[tokio::test]
async fn the_archiver_tells_its_half_to_who_has_a_token() {
    let (address, other) = (free_address(), free_address());
    let folder = tempfile::tempdir().expect("a folder");
    let file = tokens(folder.path(), &[super::TOKEN]);
    let options = WorldOptions::default()
        .without_sftp()
        .archiver_setting("http_listen", other.as_str())
        .archiver_setting("http_listen_archiver", address.as_str())
        .archiver_setting("api_token_file", file.display().to_string());
    let world = options.start().await;
    world.source.execute("CREATE TABLE users (id int PRIMARY KEY, name text)").await;
    world.source.execute("SELECT pg_create_logical_replication_slot('syncdata_slot', 'wal2json')").await;
    let mut daemon = world.archiver(["run"]).spawn();
    daemon.says("started").await;
    world.source.execute("INSERT INTO users VALUES (1, 'Ann')").await;
    world.archiver(["run", "--once"]).succeed().await;
    world.archiver(["snapshot"]).succeed().await;
    world.archiver(["proof"]).succeed().await;
    world.archiver(["run", "--once"]).succeed().await;

    for path in ["/sync/status", "/cdc/status", "/cdc/slot", "/sync/executions", "/openapi.json"] {
        send(&address, &format!("GET {API}{path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).expect(401);
    }
    let cdc = get(&address, &format!("{API}/cdc/status")).expect(200).json();
    assert_eq!(
        (&cdc["slot"]["slot"], &cdc["spool"]["unshipped_segments"]),
        (&json!("syncdata_slot"), &json!(0)),
        "{cdc}"
    );
    assert_eq!(get(&address, &format!("{API}/cdc/slot")).expect(200).json()["wal_status"], "reserved");
    assert!(get(&address, &format!("{API}/cdc/spool")).expect(200).json()["covered_lsn"].is_string());
    let snapshots = get(&address, &format!("{API}/cdc/snapshots")).expect(200).json();
    assert_eq!(
        (&snapshots["newest"]["tables"], &snapshots["items"][0]["kind"]),
        (&json!(["users"]), &json!("snapshot")),
        "{snapshots}"
    );
    let proofs = get(&address, &format!("{API}/cdc/proofs")).expect(200).json();
    assert_eq!(
        (proofs["newest_at"].is_string(), &proofs["items"][0]["kind"]),
        (true, &json!("proof")),
        "{proofs}"
    );
    let first = get(&address, &format!("{API}/sync/executions?limit=1")).expect(200).json();
    let (id, next) =
        (first["items"][0]["id"].as_str().expect("an id"), first["next_cursor"].as_str().expect("more"));
    assert_eq!(get(&address, &format!("{API}/sync/executions/{id}")).expect(200).json()["id"], id);
    let second = get(&address, &format!("{API}/sync/executions?limit=1&cursor={next}")).expect(200).json();
    assert_ne!(second["items"][0]["id"], id, "{second}");
    get(&address, &format!("{API}/sync/executions?cursor=x")).expect(422);
    get(&address, &format!("{API}/sync/executions/x")).expect(404);
    for path in
        ["/monitoring/health", "/monitoring/alerts", "/monitoring/metrics/prometheus", "/openapi.json"]
    {
        get(&address, &format!("{API}{path}")).expect(200);
    }
    super::assert_committed(&address, "archiver.json");
    assert!(std::net::TcpStream::connect(&other).is_err(), "http_listen_archiver wins");
    daemon.stop().await.expect_code(0);
}
