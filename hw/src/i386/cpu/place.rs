//! Where a vCPU sits: what was asked for, and which of the places of the machine that is.

use qapi::{Error, Result};
use qom::Property;

use super::{Cpu, lock};
use crate::core::config::Smp;

/// The levels of the topology, sockets first.
const LEVELS: [&str; 5] = ["socket-id", "die-id", "module-id", "core-id", "thread-id"];
/// Levels that need not be named while there is one in each of the level above.
const OPTIONAL: [usize; 2] = [1, 2];
/// A level that was not named.
const UNSET: i32 = -1;
/// An APIC ID that was not given.
const NO_APIC_ID: u32 = u32::MAX;

/// What was set, and once the vCPU is realized all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    levels: [i32; 5],
    pub(super) node: i32,
    apic_id: u32,
}

/// The properties of classes.
pub(super) fn properties() -> impl Iterator<Item = Property> {
    let levels = LEVELS.into_iter().enumerate();
    let levels = levels.map(|(level, name)| signed(name, move |place| &mut place.levels[level]));
    let apic_id = Property::new("apic-id", "uint32")
        .default(NO_APIC_ID)
        .get(|c: &Cpu| Ok(lock(&c.place).apic_id.into()))
        .set(|c: &Cpu, value, name| {
            lock(&c.place).apic_id = value.to_uint(name, 32)? as u32;
            Ok(())
        });
    levels.chain([signed("node-id", |place| &mut place.node), apic_id])
}

fn signed(
    name: &'static str,
    field: impl Fn(&mut Place) -> &mut i32 + Copy + Send + Sync + 'static,
) -> Property {
    Property::new(name, "int32")
        .default(UNSET)
        .get(move |c: &Cpu| Ok(i64::from(*field(&mut lock(&c.place))).into()))
        .set(move |c: &Cpu, value, name| {
            *field(&mut lock(&c.place)) = value.to_int(name, 32)? as i32;
            Ok(())
        })
}

impl Place {
    /// Nothing was set.
    pub(super) const UNSET: Self = Self { levels: [UNSET; 5], node: UNSET, apic_id: NO_APIC_ID };

    /// The index of the vCPU that is meant, for which `is_taken` says whether there is one. Fills in what was not said.
    ///
    /// # Errors
    /// QEMU's texts: something is missing, out of range or in contradiction, or there is a vCPU.
    pub(super) fn resolve(&mut self, smp: &Smp, is_taken: impl Fn(u32) -> bool) -> Result<u32> {
        if self.apic_id == NO_APIC_ID {
            self.apic_id = smp.apic_id_at(self.named(smp)?);
        }
        let position = smp.position_of(self.apic_id);
        let Some(index) = smp.index_at(position) else {
            let [socket, die, module, core, thread] = position;
            return error(format!(
                "Invalid CPU [socket: {socket}, die: {die}, module: {module}, core: {core}, thread: {thread}] with APIC ID \
                 {}, valid index range 0:{}",
                self.apic_id,
                smp.maxcpus - 1
            ));
        };
        if is_taken(index) {
            return error(format!("CPU[{index}] with APIC ID {} exists", self.apic_id));
        }
        for ((name, level), is) in LEVELS.into_iter().zip(&mut self.levels).zip(position) {
            if *level != UNSET && *level != is as i32 {
                return error(format!(
                    "property {name}: {} doesn't match set apic-id: 0x{:x} ({name}: {is})",
                    *level as u32, self.apic_id
                ));
            }
            *level = is as i32;
        }
        Ok(index)
    }

    /// The place that the levels name.
    fn named(&self, smp: &Smp) -> Result<[u32; 5]> {
        let mut position = [0; 5];
        for (at, (name, count)) in LEVELS.into_iter().zip(smp.counts()).enumerate() {
            let asked = match self.levels[at] {
                level if level < 0 && count == 1 && OPTIONAL.contains(&at) => 0,
                level => level,
            };
            let Ok(asked) = u32::try_from(asked) else { return error(format!("CPU {name} is not set")) };
            if asked >= count {
                return error(format!("Invalid CPU {name}: {asked} must be in range 0:{}", count - 1));
            }
            position[at] = asked;
        }
        Ok(position)
    }

    /// Takes the node that the machine has for the vCPU, if it has one. All are in node 0 where there are none.
    ///
    /// # Errors
    /// QEMU's text: another one was asked for.
    pub(super) fn resolve_node(&mut self, node: Option<u16>) -> Result<()> {
        let is = node.map_or(0, i32::from);
        if self.node != UNSET && self.node != is {
            return error(format!("invalid node-id, must be {is}"));
        }
        if node.is_some() {
            self.node = is;
        }
        Ok(())
    }
}

fn error<T>(text: String) -> Result<T> {
    Err(Error::generic(text))
}
