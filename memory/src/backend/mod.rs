//! Memory backends: the objects `memory-backend-ram`, `-file`, `-memfd` and `-shm` that provide RAM to machines and
//! devices.
//!
//! All are one struct; what differs is [`alloc`]. Properties, defaults and texts are QEMU's (`qemu-options`,
//! `memory-backend-*`). Left out: `prealloc-context` (there are no `thread-context` objects), persistence of `pmem`
//! beyond mapping the file, `memory-backend-epc`.

mod alloc;
mod properties;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use qapi::{Error, Result};
use qom::{ObjectCore, ObjectRef, Registry, TypeInfo, UserCreatable, object};

use crate::memory::Memory;
use crate::ram::{HostPolicy, RamBlock};
use crate::region::{Owner, RegionDesc, RegionId};

/// Highest host node, plus one.
const MAX_NODES: u16 = 128;

/// What backends start with; the machine's `mem-merge` and `dump-guest-core`, the number of vCPUs, `-mem-prealloc`.
#[derive(Debug, Clone, Copy)]
pub struct BackendDefaults {
    /// `merge`
    pub merge: bool,
    /// `dump`
    pub dump: bool,
    /// `prealloc`
    pub prealloc: bool,
    /// `prealloc-threads`
    pub prealloc_threads: u32,
}

impl Default for BackendDefaults {
    fn default() -> Self {
        Self { merge: true, dump: true, prealloc: false, prealloc_threads: 1 }
    }
}

/// Names of [`HostPolicy`], in order.
const POLICIES: [&str; 4] = ["default", "preferred", "bind", "interleave"];

fn policy_name(policy: HostPolicy) -> &'static str {
    match policy {
        HostPolicy::Default => POLICIES[0],
        HostPolicy::Preferred => POLICIES[1],
        HostPolicy::Bind => POLICIES[2],
        HostPolicy::Interleave => POLICIES[3],
    }
}

/// Names of [`Rom`], in order.
const ON_OFF_AUTO: [&str; 3] = ["auto", "on", "off"];

/// `rom` of a file backend; the discriminants index [`ON_OFF_AUTO`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rom {
    Auto,
    On,
    Off,
}

/// Which class an object is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ram,
    File,
    Memfd,
    Shm,
}

/// Everything that can be set.
#[derive(Debug, Clone)]
struct Config {
    size: u64,
    merge: bool,
    dump: bool,
    share: bool,
    reserve: bool,
    prealloc: bool,
    prealloc_threads: u32,
    policy: HostPolicy,
    host_nodes: Vec<u16>,
    canonical_path: bool,
    // memory-backend-file
    mem_path: Option<PathBuf>,
    align: u64,
    offset: u64,
    discard_data: bool,
    pmem: bool,
    readonly: bool,
    rom: Rom,
    // memory-backend-memfd
    hugetlb: bool,
    hugetlb_size: u64,
    seal: bool,
}

impl Config {
    fn new(kind: Kind, defaults: BackendDefaults) -> Self {
        Self {
            size: 0,
            merge: defaults.merge,
            dump: defaults.dump,
            share: matches!(kind, Kind::Memfd | Kind::Shm),
            reserve: true,
            prealloc: defaults.prealloc,
            prealloc_threads: defaults.prealloc_threads,
            policy: HostPolicy::Default,
            host_nodes: Vec::new(),
            canonical_path: false,
            mem_path: None,
            align: 0,
            offset: 0,
            discard_data: false,
            pmem: false,
            readonly: false,
            rom: Rom::Auto,
            hugetlb: false,
            hugetlb_size: 0,
            seal: true,
        }
    }
}

/// What completing the object made.
#[derive(Debug, Clone)]
struct Allocated {
    block: Arc<RamBlock>,
    region: RegionId,
}

/// A memory backend. Devices find it with [`MemoryBackend::from_object`].
#[doc(alias = "HostMemoryBackend")]
pub struct MemoryBackend {
    core: ObjectCore,
    me: Weak<Self>,
    memory: Weak<Memory>,
    kind: Kind,
    config: Mutex<Config>,
    allocated: OnceLock<Allocated>,
    mapped: AtomicBool,
}
object!(MemoryBackend, core);

/// Facts about a backend, as `query-memdev` and `info memdev` show them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[doc(alias = "Memdev")]
pub struct MemdevInfo {
    /// Name of the object.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// Whether the kernel may merge equal pages.
    pub merge: bool,
    /// Whether core dumps hold the memory.
    pub dump: bool,
    /// Whether the memory was allocated at the start.
    pub prealloc: bool,
    /// Whether other processes see stores.
    pub share: bool,
    /// Whether swap space is reserved.
    pub reserve: bool,
    /// Host nodes, ascending.
    pub host_nodes: Vec<u16>,
    /// `default`, `preferred`, `bind` or `interleave`.
    pub policy: &'static str,
}

/// Registers `memory-region`, `memory-backend` and the classes of backends; regions and backends created through
/// `memory` from then on appear in the object tree.
pub fn register(registry: &mut Registry, memory: &Arc<Memory>) {
    crate::object::register(registry, memory);
    registry.register(
        TypeInfo::new("memory-backend").interface("user-creatable").properties(properties::common()),
    );
    for (name, kind, own) in [
        ("memory-backend-ram", Kind::Ram, Vec::new()),
        ("memory-backend-file", Kind::File, properties::file()),
        ("memory-backend-memfd", Kind::Memfd, properties::memfd()),
        ("memory-backend-shm", Kind::Shm, Vec::new()),
    ] {
        let memory = Arc::downgrade(memory);
        registry.register(
            TypeInfo::new(name)
                .parent("memory-backend")
                .instance(move |class| MemoryBackend::new(ObjectCore::new(class), kind, memory.clone()))
                .cast::<MemoryBackend, dyn UserCreatable>(|backend| backend)
                .properties(own),
        );
    }
}

impl MemoryBackend {
    fn new(core: ObjectCore, kind: Kind, memory: Weak<Memory>) -> Arc<Self> {
        let defaults = memory.upgrade().map_or_else(BackendDefaults::default, |m| m.backend_defaults());
        Arc::new_cyclic(|me| Self {
            core,
            me: me.clone(),
            memory,
            kind,
            config: Mutex::new(Config::new(kind, defaults)),
            allocated: OnceLock::new(),
            mapped: AtomicBool::new(false),
        })
    }

    /// The backend behind an object, if it is one.
    pub fn from_object(object: &ObjectRef) -> Option<Arc<Self>> {
        object.downcast()
    }

    fn config(&self) -> MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Name of the object, or its path with `x-use-canonical-path-for-ramblock-id`.
    #[doc(alias = "host_memory_backend_get_name")]
    pub fn name(&self) -> String {
        match self.me.upgrade() {
            Some(me) if self.config().canonical_path => {
                let me: ObjectRef = me;
                me.path()
            }
            _ => self.id(),
        }
    }

    /// Name of the object in the tree.
    pub fn id(&self) -> String {
        self.core.name()
    }

    /// The memory; absent until the object is complete.
    pub fn block(&self) -> Option<Arc<RamBlock>> {
        self.allocated.get().map(|a| a.block.clone())
    }

    /// The region to map; absent until the object is complete.
    pub fn region(&self) -> Option<RegionId> {
        self.allocated.get().map(|a| a.region)
    }

    /// Bytes of the region.
    pub fn size(&self) -> u64 {
        self.config().size
    }

    /// Bytes of a page of the memory; the host's until the object is complete.
    pub fn page_size(&self) -> u64 {
        self.allocated.get().map_or_else(crate::ram::host_page_size, |a| a.block.page_size())
    }

    /// Whether the memory was allocated at the start.
    pub fn prealloc(&self) -> bool {
        self.config().prealloc
    }

    /// Threads that allocate memory.
    pub fn prealloc_threads(&self) -> u32 {
        self.config().prealloc_threads
    }

    /// Whether the guest must not write the memory.
    pub fn is_rom(&self) -> bool {
        self.kind == Kind::File && self.config().rom == Rom::On
    }

    /// Whether a machine or device uses the memory; it cannot be deleted or used again meanwhile.
    pub fn is_mapped(&self) -> bool {
        self.mapped.load(Ordering::Acquire)
    }

    /// Says whether somebody uses the memory.
    pub fn set_mapped(&self, mapped: bool) {
        self.mapped.store(mapped, Ordering::Release);
    }

    /// Starts to use the memory, unless somebody does.
    pub fn try_map(&self) -> bool {
        self.mapped.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// What `query-memdev` shows.
    pub fn info(&self) -> MemdevInfo {
        let id = self.id();
        let config = self.config();
        MemdevInfo {
            id,
            size: config.size,
            merge: config.merge,
            dump: config.dump,
            prealloc: config.prealloc,
            share: config.share,
            reserve: config.reserve,
            host_nodes: config.host_nodes.clone(),
            policy: policy_name(config.policy),
        }
    }

    fn apply(&self, block: &RamBlock, config: &Config) -> Result<()> {
        if config.merge {
            block.set_mergeable(true);
        }
        if !config.dump {
            block.set_dump(false);
        }
        match (config.host_nodes.is_empty(), config.policy) {
            (false, HostPolicy::Default) => {
                return Err(Error::generic(
                    "host-nodes must be empty for policy default, or you should explicitly specify a policy other \
                     than default",
                ));
            }
            (true, policy) if policy != HostPolicy::Default => {
                let name = policy_name(policy);
                return Err(Error::generic(format!("host-nodes must be set for policy {name}")));
            }
            _ => block.bind(config.policy, &config.host_nodes)?,
        }
        // Only now, so that the pages come from the right nodes.
        if config.prealloc {
            match self.memory.upgrade() {
                Some(memory) => memory.preallocate(block, config.prealloc_threads)?,
                None => block.prealloc(0, block.size(), config.prealloc_threads)?,
            }
        }
        Ok(())
    }
}

impl UserCreatable for MemoryBackend {
    fn complete(&self) -> Result<()> {
        let (Some(memory), Some(me)) = (self.memory.upgrade(), self.me.upgrade()) else {
            return Err(Error::generic("the virtual machine is gone"));
        };
        let name = self.name();
        let mut config = self.config().clone();
        let block = alloc::allocate(&memory, self.kind, &name, &mut config)?;
        // Until a device or machine registers it, the block has no name for migration.
        block.unregister_name();
        self.apply(&block, &config)?;
        let me: ObjectRef = me;
        let desc = RegionDesc::new(name, u128::from(config.size)).owned_by(Owner::of(&me));
        let mut tx = memory.transaction();
        let rom = config.rom == Rom::On;
        let region = if rom { tx.rom(desc, block.clone()) } else { tx.ram(desc, block.clone()) };
        drop(tx);
        *self.config() = config;
        if self.allocated.set(Allocated { block, region }).is_err() {
            return Err(Error::generic("the backend is complete already"));
        }
        Ok(())
    }

    fn can_be_deleted(&self) -> bool {
        !self.is_mapped()
    }
}

impl Drop for MemoryBackend {
    fn drop(&mut self) {
        let Some(Allocated { block, region }) = self.allocated.get() else { return };
        if self.config().discard_data {
            block.discard_contents();
        }
        if let Some(memory) = self.memory.upgrade()
            && let Err(error) = memory.transaction().destroy(*region)
        {
            trace::emit!(pliant_backend_region_left, &error);
        }
    }
}

#[cfg(test)]
mod tests;
