//! Interrupt controllers, and interrupts that a person sends.

use qapi::{Dict, Result};

use super::args::{Args, Kind};
use super::command::{Command, command};
use super::machine::human;
use super::{Execute, plain, text, with_cpu};

/// Commands of this room.
pub(super) const COMMANDS: &[Command] =
    &[command("nmi", &[], "", "inject an NMI", &[], |x, _| x.query("inject-nmi").map(|_| String::new()))];

/// Its `info` sub-commands.
pub(super) const INFOS: &[Command] = &[
    command("irq", &[], "", "show the interrupts statistics (if available)", &[], |x, _| {
        human(x, "x-query-irq")
    }),
    command(
        "lapic",
        &[("apic-id", Kind::OptionalNumber)],
        "[apic-id]",
        "show local apic state (apic-id: local apic to read, default is which of current CPU)",
        &[],
        lapic,
    ),
    command("pic", &[], "", "show PIC state", &[], |x, _| human(x, "x-query-interrupt-controllers")),
];

fn lapic(x: &dyn Execute, args: &Args) -> Result<String> {
    let arguments = match args.number("apic-id") {
        Some(id) => Dict::new().with("apic-id", id),
        None => with_cpu(Dict::new(), args.cpu()),
    };
    let reply = x.execute("x-pliant-query-lapic", arguments);
    plain(reply.map(|reply| text(&reply, "human-readable-text").to_owned()))
}
