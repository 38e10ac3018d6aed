//! `memsave`, `pmemsave`, and the commands below the console's `x` and `xp`.

use std::fs::File;

use accel::{DescriptorTable, Registers, Segment};
use memory::AddressSpace;
use qapi::commands::InspectCommands;
use qapi::types::{GuestBytes, VcpuRegisters, VcpuSegment, VcpuTable};
use qapi::{Error, Result};

use super::output::{Output, errno_text};
use super::{Linear, Unreadable, physical, read_all};
use crate::commands::MachineHandlers;
use crate::core::Machine;
use crate::i386::paging::Paging;

/// Bytes that one `x-pliant-read-memory` gives at most.
const READ_MAX: u64 = 1 << 20;
/// Bytes that are saved in one go.
const CHUNK: usize = 1 << 16;

impl InspectCommands for MachineHandlers {
    fn memsave(&self, val: i64, size: i64, filename: String, cpu_index: Option<i64>) -> Result<()> {
        let cpu = vcpu(self.machine(), cpu_index)?;
        let paging = paging(self.machine(), cpu);
        let linear = Linear { space: self.machine().system_space(), paging };
        let (addr, size) = (val.cast_unsigned(), size.cast_unsigned());
        save(addr, size, &filename, |at, buf| linear.read(at, buf), |_| None)
    }

    fn pmemsave(&self, val: i64, size: i64, filename: String) -> Result<()> {
        let space: &AddressSpace = self.machine().system_space();
        let (addr, size) = (val.cast_unsigned(), size.cast_unsigned());
        // Physical addresses where nothing is read as zero.
        let zeroes = |why| if let Unreadable::Nothing { len } = why { Some(len) } else { None };
        save(addr, size, &filename, |at, buf| physical::read(space, at, buf), zeroes)
    }

    fn x_pliant_read_memory(
        &self,
        address: u64,
        size: u64,
        physical: Option<bool>,
        cpu_index: Option<i64>,
    ) -> Result<GuestBytes> {
        if size > READ_MAX {
            let text = format!("Parameter 'size' expects a number of at most {READ_MAX}");
            return Err(Error::generic(text));
        }
        let space: &AddressSpace = self.machine().system_space();
        let mut bytes = vec![0; size as usize];
        let (done, _) = if physical == Some(true) {
            read_all(address, &mut bytes, |at, buf| physical::read(space, at, buf))
        } else {
            if cpu_index.is_none() && self.machine().accel().vcpus().is_empty() {
                return Err(Error::generic("Can not dump without CPU"));
            }
            let paging = paging(self.machine(), vcpu(self.machine(), cpu_index)?);
            let linear = Linear { space, paging };
            read_all(address, &mut bytes, |at, buf| linear.read(at, buf))
        };
        Ok(GuestBytes { data: bytes[..done].iter().map(|byte| format!("{byte:02x}")).collect() })
    }

    fn x_pliant_query_registers(&self, cpu_index: Option<i64>) -> Result<VcpuRegisters> {
        let cpu = vcpu(self.machine(), cpu_index)?;
        let none = || Error::generic(format!("CPU {cpu} has no registers that could be shown"));
        Ok(registers(&self.machine().accel().registers(cpu).ok_or_else(none)?))
    }
}

/// The vCPU that is meant, the first by default.
fn vcpu(machine: &Machine, index: Option<i64>) -> Result<u32> {
    let count = machine.accel().vcpus().len();
    let index = usize::try_from(index.unwrap_or(0)).ok().filter(|index| *index < count);
    index
        .and_then(|index| u32::try_from(index).ok())
        .ok_or_else(|| Error::generic("Parameter 'cpu-index' expects a CPU number"))
}

/// How a vCPU translates addresses; one without registers does not.
fn paging(machine: &Machine, cpu: u32) -> Paging {
    machine.accel().registers(cpu).map_or(Paging::OFF, |registers| Paging::of(&registers))
}

/// Writes `size` bytes from `addr` on to a file; `zeroes` says how many zeroes stand for bytes that cannot be read.
fn save(
    addr: u64,
    size: u64,
    filename: &str,
    read: impl Fn(u64, &mut [u8]) -> std::result::Result<usize, Unreadable>,
    zeroes: impl Fn(Unreadable) -> Option<u64>,
) -> Result<()> {
    let file = File::create(filename)
        .map_err(|error| Error::generic(format!("Could not open '{filename}': {}", errno_text(&error))))?;
    let mut output = Output::new(file);
    let write_failed = |_| Error::generic(format!("writing memory to '{filename}' failed"));
    let mut buf = vec![0; CHUNK];
    let mut done = 0;
    while done < size {
        // Addresses go round, as in QEMU.
        let at = addr.wrapping_add(done);
        let room = (size - done).min((u64::MAX - at).saturating_add(1));
        let part = CHUNK.min(usize::try_from(room).unwrap_or(CHUNK));
        let (count, why) = read_all(at, &mut buf[..part], &read);
        output.write_sparse(&buf[..count]).map_err(write_failed)?;
        done += count as u64;
        match why.map(|why| (why, zeroes(why))) {
            None => {}
            Some((_, Some(len))) => {
                let len = len.min(size - done);
                output.zeroes(len).map_err(write_failed)?;
                done += len;
            }
            Some((Unreadable::Unplugged, _)) => {
                let at = at.wrapping_add(count as u64);
                return Err(Error::generic(format!("Memory at 0x{at:016x} is not plugged")));
            }
            Some(_) => {
                return Err(Error::generic(format!("Invalid addr 0x{addr:016x}/size {size} specified")));
            }
        }
    }
    output.finish().map_err(write_failed)
}

fn registers(r: &Registers) -> VcpuRegisters {
    let [r8, r9, r10, r11, r12, r13, r14, r15] = r.r;
    VcpuRegisters {
        rax: r.rax,
        rbx: r.rbx,
        rcx: r.rcx,
        rdx: r.rdx,
        rsi: r.rsi,
        rdi: r.rdi,
        rsp: r.rsp,
        rbp: r.rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: r.rip,
        rflags: r.rflags,
        cs: segment(&r.cs),
        ds: segment(&r.ds),
        es: segment(&r.es),
        fs: segment(&r.fs),
        gs: segment(&r.gs),
        ss: segment(&r.ss),
        ldt: segment(&r.ldt),
        tr: segment(&r.tr),
        gdt: table(&r.gdt),
        idt: table(&r.idt),
        cr0: r.cr0,
        cr2: r.cr2,
        cr3: r.cr3,
        cr4: r.cr4,
        efer: r.efer,
    }
}

fn segment(segment: &Segment) -> VcpuSegment {
    let Segment { selector, base, limit, flags } = *segment;
    VcpuSegment { selector, base, limit, flags }
}

fn table(table: &DescriptorTable) -> VcpuTable {
    VcpuTable { base: table.base, limit: table.limit }
}

#[cfg(test)]
mod tests;
