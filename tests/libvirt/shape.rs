//! The least that is a domain, and pieces of XML in their places.

use crate::Domain;

/// What a domain has besides, or instead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// `q35` or `pc`.
    pub(crate) machine: &'static str,
    /// What runs it: libvirt's word.
    pub(crate) kind: &'static str,
    pub(crate) memory: &'static str,
    pub(crate) vcpu: &'static str,
    /// Elements of the domain that belong nowhere else.
    pub(crate) besides: &'static str,
    pub(crate) os: &'static str,
    pub(crate) features: &'static str,
    pub(crate) cpu: &'static str,
    pub(crate) serial: &'static str,
    pub(crate) devices: &'static str,
}

/// 128 MiB, a vCPU of the host's kind, a serial port; nothing that libvirt adds by itself.
pub(crate) const LEAST: Shape = Shape {
    machine: "q35",
    kind: "kvm",
    memory: "<memory unit='MiB'>128</memory>",
    vcpu: "<vcpu>1</vcpu>",
    besides: "",
    os: "",
    features: "",
    cpu: "<cpu mode='host-passthrough'/>",
    serial: "<serial type='pty'/>",
    devices: "",
};

const ID: &str = "7c1d0a55-0f5e-4d6e-9a63-000000000005";

impl Shape {
    /// The same on the other board.
    pub(crate) fn on_pc(self) -> Self {
        Self { machine: "pc", ..self }
    }

    /// The domain; all have one identity, as there is one at a time. `@FOLDER@` in pieces is `folder`.
    pub(crate) fn domain(&self, name: &str, folder: &str) -> Domain {
        let Self { machine, kind, memory, vcpu, besides, os, features, cpu, serial, devices } = self;
        let balloon = if devices.contains("<memballoon") { "" } else { "<memballoon model='none'/>" };
        let xml = format!(
            "<domain type='{kind}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>@NAME@</name><uuid>{ID}</uuid>{memory}{vcpu}\
             <os><type arch='x86_64' machine='{machine}'>hvm</type>{os}</os><features><acpi/><apic/>{features}</features>{cpu}{besides}\
             <devices><emulator>@EMULATOR@</emulator><controller type='usb' model='none'/>{serial}{devices}\
             <audio id='1' type='none'/>{balloon}</devices></domain>"
        );
        Domain::new(name, &xml.replace("@FOLDER@", folder))
    }
}
