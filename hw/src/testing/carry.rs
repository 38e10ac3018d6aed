//! State that goes from one machine to another like it, without a stream in between.

use std::sync::Arc;

use vmstate::{Decoder, Encoder, Result, Saved, Section};

use crate::core::{Bus, Machine};

/// The state of one device: where it is, the section's version, its bytes.
pub(crate) type Carried = (String, u32, Vec<u8>);

/// The sections of all devices that have any, in the order in which they are loaded.
pub(crate) fn sections(machine: &Machine) -> Vec<(String, Section)> {
    fn walk(bus: &Arc<dyn Bus>, path: &str, list: &mut Vec<(String, Section)>) {
        for (index, device) in bus.bus().children().into_iter().enumerate() {
            let path = format!("{path}/{index}");
            if let Saved::Sections(sections) = Arc::clone(&device).saved() {
                list.extend(
                    sections.into_iter().map(|section| (format!("{path}/{}", section.name()), section)),
                );
            }
            for bus in device.dev().buses() {
                walk(&bus, &path, list);
            }
        }
    }
    let mut list = Vec::new();
    for (index, device) in machine.devices_without_bus().into_iter().enumerate() {
        if let Saved::Sections(sections) = device.saved() {
            list.extend(sections.into_iter().map(|section| (format!("{index}/{}", section.name()), section)));
        }
    }
    walk(&machine.main_bus(), "", &mut list);
    list.sort_by_key(|(_, section)| section.priority());
    list
}

fn encode(section: &Section) -> Vec<u8> {
    let mut out = Encoder::new();
    section.save(&mut out);
    out.into_bytes()
}

/// The state of all devices.
pub(crate) fn save(machine: &Machine) -> Vec<Carried> {
    let all = sections(machine);
    all.iter().map(|(path, section)| (path.clone(), section.version(), encode(section))).collect()
}

/// Has the devices of a like machine take it over.
pub(crate) fn load(machine: &Machine, state: &[Carried]) -> Result<()> {
    let all = sections(machine);
    assert_eq!(all.len(), state.len(), "the machines differ");
    for ((path, section), (saved, version, bytes)) in all.iter().zip(state) {
        assert_eq!(path, saved);
        let mut input = Decoder::new(&bytes[..]);
        section.load(&mut input, *version)?;
        assert!(input.bytes(&mut [0]).is_err(), "{path}: not all was read");
    }
    Ok(())
}

/// Moves all state to `to`, where it must look the same then.
pub(crate) fn carry(from: &Machine, to: &Machine) {
    let state = save(from);
    load(to, &state).unwrap();
    for (saved, again) in state.iter().zip(save(to)) {
        assert_eq!(*saved, again, "{} differs where it arrived", saved.0);
    }
}

/// Changes bytes of a section called `name`, and cuts it: the machine must take it or refuse it, and live.
pub(crate) fn spoil(machine: &Machine, name: &str) {
    let all = sections(machine);
    let (path, section) = all.iter().find(|(_, section)| section.name() == name).expect(name);
    let bytes = encode(section);
    assert!(section.load(&mut Decoder::new(&bytes[..]), section.version()).is_ok());
    for at in 0..bytes.len() {
        for mask in [1, 0x80, 0xff] {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= mask;
            // A long run of plain storage says the same many times over.
            if bytes.len() > 2000 && at % 16 != usize::from(mask) % 16 {
                continue;
            }
            let _ = section.load(&mut Decoder::new(&spoilt[..]), section.version());
            encode(section);
        }
        if bytes.len() < 2000 || at % 61 == 0 {
            let cut = section.load(&mut Decoder::new(&bytes[..at]), section.version());
            assert!(cut.is_err(), "{path} of {at} bytes is whole");
        }
    }
}

/// Copies guest memory.
pub(crate) fn copy_ram(from: &Machine, to: &Machine, at: u64, len: usize) {
    let mut bytes = vec![0; len];
    let _ = from.system_space().read(at, &mut bytes);
    let _ = to.system_space().write(at, &bytes);
}
