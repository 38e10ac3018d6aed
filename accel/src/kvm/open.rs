//! Opening the accelerator: its options, the VM, and what of the kernel is switched on before there is a vCPU.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Once, OnceLock};

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_MAX_CPUID_ENTRIES, kvm_enable_cap,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use qapi::{Error, Result};

use super::ioeventfd::IoListener;
use super::irqchip::KvmIrqChip;
use super::listener::{DirtyLog, SystemListener};
use super::shared::Shared;
use super::state::ChipState;
use super::{KvmAccel, cpuid, features, gate, init_error, kick, limit, os_error, ring, save, throttle};
use crate::control::Control;

/// Three pages for the kernel's real-mode emulation on older Intel processors, then one for its identity map: just below
/// 4 GiB, under the 256 KiB of firmware, where no RAM is.
const TSS_ADDRESS: u64 = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;
/// The version of the interface since Linux 2.6.22.
const API_VERSION: i32 = 12;

impl KvmAccel {
    /// Opens `/dev/kvm` and creates a VM. `options` are those of `-accel kvm,...`: `kernel-irqchip=on`, `dirty-ring-size=`.
    ///
    /// # Errors
    /// QEMU's messages, one a line.
    pub fn open(options: &[(String, String)]) -> Result<Arc<Self>> {
        Self::open_path("/dev/kvm", options)
    }

    /// [`KvmAccel::open`] with another device file.
    ///
    /// # Errors
    /// As [`KvmAccel::open`].
    pub fn open_path(path: impl AsRef<Path>, options: &[(String, String)]) -> Result<Arc<Self>> {
        let mut ring = 0;
        for (key, value) in options {
            match key.as_str() {
                "dirty-ring-size" => ring = ring::parse(value)?,
                _ => check_option(key, value)?,
            }
        }
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).map_err(|error| {
            init_error(&format!("Could not access KVM kernel module: {}", qapi::strerror(&error)), &error)
        })?;
        let kvm = kick::kvm_from_file(file);
        let version = kvm.get_api_version();
        if version != API_VERSION {
            let error = match version {
                ..0 => io::Error::last_os_error(),
                _ => io::Error::from_raw_os_error(libc::EINVAL),
            };
            let what =
                if version < API_VERSION { "kvm version too old" } else { "kvm version not supported" };
            return Err(init_error(what, &error));
        }
        let vm = create_vm(&kvm).map_err(|error| init_error("", &error))?;
        let ring = if ring::enable(&vm, ring)? { ring } else { 0 };
        Self::create(kvm, vm, ring).map_err(|error| init_error("", &error))
    }

    fn create(kvm: Kvm, vm: Arc<VmFd>, ring: u32) -> io::Result<Arc<Self>> {
        vm.set_identity_map_address(IDENTITY_MAP_ADDRESS).map_err(os_error)?;
        vm.set_tss_address(TSS_ADDRESS as usize).map_err(os_error)?;
        vm.create_irq_chip().map_err(os_error)?;
        save::exact_events(&vm);
        let chip_reset = ChipState::capture(&vm).map_err(os_error)?;
        let routes = usize::try_from(vm.check_extension_int(Cap::IrqRouting)).unwrap_or(0);
        let slots = u32::try_from(kvm.get_nr_memslots()).unwrap_or(32);
        let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(os_error)?;
        cpuid::complete(&mut cpuid, kvm.check_extension(Cap::TscDeadlineTimer), features::host_leaf_7());
        let gate = Arc::<gate::Gate>::default();
        let log = match ring {
            0 if manual_dirty_log(&vm) => DirtyLog::Manual,
            0 => DirtyLog::Clearing,
            _ => DirtyLog::Ring,
        };
        Ok(Arc::new(Self {
            chip_reset,
            supported: features::supported(&kvm, &cpuid),
            cpuid,
            stats: OnceLock::new(),
            io_listener: Arc::new(IoListener::new(Arc::clone(&vm))),
            extent: OnceLock::new(),
            shared: Arc::new(Shared {
                control: Control::new(),
                boot: Mutex::default(),
                device_window: Mutex::default(),
                spaces: OnceLock::new(),
                chip: KvmIrqChip::new(Arc::clone(&vm), routes),
                slots: SystemListener::new(Arc::clone(&vm), Arc::clone(&gate), slots, log),
                gate,
                pit: OnceLock::new(),
                omit_pit: AtomicBool::new(false),
                first_run: Once::new(),
                tsc_khz: OnceLock::new(),
                extent: OnceLock::new(),
                clock: Mutex::default(),
                exchange: save::Exchange::default(),
                throttle: throttle::Throttle::default(),
                limits: limit::Limits::default(),
                vm,
            }),
            state: Mutex::default(),
            dirty_ring: ring,
            kvm,
        }))
    }
}

fn create_vm(kvm: &Kvm) -> io::Result<Arc<VmFd>> {
    loop {
        match kvm.create_vm() {
            Ok(vm) => return Ok(Arc::new(vm)),
            // A signal arrived while the kernel set the VM up.
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(os_error(error)),
        }
    }
}

/// Has the dirty log's pages watched again only when asked for, if the kernel can. Gives whether it does.
fn manual_dirty_log(vm: &VmFd) -> bool {
    let known = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
    let there = vm.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
    let flags = u32::try_from(there).unwrap_or(0) & known;
    if flags & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE == 0 {
        return false;
    }
    let mut cap = kvm_enable_cap { cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, ..kvm_enable_cap::default() };
    cap.args[0] = flags.into();
    vm.enable_cap(&cap).inspect_err(|error| tracing::warn!(%error, "the dirty log clears itself")).is_ok()
}

fn check_option(key: &str, value: &str) -> Result<()> {
    match (key, value) {
        ("kernel-irqchip", "on") => Ok(()),
        ("kernel-irqchip", "off" | "split") => {
            Err(Error::generic(format!("kernel-irqchip={value} is not supported")))
        }
        ("kernel-irqchip", _) => {
            Err(Error::generic(format!("Parameter 'kernel-irqchip' does not accept value '{value}'")))
        }
        _ => Err(Error::generic(format!("Property 'kvm-accel.{key}' not found"))),
    }
}
