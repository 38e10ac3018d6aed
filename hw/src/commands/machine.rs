//! The queries of `machine.json`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use memory::{MemoryBackend, MtreeOptions};
use qapi::commands::MachineCommands;
use qapi::types::{
    ACPIOSTInfo, BalloonInfo, CompatProperty, CpuInfoFast, CpuInfoFastTarget, CpuInstanceProperties,
    CurrentMachineParams, GuidInfo, HotpluggableCPU, HumanReadableText, KvmInfo, MachineInfo, MemPolicyMode,
    Memdev, MemoryDeviceInfo, MemoryInfo, NameInfo, PliantMemoryMap, PliantMemslots, UuidInfo,
};
use qapi::{Enum, Error, ErrorClass, Result};

use super::MachineHandlers;
use crate::acpi::cpuhp::CpuHotplug;
use crate::acpi::memhp::MemoryHotplug;
use crate::acpi::vmgenid;
use crate::core::machine::Machine;
use crate::core::machine_types::{Board, MachineType, TYPES};
use crate::i386::cpu::{self, Cpus};
use crate::mem::{MemoryDevices, SlotPlan};
use crate::virtio::balloon::{self, VirtioBalloon};

/// What a machine without `-uuid` answers.
const NO_UUID: &str = "00000000-0000-0000-0000-000000000000";

/// The balloon of the machine.
fn the_balloon(machine: &Machine) -> Result<Arc<VirtioBalloon>> {
    let none = || Error::new(ErrorClass::DeviceNotActive, "No balloon device has been activated");
    balloon::of(machine).ok_or_else(none)
}

impl MachineCommands for MachineHandlers {
    fn query_balloon(&self) -> Result<BalloonInfo> {
        let actual = the_balloon(&self.0)?.actual(&self.0).cast_signed();
        Ok(BalloonInfo { actual })
    }

    fn balloon(&self, value: i64) -> Result<()> {
        let balloon = the_balloon(&self.0)?;
        match u64::try_from(value) {
            Ok(target) if target > 0 => {
                balloon.set_target(&self.0, target);
                Ok(())
            }
            _ => Err(Error::generic("Parameter 'value' expects a size")),
        }
    }

    fn rtc_reset_reinjection(&self) -> Result<()> {
        // Without periodic interrupts, none was missed.
        Ok(())
    }

    fn query_name(&self) -> Result<NameInfo> {
        Ok(NameInfo { name: self.0.config().name.clone() })
    }

    fn query_uuid(&self) -> Result<UuidInfo> {
        Ok(UuidInfo { uuid: self.0.config().uuid.clone().unwrap_or_else(|| NO_UUID.into()) })
    }

    fn query_vm_generation_id(&self) -> Result<GuidInfo> {
        Ok(GuidInfo { guid: vmgenid::text(&self.0)? })
    }

    fn query_kvm(&self) -> Result<KvmInfo> {
        Ok(KvmInfo { enabled: self.0.accel().is_kvm(), present: true })
    }

    fn query_memdev(&self) -> Result<Vec<Memdev>> {
        Ok(self.user_objects(MemoryBackend::from_object).iter().map(|backend| memdev(backend)).collect())
    }

    fn query_memory_size_summary(&self) -> Result<MemoryInfo> {
        let plugged = MemoryDevices::of(&self.0).plugged_size();
        Ok(MemoryInfo { base_memory: self.0.sizes().ram, plugged_memory: Some(plugged) })
    }

    fn query_acpi_ospm_status(&self) -> Result<Vec<ACPIOSTInfo>> {
        let dimms = MemoryHotplug::of(&self.0);
        let board = self.0.kind().board;
        // Boards that have the device without these slots, as a q35 has without ACPI.
        let none = board == Board::Q35 || board == Board::Microvm && self.0.properties().acpi();
        let mut all = if none && !dimms.is_installed() { Vec::new() } else { dimms.status()? };
        all.extend(CpuHotplug::of(&self.0).status());
        Ok(all)
    }

    fn query_memory_devices(&self) -> Result<Vec<MemoryDeviceInfo>> {
        Ok(MemoryDevices::of(&self.0).infos())
    }

    fn x_pliant_query_memslots(&self) -> Result<PliantMemslots> {
        Ok(SlotPlan::of(&self.0).info())
    }

    fn x_pliant_query_memory_map(&self, cells: u32) -> Result<Vec<PliantMemoryMap>> {
        MemoryDevices::of(&self.0).maps(cells)
    }

    fn query_cpus_fast(&self) -> Result<Vec<CpuInfoFast>> {
        let vcpus = self.0.accel().vcpus();
        let threads: BTreeMap<u32, i32> = vcpus.iter().map(|vcpu| (vcpu.index, vcpu.thread_id)).collect();
        let info = |(index, qom_path): (u32, String)| {
            Some(CpuInfoFast {
                cpu_index: index.into(),
                qom_path,
                thread_id: (*threads.get(&index)?).into(),
                props: Some(position(&self.0, index)),
                target: CpuInfoFastTarget::X86_64,
            })
        };
        Ok(Cpus::paths(&self.0).into_iter().filter_map(info).collect())
    }

    fn query_hotpluggable_cpus(&self) -> Result<Vec<HotpluggableCPU>> {
        if !self.0.kind().is_pc() {
            return Err(Error::generic("machine does not support hot-plugging CPUs"));
        }
        let paths: BTreeMap<u32, String> = Cpus::paths(&self.0).into_iter().collect();
        let slot = |index: u32| HotpluggableCPU {
            type_: cpu::class_name(&self.0).into(),
            vcpus_count: 1,
            props: position(&self.0, index),
            qom_path: paths.get(&index).cloned(),
        };
        // The last first, as QEMU builds its list from the front.
        Ok((0..self.0.smp().maxcpus).rev().map(slot).collect())
    }

    fn query_machines(&self, compat_props: Option<bool>) -> Result<Vec<MachineInfo>> {
        Ok(TYPES.iter().map(|t| machine_info(t, compat_props.unwrap_or(false))).collect())
    }

    fn query_current_machine(&self) -> Result<CurrentMachineParams> {
        Ok(CurrentMachineParams { wakeup_suspend_support: false })
    }

    fn x_query_ramblock(&self) -> Result<HumanReadableText> {
        Ok(self.0.memory().ramblock_text().into())
    }

    fn x_query_numa(&self) -> Result<HumanReadableText> {
        Ok(numa_text(&self.0).into())
    }

    fn x_pliant_query_mtree(
        &self,
        flatview: Option<bool>,
        dispatch_tree: Option<bool>,
        owner: Option<bool>,
        disabled: Option<bool>,
    ) -> Result<HumanReadableText> {
        let options = MtreeOptions {
            flatview: flatview.unwrap_or(false),
            dispatch_tree: dispatch_tree.unwrap_or(false),
            owner: owner.unwrap_or(false),
            disabled: disabled.unwrap_or(false),
        };
        Ok(self.0.memory().mtree_text(options).into())
    }
}

fn memdev(backend: &MemoryBackend) -> Memdev {
    let info = backend.info();
    Memdev {
        id: Some(info.id),
        size: info.size,
        merge: info.merge,
        dump: info.dump,
        prealloc: info.prealloc,
        share: info.share,
        reserve: Some(info.reserve),
        host_nodes: info.host_nodes,
        policy: MemPolicyMode::from_name(info.policy).unwrap_or(MemPolicyMode::Default),
    }
}

/// Where vCPU `index` sits; levels that a machine has one of are left out, but for the three every x86 has.
fn position(machine: &Machine, index: u32) -> CpuInstanceProperties {
    let smp = machine.smp();
    let [socket, die, module, core, thread] = smp.position(index).map(i64::from);
    CpuInstanceProperties {
        node_id: machine.numa().node_of_cpu(index).map(i64::from),
        socket_id: Some(socket),
        die_id: (smp.dies > 1).then_some(die),
        module_id: (smp.modules > 1).then_some(module),
        core_id: Some(core),
        thread_id: Some(thread),
        ..CpuInstanceProperties::default()
    }
}

fn machine_info(kind: &MachineType, with_compat: bool) -> MachineInfo {
    let pc = kind.board != Board::None;
    let compat = |(driver, property, value): (&str, &str, &str)| CompatProperty {
        qom_type: driver.into(),
        property: property.into(),
        value: value.into(),
    };
    MachineInfo {
        name: kind.name.into(),
        alias: kind.alias().map(str::to_owned),
        is_default: kind.is_default().then_some(true),
        cpu_max: kind.max_cpus().cast_signed(),
        hotpluggable_cpus: kind.is_pc(),
        numa_mem_supported: kind.has_numa_mem(),
        deprecated: kind.is_deprecated(),
        default_cpu_type: pc.then(|| "qemu64-x86_64-cpu".into()),
        default_ram_id: Some(kind.default_ram_id().into()),
        acpi: pc,
        compat_props: with_compat.then(|| kind.compat().map(compat).collect()),
    }
}

/// `info numa`: sizes with what is plugged, in MiB.
fn numa_text(machine: &Machine) -> String {
    let numa = machine.numa();
    let devices = MemoryDevices::of(machine);
    let present = Cpus::of(machine);
    let mut out = format!("{} nodes\n", numa.len());
    for (id, node) in numa.nodes() {
        let cpus: String = node.cpus.iter().filter(|c| present.has(**c)).map(|c| format!(" {c}")).collect();
        let plugged = devices.plugged_on(id.into());
        // Writing to a String cannot fail.
        let _ = writeln!(out, "node {id} cpus:{cpus}");
        let _ = writeln!(out, "node {id} size: {} MB", (node.size + plugged) >> 20);
        let _ = writeln!(out, "node {id} plugged: {} MB", plugged >> 20);
    }
    out
}
