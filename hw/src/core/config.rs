//! What the command line says about a machine, and the checks of sizes and topology.

use qapi::types::{PanicAction, RebootAction, ShutdownAction, WatchdogAction};
use qapi::{Error, Result};

mod boot;
mod smbios;
pub use boot::BootConfig;
pub use smbios::{
    SmbiosBios, SmbiosBoard, SmbiosChassis, SmbiosConfig, SmbiosMemory, SmbiosProcessor, SmbiosSystem,
};

/// RAM granularity: sizes are rounded up to it.
const RAM_ALIGN: u64 = 8192;
/// RAM of a machine whose command line names none.
pub const DEFAULT_RAM: u64 = 128 << 20;

/// Everything that is said about a machine before it exists.
#[derive(Debug, Clone, Default)]
pub struct MachineConfig {
    /// Type name or alias (`q35`, `pc-i440fx-9.2`); `None` is the default machine, `pc`.
    pub machine: Option<String>,
    /// `-machine` options besides `type` and `accel`, in order.
    pub options: Vec<(String, String)>,
    /// `-m`.
    pub memory: MemoryConfig,
    /// `-smp`.
    pub smp: SmpConfig,
    /// `-cpu`; the default model if absent.
    pub cpu: Option<accel::CpuModel>,
    /// `-name`.
    pub name: Option<String>,
    /// `-uuid`, as 8-4-4-4-12 hexadecimal digits.
    pub uuid: Option<String>,
    /// `-rtc`.
    pub rtc: RtcConfig,
    /// `-boot`.
    pub boot: BootConfig,
    /// `-smbios`.
    pub smbios: SmbiosConfig,
    /// `-nographic`.
    pub nographic: bool,
    /// `-action`, `-no-reboot`, `-no-shutdown`, `-watchdog-action`.
    pub actions: Actions,
    /// Whether firmware's part is played here and, without a kernel, the built-in guest is loaded: not under qtest, where the client plays
    /// both.
    pub boot_guest: bool,
}

/// What the real-time clock shows: `-rtc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RtcConfig {
    /// `base=`: what it shows at first.
    pub base: RtcBase,
    /// `clock=`: by which clock it goes on.
    pub clock: RtcClock,
    /// `driftfix=slew`: whether ticks that the guest missed are made up for.
    pub slew: bool,
}

/// The time at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RtcBase {
    /// The host's, UTC.
    #[default]
    Utc,
    /// The host's, in its time zone.
    LocalTime,
    /// Any, in seconds since 1970.
    Date(i64),
}

/// What time goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RtcClock {
    /// The host's time of day, with its jumps.
    #[default]
    Host,
    /// The host's clock that does not jump.
    Rt,
    /// The guest's, which stands still while the guest does.
    Vm,
}

/// What is done where the guest wants something of the machine: `-action`, `set-action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actions {
    /// When the guest, or a monitor, resets the machine.
    pub reboot: RebootAction,
    /// When it switches itself off.
    pub shutdown: ShutdownAction,
    /// When it tells that it panicked (`pvpanic`).
    pub panic: PanicAction,
    /// When its watchdog expires.
    pub watchdog: WatchdogAction,
}

impl Default for Actions {
    fn default() -> Self {
        Self {
            reboot: RebootAction::Reset,
            shutdown: ShutdownAction::Poweroff,
            panic: PanicAction::Shutdown,
            watchdog: WatchdogAction::Reset,
        }
    }
}

/// `-m size=,maxmem=,slots=`, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Initial RAM; 0 is the default too.
    pub size: Option<u64>,
    /// Upper limit with memory devices.
    pub maxmem: Option<u64>,
    /// DIMM slots.
    pub slots: Option<u64>,
}

/// Checked sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySizes {
    /// Initial RAM.
    pub ram: u64,
    /// Upper limit; equal to `ram` when there is no room for memory devices.
    pub max: u64,
    /// DIMM slots.
    pub slots: u64,
}

impl MemoryConfig {
    /// Checks the sizes; `default` is used where none was given.
    ///
    /// # Errors
    /// QEMU's texts about `maxmem` and `slots`.
    pub fn check(&self, default: u64) -> Result<MemorySizes> {
        let size = self.size.filter(|s| *s != 0).unwrap_or(default);
        let ram =
            size.checked_next_multiple_of(RAM_ALIGN).ok_or_else(|| Error::generic("ram size too large"))?;
        let Some(max) = self.maxmem else {
            if self.slots.is_some() {
                return Err(Error::generic("slots specified but no max-size"));
            }
            return Ok(MemorySizes { ram, max: ram, slots: 0 });
        };
        if max < ram {
            return Err(Error::generic(format!(
                "invalid value of maxmem: maximum memory size ({max:#x}) must be at least the initial memory size ({ram:#x})"
            )));
        }
        let slots = self.slots.unwrap_or(0);
        if slots != 0 && max == ram {
            return Err(Error::generic(format!(
                "invalid value of maxmem: memory slots were specified but maximum memory size ({max:#x}) is equal to the initial memory size ({ram:#x})"
            )));
        }
        Ok(MemorySizes { ram, max, slots })
    }
}

/// `-smp` as given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SmpConfig {
    /// vCPUs at start.
    pub cpus: Option<u64>,
    /// Sockets.
    pub sockets: Option<u64>,
    /// Dies in a socket.
    pub dies: Option<u64>,
    /// Modules in a die.
    pub modules: Option<u64>,
    /// Cores in a module.
    pub cores: Option<u64>,
    /// Threads in a core.
    pub threads: Option<u64>,
    /// vCPUs at most.
    pub maxcpus: Option<u64>,
}

/// A complete topology: `sockets * dies * modules * cores * threads == maxcpus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Smp {
    /// vCPUs at start.
    pub cpus: u32,
    /// Sockets.
    pub sockets: u32,
    /// Dies in a socket.
    pub dies: u32,
    /// Modules in a die.
    pub modules: u32,
    /// Cores in a module.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
    /// vCPUs at most.
    pub maxcpus: u32,
}

impl SmpConfig {
    /// Fills in what was left out, cores before sockets before threads (sockets first if `prefer_sockets`), and checks it for
    /// `machine` with `limit` CPUs, whose sockets may have dies and modules (`has_dies`).
    ///
    /// # Errors
    /// QEMU's texts about the topology.
    pub fn check(&self, machine: &str, limit: u64, prefer_sockets: bool, has_dies: bool) -> Result<Smp> {
        let given =
            [self.cpus, self.sockets, self.dies, self.modules, self.cores, self.threads, self.maxcpus];
        if given.contains(&Some(0)) {
            return Err(Error::generic(
                "Invalid CPU topology: CPU topology parameters must be greater than zero",
            ));
        }
        for (level, count) in [("dies", self.dies), ("modules", self.modules)] {
            if !has_dies && count.is_some_and(|count| count > 1) {
                return Err(Error::generic(format!(
                    "{level} > 1 not supported by this machine's CPU topology"
                )));
            }
        }
        let huge = || Error::generic("Invalid CPU topology: too many CPUs");
        let product = |parts: &[u64]| parts.iter().try_fold(1u64, |a, b| a.checked_mul(*b)).ok_or_else(huge);
        let (dies, modules) = (self.dies.unwrap_or(1), self.modules.unwrap_or(1));
        let (mut sockets, mut cores, mut threads) = (self.sockets, self.cores, self.threads);
        let total = self.maxcpus.or(self.cpus);
        if let Some(total) = total {
            if prefer_sockets && sockets.is_none() {
                let (c, t) = (cores.unwrap_or(1), threads.unwrap_or(1));
                cores = Some(c);
                threads = Some(t);
                sockets = Some(total / product(&[dies, modules, c, t])?);
            } else if cores.is_none() {
                let (s, t) = (sockets.unwrap_or(1), threads.unwrap_or(1));
                sockets = Some(s);
                threads = Some(t);
                cores = Some(total / product(&[s, dies, modules, t])?);
            } else if sockets.is_none() {
                let t = threads.unwrap_or(1);
                threads = Some(t);
                sockets = Some(total / product(&[dies, modules, cores.unwrap_or(1), t])?);
            } else if threads.is_none() {
                threads = Some(total / product(&[sockets.unwrap_or(1), dies, modules, cores.unwrap_or(1)])?);
            }
        }
        let (sockets, cores, threads) = (sockets.unwrap_or(1), cores.unwrap_or(1), threads.unwrap_or(1));
        let all = product(&[sockets, dies, modules, cores, threads])?;
        let maxcpus = self.maxcpus.or(self.cpus.filter(|_| self.maxcpus.is_none())).unwrap_or(all);
        let cpus = self.cpus.unwrap_or(maxcpus);
        let between =
            if has_dies { format!(" * dies ({dies}) * modules ({modules})") } else { String::new() };
        let hierarchy = format!("sockets ({sockets}){between} * cores ({cores}) * threads ({threads})");
        if all != maxcpus {
            return Err(Error::generic(format!(
                "Invalid CPU topology: product of the hierarchy must match maxcpus: {hierarchy} != maxcpus ({maxcpus})"
            )));
        }
        if maxcpus < cpus {
            return Err(Error::generic(format!(
                "Invalid CPU topology: maxcpus must be equal to or greater than smp: {hierarchy} == maxcpus ({maxcpus}) < smp_cpus ({cpus})"
            )));
        }
        if maxcpus > limit {
            return Err(Error::generic(format!(
                "Invalid SMP CPUs {maxcpus}. The max CPUs supported by machine '{machine}' is {limit}"
            )));
        }
        let narrow = |v: u64| u32::try_from(v).map_err(|_| huge());
        Ok(Smp {
            cpus: narrow(cpus)?,
            sockets: narrow(sockets)?,
            dies: narrow(dies)?,
            modules: narrow(modules)?,
            cores: narrow(cores)?,
            threads: narrow(threads)?,
            maxcpus: narrow(maxcpus)?,
        })
    }
}

impl Smp {
    /// What a socket is made of.
    pub fn package(&self) -> accel::Topology {
        let Self { dies, modules, cores, threads, .. } = *self;
        accel::Topology { dies, modules, cores, threads }
    }

    /// (socket, die, module, core, thread) of vCPU `index`.
    pub fn position(&self, index: u32) -> [u32; 5] {
        let thread = index % self.threads;
        let core = index / self.threads % self.cores;
        let module = index / (self.threads * self.cores) % self.modules;
        let die = index / (self.threads * self.cores * self.modules) % self.dies;
        let socket = index / (self.threads * self.cores * self.modules * self.dies);
        [socket, die, module, core, thread]
    }

    /// The place of vCPU `index` in words; levels that the topology does not have are left out.
    pub fn position_text(&self, index: u32) -> String {
        let [socket, die, module, core, thread] = self.position(index);
        let mut parts = vec![format!("socket-id: {socket}")];
        if self.dies > 1 {
            parts.push(format!("die-id: {die}"));
        }
        if self.modules > 1 {
            parts.push(format!("module-id: {module}"));
        }
        parts.push(format!("core-id: {core}"));
        parts.push(format!("thread-id: {thread}"));
        parts.join(", ")
    }

    /// The APIC ID of vCPU `index`.
    pub fn apic_id(&self, index: u32) -> u32 {
        self.apic_id_at(self.position(index))
    }

    /// How many of a level there are in one of the level above; sockets are first.
    pub fn counts(&self) -> [u32; 5] {
        [self.sockets, self.dies, self.modules, self.cores, self.threads]
    }

    /// How many bits each level but the first takes in an APIC ID: as many as its largest number needs (Intel SDM 10.4.6).
    fn apic_id_bits(&self) -> [u32; 4] {
        let bits = |count: u32| u32::BITS - (count - 1).leading_zeros();
        [self.dies, self.modules, self.cores, self.threads].map(bits)
    }

    /// The APIC ID of a (socket, die, module, core, thread).
    pub fn apic_id_at(&self, [socket, lower @ ..]: [u32; 5]) -> u32 {
        let levels = lower.into_iter().zip(self.apic_id_bits());
        levels.fold(socket, |id, (part, bits)| id << bits | part)
    }

    /// The place that an APIC ID speaks of, whether there is one or not.
    pub fn position_of(&self, apic_id: u32) -> [u32; 5] {
        let (mut rest, mut position) = (apic_id, [0; 5]);
        for (part, bits) in position[1..].iter_mut().zip(self.apic_id_bits()).rev() {
            *part = rest & ((1 << bits) - 1);
            rest >>= bits;
        }
        position[0] = rest;
        position
    }

    /// The vCPU that may be at a place.
    pub fn index_at(&self, position: [u32; 5]) -> Option<u32> {
        let counts = self.counts();
        let inside = position.iter().zip(counts).all(|(at, count)| *at < count);
        let index = || position.iter().zip(counts).fold(0, |index, (at, count)| index * count + at);
        inside.then(index)
    }
}

#[cfg(test)]
mod tests;
