//! The example `service`, from outside: the tests that `docs/TESTING.md` shows, on every backend.

macro_rules! on_backends {
    ($($name:ident: $program:literal)*) => {$(
        mod $name {
            const SERVICE: &str = env!($program);

            include!("service/page.rs");
        }
    )*};
}

on_backends! {
    tokio: "CARGO_BIN_EXE_service-tokio"
    smol: "CARGO_BIN_EXE_service-smol"
    async_std: "CARGO_BIN_EXE_service-async-std"
}
