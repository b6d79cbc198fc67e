// The flagship: an HTTP server whose master binds the listener and counts, and whose workers,
// without privileges, accept on the shared socket and answer.
//
// ```sh
// cargo run --example service -- --listen 127.0.0.1:8080 --workers 4 --control /tmp/control
// curl http://127.0.0.1:8080/
// ```

mod app;

fn main() -> release::Exit {
    app::run(release::driver)
}
