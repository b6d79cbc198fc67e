//! Tests of the checks, with kernels that can enforce less.

use std::path::Path;

use super::kernel::Enforceable;
use super::*;

fn kernel(landlock: u32, has_filters: bool) -> Enforceable {
    let without_landlock = (landlock == 0).then(|| "Function not implemented".to_owned());
    Enforceable {
        release: "5.1-test".to_owned(),
        landlock,
        without_landlock,
        has_filters,
        can_mount: false,
    }
}

fn here() -> Surroundings<'static> {
    Surroundings { start: Path::new("/"), root: None, enters_root: false }
}

fn checked(sandbox: Sandbox, kernel: &Enforceable) -> Result<CheckedSandbox, String> {
    sandbox.check_for(kernel, here()).map_err(|error| error.report())
}

#[test]
fn a_part_that_the_kernel_cannot_enforce_is_refused() {
    let cases = [
        (Sandbox::new().read("/"), kernel(2, true), "`files`", "version 3, which Linux 6.2"),
        (Sandbox::new().bind_tcp(1), kernel(3, true), "`ports`", "version 4, which Linux 6.7"),
        (Sandbox::new().isolated(), kernel(5, true), "`isolation`", "version 6, which Linux 6.12"),
        (Sandbox::basic(), kernel(9, false), "`calls`", "no filters of system calls"),
        (Sandbox::strict(), kernel(0, true), "`files`", "no Landlock (Function not implemented;"),
    ];
    for (sandbox, kernel, part, words) in cases {
        let why = checked(sandbox.clone(), &kernel).unwrap_err();
        for words in [part, words, "the kernel 5.1-test cannot", "best effort"] {
            assert!(why.contains(words), "no `{words}` in {why}");
        }
        let best = checked(sandbox.best_effort(), &kernel).unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let described = best.describe(pid).unwrap();
        let name = part.trim_matches('`');
        let (_, missing) = described.split_once("NOT in force: ").unwrap();
        assert!(missing.contains(name), "{described}");
    }
}

#[test]
fn a_private_tmp_needs_the_right_and_hides_paths() {
    let unable = kernel(7, true);
    let why = checked(Sandbox::basic().private_tmp(), &unable).unwrap_err();
    assert!(why.contains("CAP_SYS_ADMIN") && why.contains("--private-tmp"), "{why}");
    let best = checked(Sandbox::basic().private_tmp().best_effort(), &unable).unwrap();
    assert!(best.for_this_process().unwrap().covered.is_empty());
    let able = Enforceable { can_mount: true, ..unable };
    let strict = checked(Sandbox::strict().private_tmp(), &able).unwrap();
    let confinement = strict.confinement("/bin/true".as_ref()).unwrap();
    assert_eq!(confinement.covered, [c"/tmp".to_owned(), c"/var/tmp".to_owned()]);
    let why = strict.for_this_process().unwrap_err().report();
    assert!(why.contains("only a master gives"), "{why}");
    let why = strict.confinement("/tmp/server".as_ref()).unwrap_err().report();
    assert!(why.contains("its program is /tmp/server"), "{why}");
    let why = checked(Sandbox::basic().read("/var/tmp").private_tmp(), &able).unwrap_err();
    assert!(why.contains("its sandbox names /var/tmp"), "{why}");
    let place = tempfile::tempdir_in("/tmp").unwrap();
    for start in [Path::new("/tmp"), place.path()] {
        let there = Surroundings { start, root: None, enters_root: false };
        let why = Sandbox::new().private_tmp().check_for(&able, there).unwrap_err().report();
        assert!(why.contains("its working directory is /tmp"), "{why}");
    }
    let entered =
        Surroundings { start: Path::new("/"), root: Some("/srv".as_ref()), enters_root: true };
    // Of its new root, before it is there.
    let why = Sandbox::basic().write("/tmp").private_tmp().check_for(&able, entered).unwrap_err();
    assert!(why.report().contains("its sandbox names /srv/tmp"), "{}", why.report());
    let entered = Sandbox::new().private_tmp().check_for(&able, entered).unwrap();
    let confinement = entered.confinement("/proc/self/exe".as_ref()).unwrap();
    assert_eq!(confinement.covered, [c"/srv/tmp".to_owned(), c"/srv/var/tmp".to_owned()]);
}

#[test]
fn enough_of_a_kernel_is_enough() {
    for (sandbox, kernel) in [
        (Sandbox::new().read("/"), kernel(3, false)),
        (Sandbox::new().connect_tcp(1), kernel(4, false)),
        (Sandbox::new().isolated(), kernel(6, false)),
        (Sandbox::basic(), kernel(0, true)),
        (Sandbox::new(), kernel(0, false)),
        (Sandbox::strict(), kernel(6, true)),
    ] {
        assert!(checked(sandbox.clone(), &kernel).is_ok(), "{sandbox:?}");
    }
}

#[test]
fn missing_paths_and_unknown_capabilities_are_refused() {
    let kernel = kernel(7, true);
    let why = checked(Sandbox::basic().read("/no/such/path"), &kernel).unwrap_err();
    assert!(why.contains("names /no/such/path") && why.contains("No such file"), "{why}");
    let why = checked(Sandbox::basic().keep_capability("FLY"), &kernel).unwrap_err();
    assert!(why.contains("`FLY` does not exist"), "{why}");
    let root = Path::new("/usr");
    let inside = Surroundings { start: Path::new("/"), root: Some(root), enters_root: false };
    assert!(Sandbox::basic().read("bin").check_for(&kernel, inside).is_ok());
    assert!(Sandbox::basic().read("/etc/passwd").check_for(&kernel, inside).is_err());
    let enters = Surroundings { enters_root: true, ..inside };
    if nix::unistd::geteuid().is_root() {
        let kept = Sandbox::basic().keep_capability("CHOWN").check_for(&kernel, enters);
        assert!(kept.unwrap_err().report().contains("enters its root directory itself"));
    }
}

#[test]
fn a_process_outside_is_seen_to_be_outside() {
    let strict = checked(Sandbox::strict(), &kernel(7, true)).unwrap();
    let described = strict.describe(i32::try_from(std::process::id()).unwrap()).unwrap();
    assert!(described.contains("NOT in force: files, ports, isolation, calls"), "{described}");
}
