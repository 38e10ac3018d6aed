//! What the virtio queries answer: here `x-query-virtio` and `x-query-virtio-status` answer, and what `info virtio-status` is made from.

pub mod queues;

use std::sync::Arc;

use qapi::types::{
    VhostDeviceProtocols, VhostStatus, VirtioDeviceFeatures, VirtioDeviceStatus, VirtioInfo, VirtioStatus,
};
use qapi::{Error, Result};
use qom::{ObjectRef, Resolve, Tree, cast};

use super::backend::VirtioBackend;
use super::features::{BAD_FEATURE, STATUS_TEXT, TRANSPORT_TEXT, status};
use super::mmio::VirtioMmio;
use super::pci::Proxy;
use super::ring_server::RingServerStatus;
use super::transport::Transport;
use crate::core::{Device, Machine, qdev};

/// A realized device and its transport.
struct Found {
    backend: Arc<dyn VirtioBackend>,
    transport: Arc<Transport>,
    object: ObjectRef,
}

fn found(object: &ObjectRef) -> Option<Found> {
    let backend = cast::<dyn VirtioBackend>(object)?;
    let device: Arc<dyn Device> = Arc::clone(&backend) as Arc<dyn Device>;
    let proxy = device.dev().parent_bus()?.bus().parent()? as ObjectRef;
    let transport = match cast::<dyn Proxy>(&proxy) {
        Some(proxy) => proxy.virtio().transport()?,
        None => proxy.downcast::<VirtioMmio>()?.transport()?,
    };
    Some(Found { backend, transport, object: Arc::clone(object) })
}

/// All realized virtio devices, by path.
pub fn devices(tree: &Tree) -> Vec<VirtioInfo> {
    let mut list = Vec::new();
    collect(tree.root(), &mut list);
    list.sort_by(|a, b| a.path.cmp(&b.path));
    list
}

/// `device-sync-config`: whoever knows the configuration space of the device `id` tells it anew.
///
/// # Errors
/// `Device '…' not found`, `… is not a device`, nobody but the program knows it, or they cannot be asked.
pub fn sync_config(machine: &Arc<Machine>, id: &str) -> Result<()> {
    let device = qdev::find_device(machine, id)?;
    let object = Arc::clone(&device) as ObjectRef;
    let proxy = cast::<dyn Proxy>(&object).and_then(|proxy| proxy.virtio().transport());
    // The proxy of a virtio device asks that one.
    let backend =
        proxy.map(|transport| Arc::clone(transport.backend())).or_else(|| cast::<dyn VirtioBackend>(&object));
    let name = backend.as_ref().map_or(object.core().class().name(), |b| b.core().class().name());
    let unsupported = || Err(Error::generic(format!("device-sync-config is not supported for '{name}'")));
    backend.as_ref().and_then(|backend| backend.sync_config()).unwrap_or_else(unsupported)
}

fn collect(object: &ObjectRef, list: &mut Vec<VirtioInfo>) {
    if let Some(found) = found(object) {
        list.push(VirtioInfo { path: found.object.path(), name: found.backend.name().to_owned() });
    }
    for (_, child) in object.core().children() {
        collect(&child, list);
    }
}

fn find(machine: &Machine, path: &str) -> Option<Found> {
    match machine.tree().resolve(path) {
        Resolve::Found(object) => found(&object),
        Resolve::Ambiguous | Resolve::Missing => None,
    }
}

/// The state of the device at `path`.
///
/// # Errors
/// `Path … is not a realized VirtIODevice`.
pub fn device_status(machine: &Machine, path: &str) -> Result<VirtioStatus> {
    let Found { backend, transport, .. } = find(machine, path)
        .ok_or_else(|| Error::generic(format!("Path {path} is not a realized VirtIODevice")))?;
    let generic = backend.common().generic();
    let texts = backend.feature_texts();
    let server = backend.ring_server().map(|server| server.status());
    Ok(transport.with_state(|state| VirtioStatus {
        name: backend.name().to_owned(),
        device_id: backend.device_id(),
        vhost_started: server.as_ref().is_some_and(|server| server.started),
        device_endian: "little".to_owned(),
        guest_features: features(state.accepted(), texts),
        host_features: features(state.offered() | backend.common().legacy_features(), texts),
        backend_features: features(0, texts),
        num_vqs: state.queues().len() as i64,
        status: statuses(state.status()),
        isr: state.isr(),
        queue_sel: state.queue_sel(),
        vm_running: machine.is_running(),
        broken: state.is_broken(),
        disabled: state.is_disabled(),
        use_started: generic.use_started,
        started: state.status() & status::DRIVER_OK != 0,
        start_on_kick: false,
        disable_legacy_check: generic.disable_legacy_check,
        bus_name: backend.dev().buses().first().map(|bus| bus.bus().name().to_owned()).unwrap_or_default(),
        use_guest_notifier_mask: true,
        vhost_dev: server.as_ref().map(|server| vhost_status(server, state.queues().len(), texts)),
    }))
}

fn vhost_status(
    server: &RingServerStatus,
    queues: usize,
    texts: &'static [(u64, &'static str)],
) -> VhostStatus {
    let protocols = &server.protocol_texts;
    VhostStatus {
        n_mem_sections: server.memory_sections as i64,
        n_tmp_sections: server.visible_sections as i64,
        // At most 1024.
        nvqs: queues as u32,
        vq_index: 0,
        features: features(server.features, texts),
        acked_features: features(server.acked_features, texts),
        backend_features: features(server.features & BAD_FEATURE, texts),
        protocol_features: VhostDeviceProtocols {
            protocols: protocols.iter().map(|text| (*text).to_owned()).collect(),
            unknown_protocols: None,
        },
        max_queues: server.max_queues,
        backend_cap: 0,
        log_enabled: false,
        log_size: 0,
    }
}

fn features(bits: u64, device: &'static [(u64, &'static str)]) -> VirtioDeviceFeatures {
    let named = |table: &[(u64, &str)]| {
        table.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, text)| (*text).to_owned()).collect()
    };
    let known = TRANSPORT_TEXT.iter().chain(device).fold(0, |known, (bit, _)| known | bit);
    let unknown = bits & !known;
    VirtioDeviceFeatures {
        transports: named(&TRANSPORT_TEXT),
        dev_features: Some(named(device)),
        unknown_dev_features: (unknown != 0).then_some(unknown),
    }
}

fn statuses(bits: u8) -> VirtioDeviceStatus {
    let named = STATUS_TEXT.iter().filter(|(bit, _)| bits & bit != 0);
    let known = STATUS_TEXT.iter().fold(0, |known, (bit, _)| known | bit);
    let unknown = bits & !known;
    VirtioDeviceStatus {
        statuses: named.map(|(_, text)| (*text).to_owned()).collect(),
        unknown_statuses: (unknown != 0).then_some(unknown),
    }
}
