//! `-dump-vmstate`: what a migration takes along, as it is declared, for those who compare versions of the program.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;

use accel::AccelSpec;
use chardev::ChardevSet;
use hw::core::{Host, Machine, MachineConfig};
use mainloop::MainLoop;
use memory::Memory;
use net::NetSet;
use qapi::{Error, Result};
use qom::{Registry, Tree};

use crate::cli::Raw;
use crate::start::register_all;

/// Writes the file and gives the exit status. `config` is the machine that the command line asks for, which is not built.
///
/// # Errors
/// The file cannot be written; there is no such machine or accelerator.
pub(crate) fn dump(raw: &Raw, config: MachineConfig, accels: &[AccelSpec]) -> Result<i32> {
    let path = &raw.text;
    let failed = |what: &str, error: &std::io::Error| {
        Error::generic(format!("{what} {path}: {}", qapi::strerror(error))).prefixed(&raw.prefix())
    };
    let mut file = File::create(path).map_err(|error| failed("open", &error))?;
    accel::open(accels).map_err(|mut messages| Error::generic(messages.pop().unwrap_or_default()))?;
    let (_main, host) = make_host()?;
    let name = Machine::new(config, host)?.kind().name;
    let declared = hw::states::declared(&make_host)?;
    let text = hw::states::to_json(name, &declared.states);
    file.write_all(text.as_bytes()).map_err(|error| failed("write", &error))?;
    Ok(0)
}

/// A host of its own for each machine. Nothing runs on it.
fn make_host() -> Result<(MainLoop, Host)> {
    let failed = |e: std::io::Error| Error::generic(format!("cannot start the main loop: {e}"));
    let main = MainLoop::new().map_err(failed)?;
    let memory = Memory::new();
    let mut registry = Registry::new();
    register_all(&mut registry, &memory, false);
    let opened = accel::open(&[AccelSpec::option("qtest")]);
    let opened = opened.map_err(|mut messages| Error::generic(messages.pop().unwrap_or_default()))?;
    let host = Host {
        tree: Arc::new(Tree::new(registry)),
        memory,
        accel: opened.accel,
        mainloop: main.handle(),
        chardevs: Arc::new(ChardevSet::new(main.handle())),
        net: NetSet::new(main.handle(), Arc::default()),
        events: Arc::new(|_, _| ()),
    };
    Ok((main, host))
}
