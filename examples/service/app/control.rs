//! The commands that the control socket understands: all of `release ctl`, and `broadcast`.

use release::{CommandError, Connections, ControlCommand, MasterHandle};

pub(crate) async fn answer(
    master: &MasterHandle,
    connections: &Connections<String>,
    request: &str,
) -> String {
    match request.split_once(' ').unwrap_or((request, "")) {
        ("broadcast", "") => "error: say what to broadcast: `broadcast TEXT`".to_owned(),
        ("broadcast", text) => format!("sent {}", connections.broadcast(text.to_owned())),
        _ => match request.parse::<ControlCommand>() {
            Ok(command) => command.carry_out(master, super::GROUP).await,
            Err(error @ CommandError::Unknown(_)) => format!("error: {error}, broadcast TEXT"),
            Err(error) => format!("error: {error}"),
        },
    }
}
