//! Builds the bare-metal program (`src/bare/`) into `OUT_DIR/guest.elf` when the feature `image` is on.
//!
//! Two calls of the compiler that cargo uses: the library `guest` without std and without unwinding, and the program with a
//! linker script. Always optimised, whatever the profile; the same sources give the same bytes wherever they lie.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_IMAGE").is_none() {
        return;
    }
    let variable =
        |name: &str| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}")));
    let (out, sources, rustc) = (variable("OUT_DIR"), variable("CARGO_MANIFEST_DIR"), variable("RUSTC"));
    let target = std::env::var("TARGET").unwrap_or_default();
    assert!(
        target.starts_with("x86_64-") && target.contains("linux"),
        "the bare-metal guest is x86-64 ELF and needs an x86_64 Linux target, not {target}; turn off the feature `image`"
    );

    let library = out.join("libguest.rlib");
    let mut build = compiler(&rustc, &sources, &target);
    build.args(["--crate-name=guest", "--crate-type=rlib"]).arg(sources.join("src/lib.rs"));
    run(build.arg("-o").arg(&library));

    let mut build = compiler(&rustc, &sources, &target);
    build.args(["--crate-name=guest_bare", "--crate-type=bin"]).arg(sources.join("src/bare/main.rs"));
    let mut with_library = std::ffi::OsString::from("guest=");
    with_library.push(&library);
    build.arg("--extern").arg(with_library);
    // The linker that comes with the compiler: no C compiler, no C start files, the same result everywhere.
    build.args(["-Clinker=rust-lld", "-Clinker-flavor=ld.lld", "-Cstrip=symbols"]);
    let mut script = std::ffi::OsString::from("-Clink-arg=--script=");
    script.push(sources.join("src/bare/link.ld"));
    build.arg(script);
    for option in ["--build-id=none", "--gc-sections", "-zmax-page-size=4096", "-znognustack"] {
        build.arg(format!("-Clink-arg={option}"));
    }
    run(build.arg("-o").arg(out.join("guest.elf")));
}

/// The compiler with what both calls have in common.
fn compiler(rustc: &Path, sources: &Path, target: &str) -> Command {
    let mut command = Command::new(rustc);
    command.args(["--edition=2024", "--cap-lints=warn"]).arg(format!("--target={target}"));
    for option in [
        "opt-level=2",
        "panic=abort",
        "relocation-model=static",
        "code-model=small",
        "codegen-units=1",
        "debuginfo=0",
        "overflow-checks=off",
        "force-unwind-tables=no",
        "target-feature=+crt-static",
        "metadata=pliant-guest",
    ] {
        command.arg(format!("-C{option}"));
    }
    let mut remap = std::ffi::OsString::from("--remap-path-prefix=");
    remap.push(sources);
    remap.push("=guest");
    command.arg(remap);
    command
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(status.success(), "{command:?} failed");
}
