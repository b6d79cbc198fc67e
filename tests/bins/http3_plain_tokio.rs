//! The example `http3` with quinn's own sockets: each process opens one at the same port, and closes it when it
//! has no connection left. It loses connections: see `tests/quic.rs`.

extern crate release_tokio as release;

#[allow(dead_code)]
mod example {
    include!("../../examples/http3.rs");

    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
    };
    use quinn::{Endpoint, EndpointConfig, TokioRuntime};

    pub(super) fn plain_main() -> Exit {
        match is_worker() {
            true => me().run(driver, plain_worker),
            false => plain_master(&Options::parse()).unwrap_or_else(Exit::failure),
        }
    }

    fn plain_master(options: &Options) -> Result<Exit, BoxError> {
        log::stderr()?;
        let context = (Setup::read(options)?, options.listen);
        let workers = Workers::same_executable("h3", options.workers)
            .user("nobody")
            .context(move |_| context.clone());
        let control = ControlSocket::new(&options.control);
        Ok(Master::new().workers(workers).commands(control, "h3").run(driver))
    }

    async fn plain_worker(me: Me<(Setup, SocketAddr)>) -> Result<(), BoxError> {
        log::stderr()?;
        let (setup, address) = me.context().clone();
        let made = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&made, sockopt::ReusePort, &true)?;
        bind(made.as_raw_fd(), &SockaddrStorage::from(address))?;
        let (config, runtime) = (EndpointConfig::default(), Arc::new(TokioRuntime));
        let endpoint =
            Endpoint::new(config, Some(setup.server()?), UdpSocket::from(made), runtime)?;
        me.ready()?;
        let (answers, own) = (Arc::new(Answers::new(me.id())), me.clone());
        let serve = move |connection| requests(own.clone(), Arc::clone(&answers), connection);
        release_quinn::serve(&me, endpoint, serve).drain(setup.drain).await?;
        Ok(())
    }
}

fn main() -> release::Exit {
    example::plain_main()
}
