//! From a command line to a running virtual machine and to its end, in the order that `docs/architecture.md`
//! ("Contract: hw") lays down.

use std::ffi::CString;
use std::io::Write;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use accel::qtest::{self, LogTarget};
use chardev::ChardevSet;
use hw::commands::MachineHandlers;
use hw::core::{Global, Host, Machine, MachineConfig, qdev};
use hw::migration::Movable;
use mainloop::{MainLoop, Signal};
use memory::{BackendDefaults, Memory, PreallocObserver};
use migration::Migration;
use monitor::{Monitors, TerminalSettings};
use net::NetSet;
use qapi::types::{ObjectOptions, ShutdownCause};
use qapi::visit::Path;
use qapi::{Error, FromValue, Result, Value, json};
use qom::{Input, Registry, Tree, options};
use rustix::mm::MlockAllFlags;

use crate::chars::Chars;
use crate::cli::{CommandLine, Raw, short_form_warnings};
use crate::config::overcommit::MemLock;
use crate::config::{
    accelerator, actions, boot, identity, memory as memory_option, numa, outputs, overcommit, rtc,
    sandbox as denied, smbios, smp,
};
use crate::daemon::{self, PidFile};
use crate::describe::Description;
use crate::expected::Expected;
use crate::help;
use crate::log::{self, Logging};
use crate::progress_line::ProgressLine;
use crate::report::Reporter;
use crate::sandbox;
use crate::states;
use crate::vm::{self, Vm};

/// How long what is still queued for clients may take at the end.
const DRAIN: Duration = Duration::from_millis(500);

/// Runs what the command line asks for and gives the exit status.
///
/// # Errors
/// The first thing that went wrong before the machine ran.
pub(crate) fn run(line: &CommandLine, report: &mut Reporter) -> Result<i32> {
    let name = identity::name(line.name.as_ref())?;
    report.timestamp = line.timestamp;
    report.guest_name = name.guest.clone().filter(|_| line.msg_guest_name);
    line.warnings.iter().for_each(|w| report.line(w));
    if let Some((text, status)) = help::requested(line, report)? {
        // A reader that has gone (`pliant -help | head`) is nobody's mistake.
        let _ = std::io::stdout().write_all(text.as_bytes());
        return Ok(status);
    }
    outputs::check_display(line)?;
    outputs::check_audio(line)?;
    let denied = denied::parse(&line.sandbox)?;
    // A mistake in it is found before anything is opened.
    overcommit::parse(&line.overcommit)?;
    log::init(line, report)?;
    if let Some(raw) = &line.dump_vmstate {
        return states::dump(raw, machine_config(line, None)?, &accelerator::specs(line)?);
    }
    let daemon = line.daemonize.then(daemon::daemonize).transpose()?;
    name.process.as_deref().map(name_process).transpose()?;

    let failed = |e: std::io::Error| Error::generic(format!("cannot start the main loop: {e}"));
    let mut main = MainLoop::new().map_err(failed)?;
    // Before any other thread: threads inherit that these signals are blocked.
    let ending: Arc<OnceLock<Weak<Machine>>> = Arc::default();
    let signals = watch_signals(&main, &ending, report).map_err(failed)?;
    let chardevs = Arc::new(ChardevSet::new(main.handle()));
    if line.daemonize {
        chardevs.set_daemonized();
    }
    chardevs.hold_input();
    let _terminal = TerminalGuard(Arc::clone(&chardevs));
    let terminal = TerminalSettings::of(|name| std::env::var_os(name));
    let monitors = Monitors::new(main.handle(), vm::version(), terminal.clone());
    let prepared = Prepared { name: name.guest, denied, daemon };
    let console = Console { chardevs: &chardevs, monitors: &monitors, terminal: &terminal };
    let running = match bring_up(line, prepared, report, &mut main, &console, &ending) {
        Ok(running) => running,
        Err(error) => {
            // While monitors are still connected: who sees them hang up reads why, and finds it.
            report.error(&error);
            Expected::in_line(line).wait(Some(&chardevs));
            return Ok(1);
        }
    };
    let code = main.run();

    running.migration.shut_down();
    running.machine.shut_down();
    chardevs.drain(&mut main, DRAIN);
    drop((signals, running.qtest_server));
    monitors.close();
    drop(running.pid_file);
    trace::log::finish();
    Ok(code)
}

/// What talks to people and clients; it is there before the machine, and outlives it.
struct Console<'c> {
    chardevs: &'c Arc<ChardevSet>,
    monitors: &'c Monitors,
    terminal: &'c TerminalSettings,
}

/// What was made of the command line before there was anything else.
struct Prepared {
    name: Option<String>,
    denied: Option<denied::Denied>,
    daemon: Option<daemon::Daemon>,
}

/// A machine that only waits for the main loop.
struct Running {
    machine: Arc<Machine>,
    migration: Arc<Migration>,
    qtest_server: Option<qtest::Server>,
    pid_file: Option<PidFile>,
}

/// From monitors to a machine that runs, or waits for a monitor.
fn bring_up(
    line: &CommandLine,
    Prepared { name, denied, daemon }: Prepared,
    report: &Reporter,
    main: &mut MainLoop,
    &Console { chardevs, monitors, terminal }: &Console<'_>,
    ending: &OnceLock<Weak<Machine>>,
) -> Result<Running> {
    check_objects(line)?;
    let chars = Chars { set: chardevs, report };
    crate::fdsets::add(&line.add_fds, chardevs.fds(), report)?;
    // Before anything is opened: whoever is started twice does not take the first one's sockets away.
    let pid_file = line.pidfile.as_deref().map(PidFile::create).transpose()?;
    chars.chardevs(&line.chardevs)?;
    let mut progress = ProgressLine::on_stderr(terminal).filter(|_| !line.daemonize);
    chars.monitors(&line.monitors, monitors)?;
    let serials = chars.serials(line, monitors)?;
    greet(main)?;

    let memory = Memory::new();
    if let Some(progress) = &mut progress {
        let monitors = monitors.clone();
        progress.afterwards(move || monitors.redraw());
    }
    memory.set_prealloc_observer(progress.map(|line| Arc::new(line) as Arc<dyn PreallocObserver>));
    let machine = build(line, name, report, main, chardevs, monitors, &memory)?;
    if line.incoming.is_some() {
        // Before there are devices: what is in shared memory may be what is to arrive.
        machine.expect_incoming();
    }
    ending.get_or_init(|| Arc::downgrade(&machine));
    greet(main)?;
    for raw in &line.fw_cfg {
        report
            .at(&raw.prefix(), || crate::fw_cfg::add(raw, &machine))
            .map_err(|e| e.prefixed(&raw.prefix()))?;
    }
    if machine.kind().has_serial_ports() {
        for chardev in serials.into_iter().flatten() {
            machine.add_serial(chardev.label())?;
        }
    }
    devices(line, report, &machine)?;
    for lonely in machine.net().lonely() {
        report.line(&format!("warning: {lonely}"));
    }
    machine.finish()?;
    for global in machine.globals().of_no_class(&machine.tree().registry()) {
        report.line(&format!("warning: global {global} has invalid class name"));
    }
    let movable = Arc::new(Movable::new(Arc::clone(&machine)));
    let migration = Arc::new(Migration::new(movable, Arc::clone(chardevs)));
    monitors.set_backend(Arc::new(Vm {
        migration: Arc::clone(&migration),
        tree: Arc::clone(machine.tree()),
        command_line: Description(Arc::clone(machine.tree())),
        machine: MachineHandlers::new(Arc::clone(&machine)),
        chardevs: Arc::clone(chardevs),
        net: Arc::clone(machine.net()),
        logging: Logging(log::events()),
    }));
    let qtest_server = qtest_server(line, &machine, &chars)?;
    {
        // The machine holds the devices.
        let machine = Arc::downgrade(&machine);
        chardevs.set_exit_handler(move || {
            if let Some(machine) = machine.upgrade() {
                machine.quit();
            }
        });
    }
    // Nothing privileged is left to do. What arrives from elsewhere is read behind it.
    denied.as_ref().map(sandbox::install).transpose()?;
    if let Some(raw) = &line.incoming {
        machine.get_ready_to_arrive();
        migration.expect(&raw.text).map_err(|e| e.prefixed(&raw.prefix()))?;
    }
    if let Some(daemon) = daemon {
        daemon.ready()?;
    }
    // Later the terminal is the console's.
    memory.set_prealloc_observer(None);
    drop(memory);
    if !line.stopped {
        machine.start();
    }
    chardevs.release_input();
    Ok(Running { machine, migration, qtest_server, pid_file })
}

/// Gives the process the name that `ps` shows; the kernel keeps the first 15 bytes.
fn name_process(name: &str) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| Error::generic(format!("cannot name the process: {e}"));
    let name = CString::new(name).map_err(|e| failed(&e))?;
    rustix::thread::set_name(&name).map_err(|e| failed(&e))
}

/// Lets the loop greet whoever has connected. Clients that come while the machine is being built need not wait for the
/// end of that; what they send is read later.
fn greet(main: &mut MainLoop) -> Result<()> {
    main.turn(Some(Duration::ZERO)).map_err(|e| Error::generic(format!("the main loop failed: {e}")))
}

/// Gives the terminal back, and takes the paths of listening sockets away, however the program ends.
struct TerminalGuard(Arc<ChardevSet>);

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        self.0.shut_down();
    }
}

/// Steps 1 to 6 of the start-up order: classes, accelerator, machine, objects, NUMA, board.
fn build(
    line: &CommandLine,
    name: Option<String>,
    report: &Reporter,
    main: &MainLoop,
    chardevs: &Arc<ChardevSet>,
    monitors: &Monitors,
    memory: &Arc<Memory>,
) -> Result<Arc<Machine>> {
    let mut config = machine_config(line, name)?;
    let opened = accel::open(&accelerator::specs(line)?).map_err(|mut messages| {
        let last = messages.pop().unwrap_or_default();
        messages.iter().for_each(|m| report.line(m));
        Error::generic(last)
    })?;
    opened.messages.iter().for_each(|m| report.line(m));
    let mut registry = Registry::new();
    register_all(&mut registry, memory, opened.accel.name() != "kvm");
    let tree = Arc::new(Tree::new(registry));
    chardevs.set_tree(&tree);
    let (accel, prefix) = (Arc::clone(&opened.accel), opened.prefix);
    let qtest = accel.name() == "qtest";
    if qtest {
        main.handle().virtual_clock().set_manual();
    }
    config.boot_guest = !qtest;
    let host = Host {
        tree,
        memory: Arc::clone(memory),
        accel: opened.accel,
        mainloop: main.handle(),
        chardevs: Arc::clone(chardevs),
        net: NetSet::new(main.handle(), Arc::clone(chardevs.fds())),
        events: Arc::new(monitors.event_sink()),
    };
    let machine = Machine::new(config, host)?;
    let mut warn = |text: &str| report.line(&format!("{prefix}warning: {text}"));
    accel
        .check_cpus(machine.smp().cpus, machine.smp().maxcpus, &mut warn)
        .map_err(|e| e.prefixed(&prefix))?;
    // Tests of old types would drown in it.
    if let Some(warning) = machine.kind().deprecation_warning().filter(|_| !qtest) {
        report.line(&format!("warning: {warning}"));
    }
    for raw in &line.globals {
        machine.globals().add_user(global(raw, report)?);
    }
    memory.set_backend_defaults(BackendDefaults {
        merge: machine.properties().mem_merge(),
        dump: machine.properties().dump_guest_core(),
        prealloc: line.mem_prealloc,
        prealloc_threads: machine.smp().cpus,
    });
    objects(line, machine.tree())?;
    for raw in &line.netdevs {
        let add = || machine.net().add_text(&raw.text);
        report.at(&raw.prefix(), add).map_err(|e| e.prefixed(&raw.prefix()))?;
    }
    for raw in &line.numa {
        let at = |e: Error| e.prefixed(&raw.prefix());
        match numa::parse(raw).map_err(at)? {
            numa::Numa::Node(node) => {
                report.at(&raw.prefix(), || machine.add_numa_node(node)).map_err(at)?;
            }
            numa::Numa::Distance { src, dst, val } => {
                machine.add_numa_distance(src, dst, val).map_err(at)?;
            }
            numa::Numa::Cpus(cpus) => machine.add_numa_cpus(&cpus).map_err(at)?,
            numa::Numa::HmatLb(lb) => machine.add_hmat_lb(&lb).map_err(at)?,
            numa::Numa::HmatCache(cache) => machine.add_hmat_cache(&cache).map_err(at)?,
        }
    }
    if let Some(lock) = overcommit::parse(&line.overcommit)? {
        lock_memory(lock)?;
        let locked = hw::mem::MemoryDevices::of(&machine).set_memory_locked(memory);
        locked.map_err(|busy| Error::generic(format!("Cannot set discarding of RAM broken: {busy}")))?;
    }
    machine.init()?;
    Ok(machine)
}

/// Every class there is; `software`: without KVM.
pub(crate) fn register_all(registry: &mut Registry, memory: &Arc<Memory>, software: bool) {
    Tree::register(registry);
    accel::register(registry, software);
    memory::register(registry, memory);
    chardev::register(registry);
    hw::register(registry);
}

/// What the options say; whether a guest is booted depends on the accelerator, which is not open yet.
fn machine_config(line: &CommandLine, name: Option<String>) -> Result<MachineConfig> {
    let own = |k: &str| matches!(k, "type" | "accel") || accelerator::is_irqchip(k);
    let smbios = smbios::parse(&line.smbios)?;
    let uuid = line.uuid.as_ref().map(identity::uuid).transpose()?;
    // Whichever option came last.
    let uuid = match smbios.uuid {
        Some((at, other)) if uuid.is_none() || at >= line.uuid_at => Some(other),
        _ => uuid,
    };
    Ok(MachineConfig {
        machine: options::value(&line.machine, "type").map(str::to_owned),
        // None of the properties has members: a dotted key names one that is not there.
        options: line.machine.iter().filter(|(k, _)| !own(k)).map(undotted).collect(),
        memory: memory_option::parse(line.memory.as_ref())?,
        smp: smp::parse(&line.smp)?,
        cpu: line.cpu.as_deref().map(accel::CpuModel::parse).transpose()?,
        name,
        uuid,
        rtc: rtc::parse(&line.rtc)?,
        boot: boot::parse(&line.boot)?,
        smbios: smbios.config,
        nographic: line.nographic,
        actions: actions::parse(&line.actions)?,
        boot_guest: false,
    })
}

fn undotted((key, value): &(String, String)) -> (String, String) {
    (key.split('.').next().unwrap_or(key).to_owned(), value.clone())
}

/// Locks what the process has and will have.
fn lock_memory(lock: MemLock) -> Result<()> {
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
    let flags = if lock == MemLock::OnFault { all | MlockAllFlags::ONFAULT } else { all };
    rustix::mm::mlockall(flags).map_err(|e| Error::generic(format!("mlock failed: {e}")))
}

/// `-global DRIVER.PROPERTY=VALUE` or `driver=..,property=..,value=..`
fn global(raw: &Raw, report: &Reporter) -> Result<Global> {
    if let Some((left, value)) = raw.text.split_once('=')
        && let Some((driver, property)) = left.split_once('.')
        && !left.contains(',')
    {
        if driver.is_empty() || property.is_empty() {
            return Err(options::invalid_parameter(left).prefixed(&raw.prefix()));
        }
        let (driver, property) = (driver.to_owned(), property.to_owned());
        return Ok(Global { driver, property, value: value.to_owned() });
    }
    let parsed = options::options(&raw.text, None);
    short_form_warnings(raw, &parsed).iter().for_each(|w| report.line(w));
    let at = |e: Error| e.prefixed(&raw.prefix());
    parsed.only(&["driver", "property", "value"]).map_err(at)?;
    let get = |key: &str| {
        let missing = || at(Error::generic("options 'driver', 'property', and 'value' are required"));
        parsed.get(key).map(str::to_owned).ok_or_else(missing)
    };
    Ok(Global { driver: get("driver")?, property: get("property")?, value: get("value")? })
}

/// Whether each `-object` in JSON is one that there is. As in QEMU that comes before character devices, which may name one.
fn check_objects(line: &CommandLine) -> Result<()> {
    for raw in line.objects.iter().filter(|raw| raw.is_json()) {
        let value = json::parse(&raw.text);
        let checked = value.and_then(|value| ObjectOptions::from_value(value, &Path::ROOT));
        checked.map_err(|e| e.prefixed(&raw.prefix()))?;
    }
    Ok(())
}

/// Every `-object`.
fn objects(line: &CommandLine, tree: &Tree) -> Result<()> {
    for raw in &line.objects {
        let at = |e: Error| e.prefixed(&raw.prefix());
        if !raw.is_json()
            && let Some(id) = raw.options("qom-type").get("id")
        {
            // Before anything else, as it is the list's and not the object's.
            qom::valid_id(id).map_err(at)?;
        }
        let arguments = if raw.is_json() {
            match json::parse(&raw.text).map_err(at)? {
                Value::Dict(dict) => tree.check_object(dict).map_err(at)?,
                _ => return Err(at(Error::generic("Invalid parameter type for 'object', expected: object"))),
            }
        } else {
            let parsed = options::keyval(&raw.text, Some("qom-type")).map_err(at)?;
            tree.object_from_text(&parsed.pairs).map_err(at)?
        };
        let id = arguments.get("id").and_then(Value::as_str).unwrap_or_default();
        if tree.absolute(&format!("/objects/{id}")).is_some() {
            return Err(at(Error::generic(format!("Duplicate ID '{id}' for object"))));
        }
        qom::valid_id(id).map_err(at)?;
        tree.add_object(arguments)?;
    }
    Ok(())
}

/// Every `-device`.
fn devices(line: &CommandLine, report: &Reporter, machine: &Arc<Machine>) -> Result<()> {
    let mut ids: Vec<String> = Vec::new();
    for raw in &line.devices {
        let at = |e: Error| e.prefixed(&raw.prefix());
        let add = |list: &qdev::Options<'_>| {
            report.at(&raw.prefix(), || qdev::device_add(machine, list)).map_err(at)
        };
        if raw.is_json() {
            let Value::Dict(dict) = json::parse(&raw.text).map_err(at)? else {
                return Err(at(Error::generic("Invalid parameter type for 'device', expected: object")));
            };
            add(&qdev::json_options(&dict))?;
            continue;
        }
        let parsed = raw.options("driver");
        short_form_warnings(raw, &parsed).iter().for_each(|w| report.line(w));
        if let Some(id) = parsed.get("id") {
            if ids.iter().any(|i| i == id) {
                return Err(at(Error::generic(format!("Duplicate ID '{id}' for device"))));
            }
            ids.push(id.to_owned());
        }
        let list: Vec<(&str, Input<'_>)> =
            parsed.pairs.iter().map(|(k, v)| (k.as_str(), Input::Option(v))).collect();
        add(&list)?;
    }
    Ok(())
}

/// `-qtest`: the protocol server.
fn qtest_server(
    line: &CommandLine,
    machine: &Arc<Machine>,
    chars: &Chars<'_>,
) -> Result<Option<qtest::Server>> {
    let Some(text) = &line.qtest else { return Ok(None) };
    let chardev = chars.qtest(text)?;
    let log = qtest::Log::open(LogTarget::of_option(line.qtest_log.as_deref()))
        .map_err(|e| Error::generic(format!("cannot open the qtest log: {e}")))?;
    let target = qtest::Target {
        system: Arc::clone(machine.system_space()),
        io: Arc::clone(machine.io_space()),
        clock: machine.mainloop().virtual_clock(),
        chip: machine.accel().user_chip().cloned(),
        is_gsis: Box::new(|path, _| path == "ioapic" || path.ends_with("/ioapic")),
    };
    qtest::Server::start(&chardev, log, target).map(Some)
}

/// The signals that end the program in an orderly way.
fn watch_signals(
    main: &MainLoop,
    machine: &Arc<OnceLock<Weak<Machine>>>,
    report: &Reporter,
) -> std::io::Result<mainloop::SignalWatch> {
    let (handle, machine, report) = (main.handle(), Arc::clone(machine), report.clone());
    main.handle().watch_signals(&[Signal::INT, Signal::TERM, Signal::HUP], move |info| {
        report.line(&format!("terminating on signal {}{}", info.signo, sender(info.pid)));
        match machine.get().and_then(Weak::upgrade) {
            Some(machine) => machine.request_shutdown(ShutdownCause::HostSignal),
            None => handle.quit(0),
        }
    })
}

/// ` from pid N (name)` for a signal that a process sent.
fn sender(pid: u32) -> String {
    if pid == 0 {
        return String::new();
    }
    let name = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let name = name.split('\0').next().filter(|n| !n.is_empty()).unwrap_or("<unknown process>");
    format!(" from pid {pid} ({name})")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What completion offers is what there is to choose from, for each enumeration of each class.
    #[test]
    fn every_property_that_is_an_enumeration_names_its_values() {
        let memory = Memory::new();
        let mut registry = Registry::new();
        register_all(&mut registry, &memory, false);
        let mut seen = 0;
        for class in registry.iter() {
            for property in class.properties() {
                // Names of enumerations and of structures begin with a capital; there is no structure that can be set.
                let is_enum = property.type_name().starts_with(char::is_uppercase) && property.is_writable();
                let names = property.value_names();
                assert_eq!(is_enum, !names.is_empty(), "{}.{}", class.name(), property.name());
                if let Some(default) = property.default_value().and_then(Value::as_str).filter(|_| is_enum) {
                    assert!(names.contains(&default), "{}.{}", class.name(), property.name());
                }
                seen += usize::from(is_enum);
            }
        }
        assert!(seen > 5);
    }
}
