//! The Debian package is built and looked into. `packaging/deb/test.sh` installs it, by hand.
#![allow(clippy::expect_used, reason = "a test reports a failed step by a panic")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use headgate_testkit::process::{need, run};

const BIN: &str = env!("CARGO_BIN_EXE_headgate");
/// A debug build is large.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn the_debian_package_has_everything() {
    let Some(dpkg_deb) = need("dpkg-deb", "dpkg") else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = tempfile::tempdir().expect("a folder");
    let build = root.join("packaging/deb/build.sh");
    let _ = run(Command::new(build).arg(BIN).arg("0.0.1").arg(folder.path()), PATIENCE).success();
    let built = fs::read_dir(folder.path()).expect("a folder").flatten().next();
    let package = built.expect("a package").path();
    let told = run(Command::new(&dpkg_deb).arg("--contents").arg(&package), PATIENCE).success();
    for (rights, path) in [
        ("-rwxr-xr-x root/root", "./usr/bin/headgate"),
        ("-rw-r----- root/root", "./etc/headgate/config.yaml"),
        ("-rw-r--r-- root/root", "./lib/systemd/system/headgate.service"),
        ("-rw-r--r-- root/root", "./lib/systemd/system/headgate.service.d/50-hardening.conf"),
        ("-rw-r--r-- root/root", "./usr/lib/sysusers.d/headgate.conf"),
        ("-rw-r--r-- root/root", "./usr/share/man/man1/headgate.1.gz"),
        ("-rw-r--r-- root/root", "./usr/share/man/man1/headgate-run.1.gz"),
        ("-rw-r--r-- root/root", "./usr/share/bash-completion/completions/headgate"),
        ("-rw-r--r-- root/root", "./usr/share/doc/headgate/copyright"),
    ] {
        let mut lines = told.stdout.lines();
        let found = lines.any(|line| line.starts_with(rights) && line.ends_with(path));
        assert!(found, "no `{rights} {path}` in:\n{}", told.stdout);
    }
    let control = run(Command::new(&dpkg_deb).arg("--field").arg(&package), PATIENCE).success();
    assert!(control.stdout.contains("Version: 0.0.1"), "{}", control.stdout);
}

#[test]
fn the_configurations_that_are_shipped_are_good() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for file in ["packaging/deb/config.yaml", "conf/config.yaml"] {
        let config = root.join(file);
        let told = run(Command::new(BIN).arg("test").arg("-c").arg(&config), PATIENCE).success();
        assert!(!told.output().contains("warning"), "{file}:\n{}", told.output());
    }
}
