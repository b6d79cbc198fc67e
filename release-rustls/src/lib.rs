//! TLS servers whose workers have no private key: the master holds it, and signs their handshakes.
//!
//! The master reads an [`Identity`], a certificate and its key, for each generation of workers. The
//! workers receive the [`Certificate`] as their context, and send a [`Sign`] request for every
//! handshake:
//!
//! ```no_run
//! use release_core::{Master, Me, Settings, Workers};
//! use release_rustls::{Certificate, Identity, Sign};
//!
//! type BoxError = Box<dyn std::error::Error + Send + Sync>;
//!
//! fn master() -> Result<Master, BoxError> {
//!     // Read again at each reload; a file that is wrong refuses the reload.
//!     let read = || Identity::read("certificate.pem", "key.pem");
//!     let settings = Settings::new(read()?, move |_| read());
//!     let theirs = settings.clone();
//!     let workers = Workers::same_executable("tls", 2)
//!         .user("nobody")
//!         .context_from(&settings, |identity, _| identity.certificate())
//!         .answer_permitted(
//!             move |worker| theirs.of(worker),
//!             |_, sign: &Sign| sign.permit(),
//!             |_, identity, sign| async move { identity.sign(&sign) },
//!         );
//!     Ok(Master::new().workers(workers))
//! }
//!
//! async fn worker(me: Me<Certificate, Sign>) -> Result<(), BoxError> {
//!     // For any TLS acceptor on rustls. Run its handshakes by `Rt::unblock_future`.
//!     let _config = me.context().server_config(me.master());
//!     me.ready()?;
//!     me.stopping().await;
//!     Ok(())
//! }
//! # let _ = (master, worker);
//! ```
//!
//! The example `key_holder` is a whole server with upgrades that keep the keys in use.
#![forbid(unsafe_code)]

mod certificate;
mod identity;
mod sign;

pub use certificate::Certificate;
pub use identity::{Identity, IdentityError};
pub use sign::Sign;
