//! Output of workers, on its way to the log.

use release_core::{OutputStream, WorkerInfo, printable};

/// Passes lines to the log.
pub(crate) fn to_log(
    prefix: fn(&WorkerInfo) -> String,
) -> impl Fn(&WorkerInfo, OutputStream, &[u8]) + Send + Sync + 'static {
    move |worker, stream, line| {
        let (prefix, line) = (prefix(worker), printable(line));
        match stream {
            OutputStream::Error => tracing::warn!("{prefix} {line}"),
            _ => tracing::info!("{prefix} {line}"),
        }
    }
}
