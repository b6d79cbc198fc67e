//! The files of `examples/deploy`: what they start works, and their readers understand them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use release_tests::{Program, eventually, free_port, has, http_get_text};

fn deploy() -> PathBuf {
    release_tests::source("examples/deploy")
}

fn text(name: &str) -> String {
    fs::read_to_string(deploy().join(name)).expect("a file")
}

/// The unit with its files where they are here.
fn unit(directory: &Path) -> String {
    let release = Program::release_path().to_string_lossy().into_owned();
    let script = deploy().join("web.py").to_string_lossy().into_owned();
    text("web.service")
        .replace("/usr/local/bin/release", &release)
        .replace("/usr/local/lib/web/web.py", &script)
        .replace("/run/web/control", &directory.join("control").to_string_lossy())
}

#[test]
fn systemd_understands_the_units() {
    if !has("systemd-analyze", "--version") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("web.service"), unit(directory.path())).expect("written");
    fs::write(directory.path().join("web.socket"), text("web.socket")).expect("written");
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "web.service", "web.socket"])
        .current_dir(directory.path())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !said.contains("web."), "{said}");
    // Its exposure, of 100; without its restrictions it is above 80.
    let rated = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--threshold=25", "web.service"])
        .current_dir(directory.path())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&rated.stderr);
    if said.contains("unrecognized option") || said.contains("offline") {
        return eprintln!("skipped: systemd before 250 does not rate files: {said}");
    }
    assert!(rated.status.success(), "{}{said}", String::from_utf8_lossy(&rated.stdout));
}

#[test]
fn what_the_unit_starts_serves_and_reloads() {
    if !has("systemd-socket-activate", "--version") {
        return;
    }
    let (address, directory) = (free_port(), tempfile::tempdir().expect("a directory"));
    let unit = unit(directory.path());
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
    let mut words = start.split_whitespace();
    let listen = address.to_string();
    let launcher = ["systemd-socket-activate", "--listen", &listen, "--fdname=http"];
    let program = words.next().expect("a program");
    let mut web = Program::command(&launcher, Path::new(program)).args(words).start();
    let get = || http_get_text(address).unwrap_or_default();
    eventually(&format!("it serves; log: {}", web.stderr()), || get().starts_with("process "));
    let before = get();
    web.signal(Signal::SIGHUP);
    eventually("other workers serve", || {
        let now = get();
        assert!(now.starts_with("process "), "a request was lost: {now}");
        now != before
    });
    assert_eq!(web.stop(), 0, "{}", web.stderr());
}

#[test]
fn the_manifest_says_what_the_image_does() {
    let read = |name: &str, what: &str| {
        let check =
            format!("import sys, yaml; print([{what} for d in yaml.safe_load_all(sys.stdin)])");
        let read = Command::new("python3")
            .args(["-c", &check])
            .stdin(fs::File::open(deploy().join(name)).expect("a manifest"))
            .output()
            .expect("python3");
        let has_yaml = !String::from_utf8_lossy(&read.stderr).contains("No module named 'yaml'");
        has_yaml.then(|| String::from_utf8_lossy(&read.stdout).into_owned())
    };
    let Some(kinds) = read("kubernetes.yaml", "(d['kind'], d['metadata']['name'])") else {
        return eprintln!("skipped: Python has no yaml here");
    };
    assert_eq!(kinds, "[('Deployment', 'web'), ('Service', 'web')]\n");
    // The autoscaler changes that deployment, by a metric that there is.
    let target =
        read("autoscaler.yaml", "[d['spec']['scaleTargetRef'][k] for k in ['kind', 'name']]");
    assert_eq!(target.as_deref(), Some("[['Deployment', 'web']]\n"));
    let metric = read("autoscaler.yaml", "d['spec']['metrics'][0]['pods']['metric']['name']");
    assert_eq!(metric.as_deref(), Some("['release_accept_queue']\n"));
    for page in ["docs/DEPLOYING.md", "docs/METRICS.md"] {
        let page = fs::read_to_string(release_tests::source(page)).expect("a page");
        assert!(page.contains("release_accept_queue"), "{page}");
    }
    // All speak of the same port, socket and user.
    for name in ["Dockerfile", "Dockerfile.static", "kubernetes.yaml", "web.nomad.hcl"] {
        for word in ["8080", "/run/web", "65534"] {
            assert!(text(name).contains(word), "{word} in {name}");
        }
    }
}

#[test]
fn the_manifest_follows_the_schema_of_kubernetes() {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python-tools/bin");
    let validate = tools.join("kubernetes-validate").to_string_lossy().into_owned();
    if !has(&validate, "--version") {
        return;
    }
    let check = |manifest: &str| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("kubernetes.yaml");
        fs::write(&path, manifest).expect("written");
        let output = Command::new(&validate).args(["--strict", "--no-warn"]).arg(&path).output();
        let output = output.expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let manifest = text("kubernetes.yaml");
    let (is_valid, said) = check(&manifest);
    assert!(is_valid, "{said}");
    // Otherwise nothing would be shown.
    let (is_valid, said) = check(&manifest.replace("readOnlyRootFilesystem", "readOnlyRoot"));
    assert!(!is_valid && said.contains("readOnlyRoot"), "{said}");
    let autoscaler = text("autoscaler.yaml");
    let (is_valid, said) = check(&autoscaler);
    assert!(is_valid, "{said}");
    let (is_valid, said) = check(&autoscaler.replace("averageUtilization", "average"));
    assert!(!is_valid && said.contains("average"), "{said}");
}

/// Nomad itself checks more; this keeps blocks and words of the file together.
#[test]
fn the_job_of_nomad_has_whole_blocks() {
    let job = text("web.nomad.hcl");
    let code = job.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut depth = 0;
    for line in code.filter(|line| !line.is_empty()) {
        let (opens, closes) = (line.matches('{').count(), line.matches('}').count());
        let is_block = line.ends_with('{') || line == "}" || line.ends_with('}');
        assert!(is_block || line.contains(" = "), "{line}");
        depth = depth + opens - closes;
    }
    assert_eq!(depth, 0, "{job}");
    for word in
        ["kill_timeout", "shutdown_delay", "readonly_rootfs = true", "SIGTERM", "auto_revert"]
    {
        assert!(job.contains(word), "{word}");
    }
}
