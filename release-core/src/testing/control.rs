//! Requests to a control socket, from a thread that may wait.

use std::path::Path;
use std::time::Duration;

use crate::ipc::Text;
use crate::ipc::plain::Client;
use crate::net::{Active, Socket, Unix};
use crate::rt::local::Local;
use crate::rt::{Driver, run};

/// Sends a request and returns the answer, or the reason in words why there is none.
pub(super) fn ask(path: &Path, request: &str, limit: Duration) -> Result<String, String> {
    let cannot = |error: &dyn std::fmt::Display| {
        format!("no answer to `{request}` from {}: {error}", path.display())
    };
    let driver = Local::new().map_err(|error| cannot(&error))?;
    let rt = driver.handle();
    run(&driver, async {
        let address = Unix::path(path);
        let socket = Socket::<_, Unix>::unconnected(&address).map_err(|error| error.report())?;
        let socket: Socket<Active, Unix> =
            socket.connect(&rt, &address, limit).await.map_err(|error| cannot(&error))?;
        let socket = socket.into_descriptor().map_err(|error| cannot(&error))?;
        let client = Client::<String, _>::new(&rt, socket, Text).map_err(|error| cannot(&error))?;
        client.call_within(limit, &request.to_owned()).await.map_err(|error| cannot(&error))
    })
}
