//! Properties of memory backends, with the checks and texts of QEMU's setters.

use std::path::PathBuf;

use qapi::{Error, Result, Value};
use qom::{Input, Object, Property};

use super::{Config, HostPolicy, MAX_NODES, MemoryBackend, ON_OFF_AUTO, POLICIES, Rom, policy_name};

type Get<T> = fn(&Config) -> T;
type Set<T> = fn(&mut Config, T);

impl MemoryBackend {
    fn class_name(&self) -> &'static str {
        self.core().class().name()
    }

    fn is_complete(&self) -> bool {
        self.allocated.get().is_some()
    }

    /// Refuses to change what was used when the memory was allocated.
    fn fixed(&self, text: impl FnOnce() -> String) -> Result<()> {
        if self.is_complete() { Err(Error::generic(text())) } else { Ok(()) }
    }

    fn bad_value(&self, name: &str, value: u64) -> Error {
        Error::generic(format!("property '{name}' of {} doesn't take value '{value}'", self.class_name()))
    }
}

fn value_fixed() -> String {
    "cannot change property value".to_owned()
}

fn flag(name: &'static str, get: Get<bool>) -> Property {
    Property::new(name, "bool").get(move |b: &MemoryBackend| Ok(get(&b.config()).into()))
}

/// A flag that may always change.
fn free_flag(name: &'static str, get: Get<bool>, set: Set<bool>) -> Property {
    flag(name, get).set(move |b: &MemoryBackend, v, n| {
        let value = v.to_bool(n)?;
        set(&mut b.config(), value);
        Ok(())
    })
}

/// A flag that is fixed once complete, with the text QEMU has for it (`{}` being the class).
fn fixed_flag(
    name: &'static str,
    get: Get<bool>,
    set: Set<bool>,
    text: fn(&str, &str) -> String,
) -> Property {
    flag(name, get).set(move |b: &MemoryBackend, v, n| {
        b.fixed(|| text(n, b.class_name()))?;
        let value = v.to_bool(n)?;
        set(&mut b.config(), value);
        Ok(())
    })
}

/// A size that is fixed once complete.
fn fixed_size(name: &'static str, get: Get<u64>, set: Set<u64>) -> Property {
    Property::new(name, "int").get(move |b: &MemoryBackend| Ok(get(&b.config()).into())).set(
        move |b: &MemoryBackend, v, n| {
            b.fixed(|| format!("cannot change property '{n}' of {}", b.class_name()))?;
            let value = v.to_size(n)?;
            set(&mut b.config(), value);
            Ok(())
        },
    )
}

/// A hint that goes to the kernel at once when it changes later.
fn hint(name: &'static str, get: Get<bool>, set: Set<bool>, apply: fn(&crate::RamBlock, bool)) -> Property {
    flag(name, get).set(move |b: &MemoryBackend, v, n| {
        let value = v.to_bool(n)?;
        let mut config = b.config();
        if let Some(block) = b.block()
            && get(&config) != value
        {
            apply(&block, value);
        }
        set(&mut config, value);
        Ok(())
    })
}

/// Properties of every backend.
pub(super) fn common() -> Vec<Property> {
    vec![
        fixed_flag("share", |c| c.share, |c, v| c.share = v, |_, _| value_fixed())
            .description("Mark the memory as private to QEMU or shared"),
        size(),
        hint("dump", |c| c.dump, |c, v| c.dump = v, crate::RamBlock::set_dump)
            .description("Set to 'off' to exclude from core dump"),
        prealloc_threads(),
        free_flag("x-use-canonical-path-for-ramblock-id", |c| c.canonical_path, |c, v| c.canonical_path = v),
        policy(),
        prealloc_context(),
        prealloc(),
        reserve(),
        host_nodes(),
        hint("merge", |c| c.merge, |c, v| c.merge = v, crate::RamBlock::set_mergeable)
            .description("Mark memory as mergeable"),
    ]
}

fn size() -> Property {
    Property::new("size", "int")
        .description("Size of the memory region (ex: 500M)")
        .get(|b: &MemoryBackend| Ok(b.config().size.into()))
        .set(|b: &MemoryBackend, v, n| {
            b.fixed(|| format!("cannot change property {n} of {} ", b.class_name()))?;
            let size = v.to_size(n)?;
            if size == 0 {
                return Err(b.bad_value(n, 0));
            }
            b.config().size = size;
            Ok(())
        })
}

fn prealloc_threads() -> Property {
    Property::new("prealloc-threads", "int")
        .description("Number of CPU threads to use for prealloc")
        .get(|b: &MemoryBackend| Ok(b.config().prealloc_threads.into()))
        .set(|b: &MemoryBackend, v, n| {
            let threads = v.to_uint(n, 32)?;
            match u32::try_from(threads) {
                Ok(threads) if threads > 0 => b.config().prealloc_threads = threads,
                _ => return Err(b.bad_value(n, threads)),
            }
            Ok(())
        })
}

fn prealloc_context() -> Property {
    Property::new("prealloc-context", "link<thread-context>")
        .description("Context to use for creating CPU threads for preallocation")
        .get(|_: &MemoryBackend| Ok("".into()))
        .set(|_: &MemoryBackend, v, n| match v.to_str(n)? {
            "" => Ok(()),
            // There are no objects of class `thread-context` to name.
            name => Err(Error::device_not_found(name)),
        })
}

fn prealloc() -> Property {
    flag("prealloc", |c| c.prealloc).description("Preallocate memory").set(|b: &MemoryBackend, v, n| {
        let value = v.to_bool(n)?;
        let mut config = b.config();
        if value && !config.reserve {
            return Err(prealloc_without_reserve());
        }
        match b.block() {
            None => config.prealloc = value,
            Some(block) if value && !config.prealloc => {
                let threads = config.prealloc_threads;
                // Allocating takes long; readers of other properties need not wait for it.
                drop(config);
                block.prealloc(0, block.size(), threads)?;
                b.config().prealloc = true;
            }
            Some(_) => {}
        }
        Ok(())
    })
}

fn reserve() -> Property {
    flag("reserve", |c| c.reserve).description("Reserve swap space (or huge pages) if applicable").set(
        |b: &MemoryBackend, v, n| {
            b.fixed(value_fixed)?;
            let value = v.to_bool(n)?;
            let mut config = b.config();
            if config.prealloc && !value {
                return Err(prealloc_without_reserve());
            }
            config.reserve = value;
            Ok(())
        },
    )
}

fn prealloc_without_reserve() -> Error {
    Error::generic("'prealloc=on' and 'reserve=off' are incompatible")
}

fn policy() -> Property {
    Property::new("policy", "HostMemPolicy")
        .values(&POLICIES)
        .description("Set the NUMA policy")
        .get(|b: &MemoryBackend| Ok(policy_name(b.config().policy).into()))
        .set(|b: &MemoryBackend, v, n| {
            b.config().policy = match v.to_enum(n, &POLICIES)? {
                0 => HostPolicy::Default,
                1 => HostPolicy::Preferred,
                2 => HostPolicy::Bind,
                _ => HostPolicy::Interleave,
            };
            Ok(())
        })
}

fn host_nodes() -> Property {
    Property::new("host-nodes", "int")
        .description("Binds memory to the list of NUMA host nodes")
        .get(|b: &MemoryBackend| Ok(Value::from(b.config().host_nodes.clone())))
        .set(|b: &MemoryBackend, v, n| {
            let mut nodes = v.to_u16_list(n)?;
            if let Some(bad) = nodes.iter().find(|&&node| node >= MAX_NODES) {
                return Err(Error::generic(format!("Invalid host-nodes value: {bad}")));
            }
            nodes.sort_unstable();
            nodes.dedup();
            b.config().host_nodes = nodes;
            Ok(())
        })
}

/// Properties of `memory-backend-file`.
pub(super) fn file() -> Vec<Property> {
    fn dotted(name: &str, class: &str) -> String {
        format!("cannot change property '{name}' of {class}.")
    }
    vec![
        fixed_flag("pmem", |c| c.pmem, |c, v| c.pmem = v, dotted),
        fixed_size("align", |c| c.align, |c, v| c.align = v),
        fixed_size("offset", |c| c.offset, |c, v| c.offset = v)
            .description("Offset into the target file (ex: 1G)"),
        mem_path(),
        rom(dotted),
        free_flag("discard-data", |c| c.discard_data, |c, v| c.discard_data = v),
        fixed_flag("readonly", |c| c.readonly, |c, v| c.readonly = v, dotted),
    ]
}

fn mem_path() -> Property {
    Property::new("mem-path", "string")
        .get(|b: &MemoryBackend| {
            let path = b.config().mem_path.as_ref().map(|p| p.to_string_lossy().into_owned());
            Ok(path.unwrap_or_default().into())
        })
        .set(|b: &MemoryBackend, v, n| {
            b.fixed(|| format!("cannot change property 'mem-path' of {}", b.class_name()))?;
            b.config().mem_path = Some(PathBuf::from(v.to_str(n)?));
            Ok(())
        })
}

fn rom(fixed: fn(&str, &str) -> String) -> Property {
    Property::new("rom", "OnOffAuto")
        .values(&ON_OFF_AUTO)
        .description("Whether to create Read Only Memory (ROM)")
        .get(|b: &MemoryBackend| Ok(ON_OFF_AUTO[b.config().rom as usize].into()))
        .set(move |b: &MemoryBackend, v: Input<'_>, n: &str| {
            b.fixed(|| fixed(n, b.class_name()))?;
            b.config().rom = match v.to_enum(n, &ON_OFF_AUTO)? {
                0 => Rom::Auto,
                1 => Rom::On,
                _ => Rom::Off,
            };
            Ok(())
        })
}

/// Properties of `memory-backend-memfd`.
pub(super) fn memfd() -> Vec<Property> {
    vec![
        free_flag("hugetlb", |c| c.hugetlb, |c, v| c.hugetlb = v).description("Use huge pages"),
        free_flag("seal", |c| c.seal, |c, v| c.seal = v).description("Seal growing & shrinking"),
        Property::new("hugetlbsize", "int")
            .description("Huge pages size (ex: 2M, 1G)")
            .get(|b: &MemoryBackend| Ok(b.config().hugetlb_size.into()))
            .set(|b: &MemoryBackend, v, n| {
                b.fixed(value_fixed)?;
                let size = v.to_size(n)?;
                if size == 0 {
                    let class = b.class_name();
                    return Err(Error::generic(format!("Property '{class}.{n}' doesn't take value '0'")));
                }
                b.config().hugetlb_size = size;
                Ok(())
            }),
    ]
}
