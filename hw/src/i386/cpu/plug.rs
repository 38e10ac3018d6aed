//! vCPUs that come and go: who is asked, and what the board tells of their number.

use std::sync::Arc;

use qapi::{Error, Result};
use qom::ObjectRef;

use super::{Cpu, Cpus, class_name, lock};
use crate::acpi::cpuhp::CpuHotplug;
use crate::core::device::Device;
use crate::core::hotplug::{HotplugHandler, Unplug};
use crate::core::machine::Machine;
use crate::core::machine_types::Board;
use crate::isa::fw_cfg::{FwCfg, key};
use crate::isa::rtc::Rtc;

/// The machine's part.
pub(super) struct CpuPlug;

fn cpu(device: &Arc<dyn Device>) -> Result<Arc<Cpu>> {
    let object = Arc::clone(device) as ObjectRef;
    object.downcast::<Cpu>().ok_or_else(|| Error::generic("this is no CPU"))
}

impl HotplugHandler for CpuPlug {
    fn pre_plug(&self, machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<()> {
        let (cpu, class) = (cpu(device)?, device.dev().type_name());
        if machine.kind().board == Board::None {
            // One that is there from the start is refused when it is realized.
            return match device.dev().is_hotplugged() {
                true => {
                    Err(Error::generic(format!("Device '{class}' can not be hotplugged on this machine")))
                }
                false => Ok(()),
            };
        }
        let expected = class_name(machine);
        if class != expected {
            return Err(Error::generic(format!("Invalid CPU type, expected cpu type: '{expected}'")));
        }
        let cpus = Cpus::of(machine);
        let mut place = lock(&cpu.place);
        let index = place.resolve(machine.smp(), |index| cpus.has(index))?;
        place.resolve_node(machine.numa().node_of_cpu(index))?;
        cpu.index.get_or_init(|| index);
        Ok(())
    }

    fn plug(&self, machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<()> {
        let cpu = cpu(device)?;
        let index = cpu.index();
        Cpus::of(machine).insert(index, cpu);
        CpuHotplug::of(machine).plug(index, device);
        tell_count(machine);
        Ok(())
    }

    fn unplug_request(&self, machine: &Arc<Machine>, device: &Arc<dyn Device>) -> Result<Unplug> {
        let index = cpu(device)?.index();
        let refuse = |text: &str| Err(Error::generic(text));
        match machine.kind().board {
            Board::Microvm => return refuse("unplug not supported by microvm"),
            Board::I440fx if !machine.properties().acpi() => {
                return refuse("CPU hot unplug not supported without ACPI");
            }
            _ => {}
        }
        if index == 0 {
            return refuse("Boot CPU is unpluggable");
        }
        if !CpuHotplug::of(machine).unplug_request(index) {
            let class = device.dev().type_name();
            return refuse(&format!("acpi: device unplug request for not supported device type: {class}"));
        }
        Ok(Unplug::MayAskAgain)
    }

    fn unplug(&self, machine: &Arc<Machine>, device: &Arc<dyn Device>) {
        let Ok(cpu) = cpu(device) else { return };
        CpuHotplug::of(machine).unplug(cpu.index());
        lock(&Cpus::of(machine).0).plugged.remove(&cpu.index());
        tell_count(machine);
    }
}

/// How many there are, for firmware.
fn tell_count(machine: &Machine) {
    let count = Cpus::of(machine).count();
    if let Some(fw) = FwCfg::of(machine) {
        fw.set(key::NB_CPUS, (count as u16).to_le_bytes());
    }
    if let Some(rtc) = Rtc::of(machine) {
        rtc.set_processors(count);
    }
}
