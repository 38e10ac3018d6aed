//! Devices whose rings another process serves over the vhost-user protocol.
//!
//! Specification: `docs/interop/vhost-user` of QEMU 10.0. Front end only. From the wire up: [`message`] (bytes), [`channel`] (one request
//! at a time, with a deadline), [`frontend`] (requests as functions), [`regions`] (which memory is given away), [`session`] (connection,
//! memory and rings of a device), [`client`] (the same with its thread and locks), [`blk`] (the device `vhost-user-blk`).
//!
//! A back end is not trusted to live, to answer, or to make sense; it *is* trusted with the guest's shared memory. Left out: migration of
//! a device, dirty log, IOMMU, in-band notifications, resets of a single queue, descriptors for errors of rings.

mod backend_channel;
mod blk;
mod channel;
mod client;
mod frontend;
mod message;
mod regions;
mod session;
#[cfg(test)]
mod testing;

/// Registers the devices.
pub(crate) fn register(registry: &mut qom::Registry) {
    blk::register(registry);
}

#[cfg(test)]
mod tests;
