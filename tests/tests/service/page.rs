use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use release::ControlCommand;
use release::testing::{TestFailure, Load, Program};

/// The service on a port that the kernel chooses.
fn service() -> Program {
    Program::new(SERVICE)
        .args(["--listen", "127.0.0.1:0", "--config", "conf"])
        .args(["--control", "control", "--lock-file", "pid"])
        .file("conf", "workers = 2")
        .control("control")
}

/// One request on a connection of its own; it is not repeated.
fn get(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 200") {
        true => Ok(answer),
        false => Err(io::Error::other(format!("the answer is {answer:?}"))),
    }
}

#[test]
fn it_serves_and_stops_in_order() -> Result<(), TestFailure> {
    let mut service = service().start()?;
    assert!(get(service.address()?).unwrap().contains("worker="));
    // Status 0, and no process, socket or pid file is left.
    service.stop()?;
    Ok(())
}

#[test]
fn reloads_and_upgrades_lose_nothing() -> Result<(), TestFailure> {
    let service = service().start()?;
    let address = service.address()?;
    let load = Load::start(4, |_client| move || get(address));
    for command in [ControlCommand::Reload, ControlCommand::Upgrade, ControlCommand::Scale(3)] {
        load.wait_for(20)?;
        service.command(command)?;
    }
    load.wait_for(20)?;
    load.stop().lost_nothing()?;
    Ok(())
}

#[test]
fn a_worker_that_dies_comes_back() -> Result<(), TestFailure> {
    let service = service().start()?;
    service.kill_worker(1)?;
    assert_eq!(service.status()?.workers[1].restarts, 1);
    service.wait_for_line("SIGKILL")?;
    Ok(())
}

#[test]
fn a_configuration_that_is_wrong_is_refused() -> Result<(), TestFailure> {
    let ended = service().file("conf", "wrokers = 2").run()?;
    assert_eq!(ended.code(), Some(1));
    assert!(ended.log().contains("conf:1:1: unknown key `wrokers`"), "{}", ended.log());

    // A reload with it changes nothing.
    let service = service().start()?;
    let before = service.status()?;
    service.write("conf", "workers = many")?;
    let refused = service.command(ControlCommand::Reload).unwrap_err();
    assert!(refused.to_string().contains("conf:1:11: `workers`"), "{refused}");
    assert_eq!(service.status()?.workers[0].pid, before.workers[0].pid);
    service.write("conf", "workers = 1")?;
    service.command(ControlCommand::Reload)?;
    assert_eq!(service.status()?.ready(), 1);
    Ok(())
}

#[test]
fn it_serves_in_the_background() -> Result<(), TestFailure> {
    let options = ["--background", "--error-log", "log"];
    let mut service = service().args(options).background("pid").log_file("log").start()?;
    get(service.address()?).unwrap();
    service.stop()?;
    Ok(())
}
