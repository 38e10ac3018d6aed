//! `memsave`, `pmemsave`, `inject-nmi`, and the commands below the console's `x`, `xp`, `sum`, `i`, `o`, `gva2gpa`, `gpa2hva` and
//! `info` of registers, page tables and interrupt controllers.

use std::fs::File;

use accel::{Registers, UserIrqChip};
use memory::AddressSpace;
use qapi::commands::InspectCommands;
use qapi::types::{
    GuestAddress, GuestBytes, GuestSum, HostAddress, HumanReadableText, PortValue, VcpuRegisters,
};
use qapi::{Error, Result, strerror};

use super::output::Output;
use super::registers::registers;
use super::roms::Roms;
use super::{Linear, Unreadable, chips, physical, read_all, tables};
use crate::commands::MachineHandlers;
use crate::core::Machine;
use crate::i386::paging::Paging;

/// Bytes that one `x-pliant-read-memory` gives at most.
const READ_MAX: u64 = 1 << 20;
/// Bytes that one `x-pliant-sum-memory` looks at.
const SUM_MAX: u64 = 1 << 32;
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
        Ok(registers(&registers_of(self.machine(), cpu_index)?))
    }

    fn x_pliant_translate_address(&self, address: u64, cpu_index: Option<i64>) -> Result<GuestAddress> {
        let cpu = vcpu(self.machine(), cpu_index)?;
        let space: &AddressSpace = self.machine().system_space();
        let mut read = |addr: u64, buf: &mut [u8]| physical::read_ram(space, addr, buf);
        let found = paging(self.machine(), cpu).translate(address, &mut read);
        Ok(GuestAddress { physical: found.map(|found| found.physical) })
    }

    fn x_pliant_query_host_address(&self, address: u64, physical: Option<bool>) -> Result<HostAddress> {
        let view = self.machine().system_space().view();
        let none = || Error::generic(format!("No memory is mapped at address {address:#x}"));
        let range = view.lookup(address).ok_or_else(none)?;
        let no_ram = || Error::generic(format!("Memory at address {address:#x} is not RAM"));
        let block = range.block().ok_or_else(no_ram)?;
        let offset = range.offset + (address - range.addr);
        let address = if physical == Some(true) {
            format!(
                "{:#x}",
                block.reader().host_physical(offset).map_err(|error| Error::generic(error.to_string()))?
            )
        } else {
            format!("{:p}", block.host_address().wrapping_add(offset as usize))
        };
        Ok(HostAddress { region: range.name().to_owned(), address })
    }

    fn x_pliant_sum_memory(&self, address: u64, size: u64) -> Result<GuestSum> {
        if size > SUM_MAX {
            return Err(Error::generic(format!("Parameter 'size' expects a number of at most {SUM_MAX}")));
        }
        sum(self.machine().system_space(), address, size).map(|sum| GuestSum { sum })
    }

    fn x_pliant_read_port(&self, port: u16, size: u8) -> Result<PortValue> {
        let mut bytes = [0; 4];
        let part = bytes.get_mut(..port_size(size)?).unwrap_or_default();
        // What nothing answers is all ones, which is in there then.
        let _ = self.machine().io_space().read(u64::from(port), part);
        Ok(PortValue { value: u32::from_le_bytes(bytes) })
    }

    fn x_pliant_write_port(&self, port: u16, size: u8, value: u32) -> Result<()> {
        let _ = self.machine().io_space().write(u64::from(port), &value.to_le_bytes()[..port_size(size)?]);
        Ok(())
    }

    fn x_pliant_query_page_tables(
        &self,
        merged: Option<bool>,
        cpu_index: Option<i64>,
    ) -> Result<HumanReadableText> {
        let paging = Paging::of(&registers_of(self.machine(), cpu_index)?);
        let show = if merged == Some(true) { tables::runs } else { tables::pages };
        Ok(show(self.machine().system_space(), &paging).into())
    }

    fn x_pliant_query_lapic(
        &self,
        apic_id: Option<u32>,
        cpu_index: Option<i64>,
    ) -> Result<HumanReadableText> {
        let accel = self.machine().accel();
        let vcpus = accel.vcpus();
        let cpu = match apic_id {
            Some(id) => vcpus.iter().find(|vcpu| vcpu.apic_id == id).map(|vcpu| vcpu.index),
            None if vcpus.is_empty() => None,
            None => Some(vcpu(self.machine(), cpu_index)?),
        };
        let cpu = cpu.ok_or_else(|| Error::generic("No CPU available"))?;
        let none = || Error::generic("local apic state not available");
        Ok(chips::local_apic(cpu, &accel.local_apic(cpu).ok_or_else(none)?).into())
    }

    fn x_query_interrupt_controllers(&self) -> Result<HumanReadableText> {
        let accel = self.machine().accel();
        // Without a processor there is nobody to interrupt.
        if accel.vcpus().is_empty() {
            return Ok(String::new().into());
        }
        let none = || format!("Interrupt controller information not available for {}.\n", UserIrqChip::NAME);
        Ok(accel.chips().map_or_else(none, |chips| chips::controllers(&chips)).into())
    }

    fn x_query_irq(&self) -> Result<HumanReadableText> {
        let accel = self.machine().accel();
        let statistics = if accel.vcpus().is_empty() { Vec::new() } else { accel.irq().statistics() };
        Ok(chips::lines(&statistics).into())
    }

    fn x_query_roms(&self) -> Result<HumanReadableText> {
        Ok(Roms::of(self.machine()).text().into())
    }

    fn inject_nmi(&self) -> Result<()> {
        if self.machine().accel().vcpus().is_empty() {
            return Err(Error::generic("machine does not provide NMIs"));
        }
        self.machine().accel().inject_nmi()
    }
}

/// Registers of the vCPU that is meant.
fn registers_of(machine: &Machine, index: Option<i64>) -> Result<Registers> {
    let cpu = vcpu(machine, index)?;
    let none = || Error::generic(format!("CPU {cpu} has no registers that could be shown"));
    machine.accel().registers(cpu).ok_or_else(none)
}

/// Bytes of a port access.
fn port_size(size: u8) -> Result<usize> {
    match size {
        1 | 2 | 4 => Ok(size.into()),
        _ => Err(Error::generic("Parameter 'size' expects 1, 2 or 4")),
    }
}

/// The checksum of BSD's `sum`: 16 bits, rotated to the right before each byte is added.
fn sum(space: &AddressSpace, addr: u64, size: u64) -> Result<u16> {
    let mut buf = vec![0; CHUNK];
    let (mut sum, mut done) = (0u16, 0);
    while done < size {
        let at = addr.wrapping_add(done);
        let room = (size - done).min((u64::MAX - at).saturating_add(1));
        let part = CHUNK.min(usize::try_from(room).unwrap_or(CHUNK));
        let (count, why) = read_all(at, &mut buf[..part], |at, buf| physical::read(space, at, buf));
        for byte in &buf[..count] {
            sum = sum.rotate_right(1).wrapping_add(u16::from(*byte));
        }
        done += count as u64;
        let zeroes = match why {
            None => 0,
            Some(Unreadable::Nothing { len }) => len.min(size - done),
            Some(Unreadable::Unplugged) => return Err(unplugged(addr.wrapping_add(done))),
            Some(_) => 1,
        };
        sum = sum.rotate_right((zeroes % 16) as u32);
        done += zeroes;
    }
    Ok(sum)
}

fn unplugged(addr: u64) -> Error {
    Error::generic(format!("Memory at 0x{addr:016x} is not plugged"))
}

/// The vCPU that is meant, the first by default.
fn vcpu(machine: &Machine, index: Option<i64>) -> Result<u32> {
    let vcpus = machine.accel().vcpus();
    let there = |index: &u32| vcpus.iter().any(|vcpu| vcpu.index == *index);
    u32::try_from(index.unwrap_or(0))
        .ok()
        .filter(there)
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
        .map_err(|error| Error::generic(format!("Could not open '{filename}': {}", strerror(&error))))?;
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
                return Err(unplugged(at));
            }
            Some(_) => {
                return Err(Error::generic(format!("Invalid addr 0x{addr:016x}/size {size} specified")));
            }
        }
    }
    output.finish().map_err(write_failed)
}

#[cfg(test)]
mod tests;
