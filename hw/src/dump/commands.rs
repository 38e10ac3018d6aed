//! The commands around dumps.

use std::fs::File;
use std::sync::Arc;

use chardev::fds::{Claim, HostFile};
use qapi::commands::DumpCommands;
use qapi::types::{DumpGuestMemoryCapability, DumpGuestMemoryFormat, DumpQueryResult};
use qapi::{Enum, Error, Result, strerror};

use rustix::fs::{Mode, OFlags};
use vm_memory::{Bytes, GuestAddress};

use super::plan::Plan;
use super::{Dumps, Progress, busy, notes, write};
use crate::commands::MachineHandlers;
use crate::core::Machine;
use crate::isa::vmcoreinfo;

/// No kernel has more to say.
const GUEST_NOTE_MAX: usize = 1 << 20;
/// Memory of a guest is for its owner alone.
const MODE: Mode = Mode::RUSR;

impl DumpCommands for MachineHandlers {
    fn dump_guest_memory(
        &self,
        paging: bool,
        protocol: String,
        detach: Option<bool>,
        begin: Option<i64>,
        length: Option<i64>,
        format: Option<DumpGuestMemoryFormat>,
    ) -> Result<()> {
        let machine = self.machine();
        if machine.is_incoming() {
            return Err(Error::generic("Dump not allowed during incoming migration."));
        }
        let dumps = Dumps::of(machine);
        if dumps.in_progress() {
            return Err(busy());
        }
        let format = format.unwrap_or(DumpGuestMemoryFormat::Elf);
        if format != DumpGuestMemoryFormat::Elf && (paging || begin.is_some() || length.is_some()) {
            return Err(Error::generic("kdump-compressed format doesn't support paging or filter"));
        }
        let missing = |name: &str| Err(Error::generic(format!("Parameter '{name}' is missing")));
        let filter = match (begin, length) {
            (None, None) => None,
            (Some(_), None) => return missing("length"),
            (None, Some(_)) => return missing("begin"),
            (Some(begin), Some(length)) => Some((begin.cast_unsigned(), length.cast_unsigned())),
        };
        if format != DumpGuestMemoryFormat::Elf {
            return Err(Error::generic(format!("{} is not available now", format.as_str())));
        }
        let HostFile { fd, claim } = open(machine, &protocol)?;
        let file = File::from(fd);
        dumps.begin(machine);
        let plan = match plan(machine, paging, filter) {
            Ok(plan) => plan,
            Err(error) => {
                let result = Err(error);
                dumps.end(machine, &result);
                return result;
            }
        };
        let progress = dumps.set_total(plan.total());
        let thread = if detach == Some(true) {
            detached(machine, (plan, file, progress), claim)
        } else {
            Err((plan, file, progress))
        };
        let Err((plan, file, progress)) = thread else { return Ok(()) };
        let result = write::write(&plan, file, &progress);
        dumps.end(machine, &result);
        result
    }

    fn query_dump(&self) -> Result<DumpQueryResult> {
        Ok(Dumps::of(self.machine()).query())
    }

    fn query_dump_guest_memory_capability(&self) -> Result<DumpGuestMemoryCapability> {
        Ok(DumpGuestMemoryCapability { formats: vec![DumpGuestMemoryFormat::Elf] })
    }
}

/// The file that `protocol` names.
fn open(machine: &Machine, protocol: &str) -> Result<HostFile> {
    let fds = machine.chardevs().fds();
    if let Some(path) = protocol.strip_prefix("file:") {
        let file = fds.sets().open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, MODE);
        return file.map_err(|e| e.or_else(|reason| format!("Could not create '{path}': {reason}")));
    }
    if let Some(name) = protocol.strip_prefix("fd:") {
        return fds.take(name).map(|fd| HostFile { fd, claim: None });
    }
    Err(Error::generic("parameter 'protocol' must start with 'file:' or 'fd:'"))
}

/// Looks at the machine, which is stopped.
fn plan(machine: &Machine, paging: bool, filter: Option<(u64, u64)>) -> Result<Plan> {
    if filter.is_some_and(|(_, length)| length == 0) {
        return Err(Error::generic("parameter 'length' expects a non-zero size"));
    }
    let filter = filter.map(|(begin, length)| begin..begin.saturating_add(length));
    let accel = machine.accel();
    let vcpus = accel.vcpus().iter().filter_map(|vcpu| accel.registers(vcpu.index)).collect();
    let mut plan = Plan::new(&machine.system_space().view(), vcpus, paging, filter);
    if plan.total() == 0 {
        return Err(Error::generic("dump: no guest memory to dump"));
    }
    if let Some(place) = vmcoreinfo::place(machine) {
        match guest_note(machine, place) {
            Some(note) => plan.guest_note = note,
            None => tracing::warn!("the guest's vmcoreinfo makes no sense: {place:x?}"),
        }
    }
    Ok(plan)
}

/// The note that the guest has at `place`, if it is one.
fn guest_note(machine: &Machine, place: vmcoreinfo::Place) -> Option<Vec<u8>> {
    let size = usize::try_from(place.size).ok().filter(|size| *size <= GUEST_NOTE_MAX)?;
    if place.format != vmcoreinfo::ELF {
        return None;
    }
    let mut bytes = vec![0; size];
    let at = GuestAddress(place.address);
    machine.system_space().view().guest_memory().read_slice(&mut bytes, at).ok()?;
    bytes.truncate(notes::length(&bytes)?);
    Some(bytes)
}

type Work = (Plan, File, Arc<Progress>);

/// Writes on a thread, which does not keep the machine alive. Gives the work back if the host has no thread left.
fn detached(machine: &Arc<Machine>, work: Work, claim: Option<Claim>) -> std::result::Result<(), Work> {
    let mainloop = machine.mainloop().clone();
    let machine = Arc::downgrade(machine);
    // Through a channel, so that the work is not lost with a thread that never started.
    let (sender, receiver) = std::sync::mpsc::channel::<Work>();
    let write = move || {
        // The set that the file is from stays until it is written.
        let _claim = claim;
        let Ok((plan, file, progress)) = receiver.recv() else { return };
        let result = write::write(&plan, file, &progress);
        drop(plan);
        mainloop.post(move || {
            if let Some(machine) = machine.upgrade() {
                Dumps::of(&machine).end(&machine, &result);
            }
        });
    };
    match std::thread::Builder::new().name("dump_thread".to_owned()).spawn(write) {
        Ok(_) => sender.send(work).map_err(|error| error.0),
        Err(error) => {
            tracing::warn!("no thread for the dump, it is written at once: {}", strerror(&error));
            Err(work)
        }
    }
}

#[cfg(test)]
mod tests;
