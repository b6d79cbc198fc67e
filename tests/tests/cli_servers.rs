//! `release run` with servers that know nothing of it, reloaded under load.

use release_tests::servers::{self, Served};
use release_tests::{Connections, Running, control};

/// Reloads under both kinds of load, and fails the test for every request that is lost.
#[track_caller]
fn loses_nothing(served: Served, times: u32) {
    let Some((mut server, address)) = served else { return };
    for connections in [Connections::New, Connections::Kept] {
        let (count, _) = server.count_reloads(address, connections, times);
        assert!(count.lost == 0 && count.answered > 0, "{count:?}; {}", server.stderr());
    }
    assert_eq!(server.stop(), 0, "{}", server.stderr());
}

#[test]
fn an_einhorn_program_is_reloaded_under_load() {
    let (mut manager, address) = Running::manager(&["--ready", "ack"], "ack", "USR2", 2);
    manager.reload_under_load(address, 10);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_hundred_reloads_lose_nothing() {
    // One worker: there is never another one that could cover for it.
    let (mut manager, address) = Running::manager(&["--ready", "ack"], "ack", "USR2", 1);
    manager.reload_under_load(address, 100);
    let told = control(&manager.control(), "status");
    assert!(told.contains("\"generation\":101"), "{told}");
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn nginx_is_reloaded_under_load() {
    loses_nothing(servers::nginx(), 3);
}

#[test]
fn a_node_server_is_reloaded_under_load() {
    loses_nothing(servers::node(), 5);
}

#[test]
fn gunicorn_is_reloaded_under_load() {
    loses_nothing(servers::gunicorn("sync"), 3);
}

#[test]
fn gunicorn_serves_an_asgi_application_and_is_reloaded_under_load() {
    loses_nothing(servers::gunicorn("asgi"), 3);
}

#[test]
fn uvicorn_is_reloaded_under_load() {
    let Some((mut server, address)) = servers::uvicorn() else { return };
    // On kept connections it ends what is idle, and HTTP has the client send such a request again.
    let (count, _) = server.count_reloads(address, Connections::New, 10);
    assert!(count.lost == 0 && count.answered > 0, "{count:?}; {}", server.stderr());
    assert_eq!(server.stop(), 0, "{}", server.stderr());
}

#[test]
fn a_patient_uvicorn_is_reloaded_under_load() {
    loses_nothing(servers::patient_uvicorn(), 5);
}
