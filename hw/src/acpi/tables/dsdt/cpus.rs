//! Processors: those that are there, with their nodes; and, where there are the registers of CPU hot-plug (`acpi::cpuhp`), a device for
//! each that may be there, whose methods read them with the processor selected.

use super::super::code::{
    Access, Code, Space, all, arg, buffer, call, device, eisa, equal, field, int, less, local, locked,
    method, mutex, named, notify, otherwise, path, reentrant, region, ret, scope, store, text, when,
    while_true,
};
use super::super::facts::{Facts, Processor};
use super::super::fixed;
use crate::acpi::cpuhp;

const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;
const LOCK: &str = "\\_SB_.CPUS.PLCK";
/// The command that selects the next processor with an event.
const NEXT_WITH_EVENT: u8 = 0;
/// Those whose data are what the system answers to an event.
const OST_EVENT: u8 = 1;
const OST_STATUS: u8 = 2;
/// Processors of one method that tells of them: a longer one may be more than a system reads at once.
const GROUP: usize = 64;

/// What of processors the table has.
pub(super) fn processors(facts: &Facts) -> Code {
    match facts.cpu_hotplug {
        Some(base) => pluggable(base, &facts.processors),
        None => {
            let all = facts.processors.iter().enumerate().filter(|(_, processor)| processor.present);
            scope("_SB_", &all.map(|(index, processor)| permanent(index, processor)).collect::<Vec<_>>())
        }
    }
}

fn name(index: usize) -> String {
    format!("C{index:03X}")
}

fn identity(index: usize, processor: &Processor) -> Vec<Code> {
    let mut body = vec![named("_HID", &text("ACPI0007")), named("_UID", &int(index as u64))];
    body.extend(processor.node.map(|node| named("_PXM", &int(node))));
    body
}

/// A processor that is there for good.
fn permanent(index: usize, processor: &Processor) -> Code {
    device(&name(index), &identity(index, processor))
}

fn pluggable(base: u64, processors: &[Processor]) -> Code {
    let mut body = vec![
        named("_HID", &text("ACPI0010")),
        named("_CID", &eisa("PNP0A05")),
        region("PREG", Space::SystemIO, base, cpuhp::REGISTERS),
        field("PREG", Access::Word32, &[("PSEL", 32), ("", 32), ("PDAT", 32)]),
        field(
            "PREG",
            Access::Flags,
            &[("", 32), ("PENA", 1), ("PINS", 1), ("PREM", 1), ("PEJC", 1), ("", 4), ("PCMD", 8)],
        ),
        mutex("PLCK"),
        // The write to the beginning that puts the registers there.
        reentrant("_INI", 0, &[store(&int(0u8), &path("PSEL"))]),
        status(),
        eject(),
        report(),
    ];
    body.extend(tell(processors.len()));
    body.push(scan());
    body.extend(processors.iter().enumerate().map(|(index, processor)| one(index, processor)));
    let event = reentrant("_E02", 0, &[call("\\_SB_.CPUS.PSCN", &[])]);
    all([scope("_SB_", &[device("CPUS", &body)]), scope("\\_GPE", &[event])])
}

/// `steps` with the processor of the first argument selected.
fn selected(steps: &[Code]) -> Code {
    let mut body = vec![store(&arg(0), &path("PSEL"))];
    body.extend_from_slice(steps);
    locked(LOCK, &body)
}

fn status() -> Code {
    let read = selected(&[store(&path("PENA"), &local(0))]);
    method("PSTS", 1, &[read, when(&local(0), &[ret(&int(0x0fu8))]), ret(&int(0u8))])
}

fn eject() -> Code {
    method("PEJE", 1, &[selected(&[store(&int(1u8), &path("PEJC"))])])
}

/// `_OST`: processor, event, status.
fn report() -> Code {
    let say =
        |command: u8, value: u8| [store(&int(command), &path("PCMD")), store(&arg(value), &path("PDAT"))];
    let steps = [say(OST_EVENT, 1), say(OST_STATUS, 2)].concat();
    method("POST", 3, &[selected(&steps)])
}

/// Tells the system of something about a processor: which, what. A method for each group, and one that chooses.
fn tell(count: usize) -> Vec<Code> {
    let group_name = |group: usize| format!("PN{group:02X}");
    let groups = count.div_ceil(GROUP);
    let mut list = Vec::new();
    for group in 0..groups {
        let one =
            |index: usize| when(&equal(&arg(0), &int(index as u64)), &[notify(&path(&name(index)), &arg(1))]);
        let indices = group * GROUP..((group + 1) * GROUP).min(count);
        list.push(method(&group_name(group), 2, &indices.map(one).collect::<Vec<_>>()));
    }
    let choose = |group: usize| {
        let told = [call(&group_name(group), &[arg(0), arg(1)]), ret(&int(0u8))];
        when(&less(&arg(0), &int(((group + 1) * GROUP) as u64)), &told)
    };
    let mut body: Vec<Code> = (0..groups).map(choose).collect();
    body.push(ret(&int(0u8)));
    list.push(method("PNTF", 2, &body));
    list
}

/// Goes from one processor with an event to the next, and takes each event once it is told.
fn scan() -> Code {
    let found = local(0);
    let told = |event: u8, flag: &str| {
        [call("PNTF", &[local(1), int(event)]), store(&int(1u8), &path(flag)), store(&int(1u8), &found)]
    };
    let steps = [
        store(&int(0u8), &found),
        store(&int(NEXT_WITH_EVENT), &path("PCMD")),
        store(&path("PDAT"), &local(1)),
        when(&equal(&path("PINS"), &int(1u8)), &told(DEVICE_CHECK, "PINS")),
        otherwise(&[when(&equal(&path("PREM"), &int(1u8)), &told(EJECT_REQUEST, "PREM"))]),
    ];
    let body = [
        store(&int(0u8), &path("PSEL")),
        store(&int(1u8), &found),
        while_true(&equal(&found, &int(1u8)), &steps),
    ];
    method("PSCN", 0, &[locked(LOCK, &body)])
}

fn one(index: usize, processor: &Processor) -> Code {
    let number = int(index as u64);
    let mut body = identity(index, processor);
    body.extend([
        reentrant("_STA", 0, &[ret(&call("PSTS", std::slice::from_ref(&number)))]),
        // As its entry of the MADT is once it is there.
        named("_MAT", &buffer(&fixed::processor(index, &Processor { present: true, ..*processor }, true))),
        reentrant("_OST", 3, &[call("POST", &[number.clone(), arg(0), arg(1)])]),
    ]);
    if index != 0 {
        body.push(reentrant("_EJ0", 1, &[call("PEJE", &[number])]));
    }
    device(&name(index), &body)
}
