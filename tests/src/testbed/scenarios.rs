//! The machines that are booted and what is claimed of each.
//!
//! Machines are few and claims are many, since a boot is what costs: each machine type comes with one, two and four vCPUs, and each of these boots carries
//! some of the claims about memory, devices and power.

mod cpus;
mod dmesg;
mod firmware;
mod hotplug;
mod input;
mod libvirt;
mod memory;
mod moves;
mod network;
mod power;
mod stress;
mod virtio;
mod watchdog;

use super::linux::{Boot, Claim};
use super::managed::ByLibvirt;
use crate::libvirt::Domain;

/// `claims![module::function, ...]`: claims by the names of their functions.
macro_rules! claims {
    ($($room:ident :: $check:ident),* $(,)?) => {
        &[$(Claim { name: stringify!($check), check: $room::$check }),*]
    };
}

/// A console and a guest agent's channel, entropy and a balloon, all on PCI.
const PCI_DEVICES: &str = "-object rng-random,id=rng0,filename=/dev/urandom -device virtio-rng-pci,rng=rng0 \
    -device virtio-serial-pci -chardev socket,id=vc0,path=$RUN/console,server=on,wait=off -device virtconsole,chardev=vc0 \
    -chardev socket,id=port0,path=$RUN/port,server=on,wait=off -device virtserialport,chardev=port0,name=org.qemu.guest_agent.0 \
    -object iothread,id=io0 -device virtio-balloon-pci,id=balloon0,free-page-reporting=on,free-page-hint=on,iothread=io0";

/// A network card below a port, whose other end is a socket of the test's, and a port for another one.
const CARD: &str = "-device pcie-root-port,id=below,chassis=1,slot=1 -device pcie-root-port,id=other,chassis=2,slot=2 \
    -netdev dgram,id=h0,local.type=unix,local.path=$RUN/net-vm,remote.type=unix,remote.path=$RUN/net-host \
    -device virtio-net-pci,id=net0,netdev=h0,mac=52:54:00:00:00:07,bus=below";

/// The same on virtio-mmio, as `microvm` has no PCI.
const MMIO_DEVICES: &str = "-object rng-random,id=rng0,filename=/dev/urandom -device virtio-rng-device,rng=rng0 \
    -device virtio-serial-device -chardev socket,id=vc0,path=$RUN/console,server=on,wait=off -device virtconsole,chardev=vc0 \
    -chardev socket,id=port0,path=$RUN/port,server=on,wait=off -device virtserialport,chardev=port0,name=org.qemu.guest_agent.0 \
    -object iothread,id=io0 -device virtio-balloon-device,id=balloon0,free-page-hint=on,iothread=io0";

/// The README's machine.
const TWO_NODES: &str = "-m 4G,maxmem=20G -smp sockets=2,cores=2 \
    -object memory-backend-ram,id=ram0,size=2G -object memory-backend-ram,id=ram1,size=2G \
    -numa node,nodeid=0,cpus=0-1,memdev=ram0 -numa node,nodeid=1,cpus=2-3,memdev=ram1 \
    -object memory-backend-ram,id=mem0,size=8G -device virtio-mem-pci,id=vm0,memdev=mem0,node=0,requested-size=0M \
    -object memory-backend-ram,id=mem1,size=8G -device virtio-mem-pci,id=vm1,memdev=mem1,node=1,requested-size=1G";

/// What guests that are moved talk to, and memory that is plugged in part.
const TALK: &str = "-chardev file,id=talk,path=$RUN/talk -device virtserialport,chardev=talk,name=talk";
const PLUGGED: &str = "-object memory-backend-ram,id=mem0,size=2G -device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=256M";

/// What a guest can know of where it is.
const KNOWN: &str = "-device vmgenid,guid=324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87 \
    -smbios type=0,vendor=Firmly,version=7.1 -smbios type=1,manufacturer=Elastic,product=Stretch,version=3,serial=42,sku=S-M-L,family=Soft \
    -smbios type=2,product=Board -smbios type=3,manufacturer=Cases,asset=17";

/// A slot below which devices are hot-plugged.
const PORT: &str = "-device pcie-root-port,id=below,chassis=1,slot=1";

/// Everything that is booted with each kernel; the longest first, so that both lanes end at the same time.
pub const BOOTS: &[Boot] = &[
    Boot {
        name: "q35-4",
        options: &["-machine q35", TWO_NODES],
        append: "",
        claims: claims![
            cpus::cpus_and_memory,
            cpus::nodes,
            dmesg::dmesg_has_no_warning_of_its_own,
            memory::resizes_ten_times,
            memory::reboot_unplugs_and_plugs_again,
            power::powerdown_is_a_button_press,
        ],
    },
    Boot {
        name: "q35-moved",
        options: &["-machine q35 -smp 2,maxcpus=3,cores=3 -m 512M,maxmem=4G", PCI_DEVICES, TALK, PLUGGED],
        append: "",
        claims: claims![
            moves::cpu_that_came_goes_along,
            moves::migrates_under_stress,
            moves::size_asked_for_on_the_way_is_reached,
            moves::goes_on_from_a_file,
            moves::stays_when_nothing_comes_of_it,
            moves::host_is_moved_and_reboots,
            power::powerdown_is_a_button_press,
        ],
    },
    Boot {
        name: "q35-2",
        options: &["-machine q35 -smp 2,maxcpus=4,cores=4 -m 512M,maxmem=16G", PORT],
        append: "",
        claims: claims![
            cpus::cpus_and_memory,
            cpus::cpu_comes_and_goes,
            hotplug::device_comes_and_goes,
            hotplug::memslots_of_fixed_size,
            hotplug::dynamic_memslots,
            hotplug::cycles_leak_nothing,
        ],
    },
    Boot {
        name: "pc-2",
        options: &["-machine pc -smp 2,maxcpus=3,sockets=3 -m 512M,maxmem=16G -device pvpanic", PCI_DEVICES],
        append: "",
        claims: claims![
            cpus::cpus_and_memory,
            cpus::cpu_comes_and_goes,
            dmesg::dmesg_has_no_warning_of_its_own,
            virtio::entropy,
            virtio::console_both_ways,
            virtio::balloon_up_and_down,
            virtio::balloon_tells_of_the_guest,
            hotplug::device_comes_and_goes,
            power::panic_is_reported,
        ],
    },
    Boot {
        name: "q35-1",
        options: &[
            "-machine q35 -smp 1 -m 512M,slots=2,maxmem=4G -device pvpanic-pci -device vmcoreinfo",
            PCI_DEVICES,
        ],
        append: "",
        claims: claims![
            cpus::cpus_and_memory,
            dmesg::dmesg_has_no_warning_of_its_own,
            virtio::entropy,
            virtio::console_both_ways,
            virtio::balloon_up_and_down,
            virtio::free_pages_go_back,
            hotplug::dimm_comes_and_goes,
            firmware::dumps_have_the_kernels_note,
            power::panic_is_reported,
        ],
    },
    Boot {
        name: "pc-moved",
        options: &["-machine pc -smp 2,sockets=2 -m 512M,maxmem=4G", PCI_DEVICES, TALK, PLUGGED],
        append: "",
        claims: claims![
            moves::migrates_under_stress,
            power::guest_reboots,
            power::powerdown_is_a_button_press
        ],
    },
    Boot {
        name: "microvm-moved",
        options: &["-machine microvm -smp 2 -m 512M", MMIO_DEVICES, TALK],
        append: "",
        claims: claims![
            moves::migrates_under_stress,
            power::guest_reboots,
            power::powerdown_is_a_button_press
        ],
    },
    Boot {
        name: "pc-1",
        options: &[
            "-machine pc -smp 1 -m 512M,slots=2,maxmem=4G -device vmgenid,guid=324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87",
        ],
        append: "",
        claims: claims![
            cpus::cpus_and_memory,
            firmware::kernel_has_the_generation_id,
            hotplug::dimm_comes_and_goes,
            hotplug::persistent_memory_keeps_what_is_synced,
            power::guest_powers_off,
        ],
    },
    // Native hot-plug: the port's own registers and interrupt instead of ACPI's.
    Boot {
        name: "q35-native",
        options: &[
            "-machine q35 -smp 1 -m 512M,maxmem=16G -global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
            PORT,
        ],
        append: "",
        claims: claims![hotplug::device_comes_and_goes],
    },
    Boot {
        name: "q35-network",
        options: &["-machine q35 -smp 2,cores=2 -m 512M", CARD],
        append: "",
        claims: claims![
            network::packets_go_both_ways,
            network::cable_is_unplugged_and_plugged,
            network::card_comes_and_goes,
            network::segments_are_left_to_the_other_end,
        ],
    },
    Boot {
        name: "pc-4",
        options: &["-machine pc -smp 4,cores=2,threads=2 -m 512M"],
        append: "",
        claims: claims![cpus::cpus_and_memory, power::guest_reboots, power::powerdown_is_a_button_press],
    },
    Boot {
        name: "microvm-2",
        options: &["-machine microvm -smp 2 -m 512M", MMIO_DEVICES],
        append: "",
        claims: claims![
            cpus::cpus_and_memory,
            dmesg::dmesg_has_no_warning_of_its_own,
            virtio::entropy,
            virtio::console_both_ways,
            virtio::balloon_up_and_down,
            power::powerdown_is_a_button_press,
        ],
    },
    Boot {
        name: "microvm-1",
        options: &["-machine microvm -smp 1 -m 512M"],
        append: "",
        claims: claims![cpus::cpus_and_memory, power::guest_powers_off],
    },
    Boot {
        name: "microvm-4",
        options: &["-machine microvm -smp 4,sockets=1 -m 512M"],
        append: "",
        claims: claims![cpus::cpus_and_memory, power::guest_reboots],
    },
];

/// What is claimed of a machine on which a kernel has a driver for everything.
const OF_FULL_KERNELS: &[Claim] = claims![
    cpus::cpus_and_memory,
    dmesg::dmesg_has_no_warning_of_its_own,
    firmware::kernel_knows_what_it_runs_on,
    firmware::kernel_has_the_generation_id,
    input::keys_are_typed,
    input::mouse_is_found,
    virtio::entropy,
    virtio::console_both_ways,
    virtio::balloon_up_and_down,
    hotplug::device_comes_and_goes,
    hotplug::dimm_comes_and_goes,
    input::three_keys_reset,
    power::powerdown_is_a_button_press,
];

/// What needs drivers that kernels for clouds are without. Without `vmport` it is the PS/2 mouse that they find on QEMU, too.
pub const FULL_BOOTS: &[Boot] = &[
    Boot {
        name: "q35-watchdog",
        options: &["-machine q35 -smp 2 -m 512M -global ICH9-LPC.noreboot=off"],
        append: "",
        claims: claims![
            watchdog::driver_finds_it,
            watchdog::stays_quiet_while_it_is_fed,
            watchdog::stops_a_guest_that_hangs,
            watchdog::interrupts_a_guest_that_hangs,
            watchdog::goes_along,
            watchdog::resets_a_guest_that_hangs,
        ],
    },
    Boot {
        name: "q35-full",
        options: &["-machine q35,vmport=off -smp 2 -m 512M,slots=2,maxmem=4G", PCI_DEVICES, PORT, KNOWN],
        append: "",
        claims: OF_FULL_KERNELS,
    },
    Boot {
        name: "pc-full",
        options: &["-machine pc,vmport=off -smp 2 -m 512M,slots=2,maxmem=4G", PCI_DEVICES, KNOWN],
        append: "",
        claims: OF_FULL_KERNELS,
    },
];

/// What is claimed of a domain of libvirt's; the quick ones first.
const OF_DOMAINS: &[Claim<ByLibvirt>] = claims![
    libvirt::memory_is_as_libvirt_says,
    libvirt::balloon_is_as_libvirt_says,
    libvirt::statistics_are_the_guests,
    libvirt::cpu_comes_and_goes,
    libvirt::devices_come_and_go,
    libvirt::goes_on_after_a_pause,
    libvirt::goes_on_where_it_was_saved,
    libvirt::goes_on_where_it_was_moved,
    libvirt::is_found_again,
    libvirt::reboots_by_the_button,
    libvirt::shuts_down_by_the_button,
    libvirt::panic_is_told,
];

/// What libvirt boots, as [`BOOTS`].
pub const MANAGED: &[Boot<ByLibvirt>] = &[
    Boot { name: "libvirt-q35", options: Domain::q35_linux, append: "", claims: OF_DOMAINS },
    Boot { name: "libvirt-pc", options: Domain::pc_linux, append: "", claims: OF_DOMAINS },
    Boot {
        name: "libvirt-microvm",
        options: Domain::microvm,
        append: "",
        claims: claims![libvirt::goes_on_after_a_pause, libvirt::goes_on_without_pci],
    },
];
