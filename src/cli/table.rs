//! Which options exist, whether they take an argument, and one line about each.

/// Whether an option takes an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arg {
    None,
    Required,
}

/// One option.
pub(crate) struct OptionInfo {
    /// Canonical spelling with its dash.
    pub(crate) name: &'static str,
    /// Other spellings, without the dash.
    aliases: &'static [&'static str],
    pub(crate) arg: Arg,
    /// How the argument looks.
    shape: &'static str,
    help: &'static str,
}

const fn flag(name: &'static str, aliases: &'static [&'static str], help: &'static str) -> OptionInfo {
    OptionInfo { name, aliases, arg: Arg::None, shape: "", help }
}

const fn with(
    name: &'static str,
    aliases: &'static [&'static str],
    shape: &'static str,
    help: &'static str,
) -> OptionInfo {
    OptionInfo { name, aliases, arg: Arg::Required, shape, help }
}

/// Every option, in the order `-help` shows them.
pub(crate) const OPTIONS: &[OptionInfo] = &[
    flag("-h", &["help"], "print this list"),
    flag("-version", &[], "print the version"),
    with("-machine", &["M"], "[type=]NAME[,PROP=VALUE...]", "which board; 'help' lists them"),
    with("-accel", &[], "NAME[,PROP=VALUE...]", "what runs the vCPUs: kvm, sim or qtest; 'help' lists them"),
    with("-cpu", &[], "MODEL[,FEATURE...]", "CPU model; 'help' lists them"),
    with(
        "-smp",
        &[],
        "[cpus=]N[,sockets=..][,dies=..][,cores=..][,threads=..][,maxcpus=..]",
        "vCPUs and their topology",
    ),
    with("-m", &[], "[size=]SIZE[,slots=N,maxmem=SIZE]", "RAM (MiB without a suffix) and room to grow"),
    with(
        "-numa",
        &[],
        "node[,nodeid=N][,cpus=A-B][,memdev=ID] | dist,src=A,dst=B,val=N | cpu,node-id=N,socket-id=N...",
        "guest NUMA; nodes without memory share the RAM evenly",
    ),
    with("-object", &[], "TYPE,id=ID[,PROP=VALUE...] | JSON", "a back end; 'help' lists the types"),
    with("-device", &[], "DRIVER[,id=ID][,PROP=VALUE...] | JSON", "a device; 'help' lists the drivers"),
    with("-global", &[], "DRIVER.PROP=VALUE", "a default for all devices of a driver"),
    with("-name", &[], "[guest=]NAME[,process=NAME][,debug-threads=on|off]", "name of the virtual machine"),
    with("-uuid", &[], "UUID", "identity of the virtual machine"),
    with(
        "-smbios",
        &[],
        "type=0|1|2|3|4|11|17[,FIELD=TEXT...]",
        "what the guest reads that firmware, machine, board, chassis, processors and memory are; texts",
    ),
    with(
        "-rtc",
        &[],
        "[base=utc|localtime|DATE][,clock=host|rt|vm][,driftfix=none|slew]",
        "what the real-time clock shows at first, and what it goes by",
    ),
    with(
        "-kernel",
        &[],
        "FILE",
        "a Linux kernel to boot: bzImage or 64-bit ELF; without it, the built-in guest",
    ),
    with("-initrd", &[], "FILE", "its initial RAM disk"),
    with("-append", &[], "TEXT", "its command line, or that of the built-in guest: touch=none|page|all"),
    with("-dtb", &[], "FILE", "refused: there are no device trees"),
    with("-bios", &[], "FILE", "refused: there is no firmware"),
    with(
        "-boot",
        &[],
        "[order=]DRIVES[,once=DRIVES][,menu=on|off][,strict=on|off][,reboot-timeout=MS][,splash-time=MS]",
        "what firmware would boot from, for a guest to read",
    ),
    with(
        "-fw_cfg",
        &[],
        "[name=]NAME,file=FILE | [name=]NAME,string=TEXT",
        "a file in the firmware configuration device, for the guest to read; names begin with opt/",
    ),
    flag("-S", &[], "do not start the vCPUs until 'cont'"),
    flag("-no-reboot", &[], "exit where the guest would reboot"),
    flag("-no-shutdown", &[], "stop where the guest would power off"),
    with(
        "-action",
        &[],
        "reboot=reset|shutdown,shutdown=poweroff|pause,panic=ACTION,watchdog=ACTION",
        "what a reset, a power-off, a panic and an expired watchdog do",
    ),
    with("-watchdog-action", &[], "ACTION", "-action watchdog=ACTION"),
    with(
        "-overcommit",
        &[],
        "[mem-lock=on|off|on-fault][,cpu-pm=off]",
        "lock the memory of the process: all of it at once, or what is used",
    ),
    with(
        "-sandbox",
        &[],
        "on|off[,obsolete=allow|deny][,elevateprivileges=allow|deny|children][,spawn=allow|deny][,resourcecontrol=allow|deny]",
        "which system calls the program does without from when the machine is there",
    ),
    with(
        "-incoming",
        &[],
        "tcp:HOST:PORT | unix:PATH | fd:FD | exec:COMMAND | file:PATH[,offset=N] | defer",
        "wait for a machine that is moved here, or read one from a file",
    ),
    flag("-mem-prealloc", &[], "allocate the memory of all back ends at the start"),
    flag("-nodefaults", &[], "no default serial port and monitor"),
    flag("-no-user-config", &[], "accepted; there are no configuration files"),
    with("-display", &[], "none", "no display"),
    with("-audio", &[], "none", "no sound"),
    with("-audiodev", &[], "[driver=]none,id=ID | JSON", "no sound, by a name"),
    flag("-nographic", &[], "no display; serial port and monitor on the terminal"),
    with("-chardev", &[], "BACKEND,id=ID[,PROP=VALUE...]", "a character device; 'help' lists the back ends"),
    with(
        "-netdev",
        &[],
        "tap,id=ID,fd=FD | tap,id=ID[,ifname=NAME],script=no,downscript=no | dgram,id=ID,local.type=.. | JSON",
        "the host's end of a network device; 'help' lists the kinds",
    ),
    with(
        "-add-fd",
        &[],
        "set=N,fd=N[,opaque=TEXT]",
        "put an inherited descriptor into a set, for /dev/fdset/N",
    ),
    with("-serial", &[], "DEV", "a serial port on a character device"),
    with("-monitor", &[], "DEV", "a console for people"),
    with("-qmp", &[], "DEV", "a QMP monitor"),
    with("-qmp-pretty", &[], "DEV", "a QMP monitor that indents"),
    with("-mon", &[], "[chardev=]ID[,mode=readline|control][,pretty=on|off]", "a monitor on a -chardev"),
    with("-qtest", &[], "DEV", "where the qtest protocol is spoken (with -accel qtest)"),
    with("-qtest-log", &[], "FILE", "log of the qtest protocol"),
    flag("-daemonize", &[], "go to the background once started"),
    with("-pidfile", &[], "FILE", "write the process id there"),
    with("-dump-vmstate", &[], "FILE", "write down what a migration takes along, as JSON, and end"),
    with("-d", &[], "ITEM[,ITEM...]", "what the log has besides trace events; 'help' lists the items"),
    with("-D", &[], "FILE", "write the log there instead of stderr; %d is the process id"),
    with(
        "-trace",
        &[],
        "[[enable=]PATTERN][,events=FILE][,file=FILE]",
        "trace events to log; 'help' lists them, '-' before a pattern leaves out",
    ),
    with("-msg", &[], "[timestamp=on|off][,guest-name=on|off]", "how messages begin"),
];

/// What QEMU takes and this program has nothing for: why, and the names without their dash.
const ABSENT: &[(&str, &[&str])] = &[
    (
        "there are no disks but those that vhost-user back ends serve",
        &[
            "blockdev", "cdrom", "drive", "fda", "fdb", "hda", "hdb", "hdc", "hdd", "iscsi", "mtdblock",
            "sd", "snapshot",
        ],
    ),
    ("there is no firmware", &["L", "option-rom", "pflash", "shim"]),
    ("there is no display", &["full-screen", "k", "spice", "vga", "vnc", "win2k-hack"]),
    ("there is no USB", &["usb", "usbdevice"]),
    ("-netdev and -device make a network device", &["net", "nic"]),
    ("no folders are shared with guests", &["fsdev", "virtfs"]),
    ("there is no TPM", &["tpmdev"]),
    ("ACPI tables are the board's own", &["acpitable"]),
    ("there is no parallel port", &["parallel"]),
    ("there is no debug port", &["debugcon"]),
    ("there is no server for debuggers", &["gdb", "s"]),
    ("there are no configuration files", &["readconfig", "set"]),
    ("a saved machine is started with -incoming", &["loadvm"]),
    (
        "there is no translator",
        &["dfilter", "enable-sync-profile", "icount", "jitdump", "perfmap", "plugin", "semihosting"],
    ),
    ("there is no Xen", &["xen-attach", "xen-domid", "xen-domid-restrict"]),
];

/// Why there is no option spelled `name` (without dash), of those that QEMU has.
pub(crate) fn absent(name: &str) -> Option<&'static str> {
    ABSENT.iter().find(|(_, names)| names.contains(&name)).map(|(why, _)| *why)
}

/// Whether QEMU takes `none` for its value, which asks for what there is.
pub(crate) fn can_be_none(name: &str) -> bool {
    ["gdb", "net", "nic", "parallel", "vga", "vnc"].contains(&name)
}

/// The option spelled `name` (without dash).
pub(crate) fn lookup(name: &str) -> Option<&'static OptionInfo> {
    OPTIONS.iter().find(|o| o.name.strip_prefix('-') == Some(name) || o.aliases.contains(&name))
}

/// The text of `-help`.
pub(crate) fn usage(program: &str) -> String {
    let mut out = format!("usage: {program} [options]\n\n");
    for o in OPTIONS {
        let mut head = o.name.to_owned();
        for alias in o.aliases {
            head.push_str(&format!("|-{alias}"));
        }
        if !o.shape.is_empty() {
            head.push(' ');
            head.push_str(o.shape);
        }
        out.push_str(&format!("{head}\n        {}\n", o.help));
    }
    out.push_str(
        "\nNames and numbers are QEMU's; a size takes a suffix k, M, G, T, P or E.\n\
         A comma inside a value is written twice. Options may come in any order.\n",
    );
    out
}
