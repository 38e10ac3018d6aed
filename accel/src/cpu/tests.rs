//! Claims about `-cpu` texts.

use super::*;

#[test]
fn the_default_is_qemu64_with_40_bits() {
    let model = CpuModel::default();
    assert_eq!(model, CpuModel::parse("qemu64").unwrap());
    assert_eq!(model.phys_bits(48), 40);
}

#[test]
fn host_and_max_have_the_hosts_address_bits_unless_told() {
    for name in ["host", "max"] {
        assert_eq!(CpuModel::parse(name).unwrap().phys_bits(46), 46);
        assert_eq!(CpuModel::parse(&format!("{name},phys-bits=39")).unwrap().phys_bits(46), 39);
    }
    assert_eq!(CpuModel::parse("qemu64,host-phys-bits=on").unwrap().phys_bits(46), 46);
}

#[test]
fn features_are_switched_in_all_spellings() {
    let model = CpuModel::parse("qemu64,+aes,-sse4_1,sse3=off,avx,vendor=GenuineIntel").unwrap();
    let switched: Vec<_> = model.switched().map(|(feature, on)| (feature.name, on)).collect();
    assert_eq!(switched, [("aes", true), ("avx", true), ("pni", false), ("sse4.1", false)]);
    assert_eq!(model.vendor(), Some(b"GenuineIntel"));
}

#[test]
fn errors_are_qemus() {
    let error = |text| CpuModel::parse(text).unwrap_err().desc().to_owned();
    assert_eq!(error(""), "-cpu option cannot be empty");
    assert_eq!(error("foo"), "unable to find CPU model 'foo'");
    assert_eq!(error("host,+foo"), "Property 'host-x86_64-cpu.foo' not found");
    assert_eq!(
        error("qemu64,foo=1"),
        "can't apply global qemu64-x86_64-cpu.foo=1: Property 'qemu64-x86_64-cpu.foo' not found"
    );
    assert_eq!(
        error("host,foo"),
        "can't apply global host-x86_64-cpu.foo=on: Property 'host-x86_64-cpu.foo' not found"
    );
    assert_eq!(
        error("qemu64,phys-bits=x"),
        "can't apply global qemu64-x86_64-cpu.phys-bits=x: Parameter 'phys-bits' expects uint64"
    );
    assert_eq!(error("qemu64,phys-bits=1"), "phys-bits should be between 32 and 52  (but is 1)");
    assert_eq!(
        error("qemu64,vendor=foo"),
        "can't apply global qemu64-x86_64-cpu.vendor=foo: value of property 'vendor' must consist of exactly 12 characters"
    );
    assert_eq!(
        error("qemu64,sse4.1=maybe"),
        "can't apply global qemu64-x86_64-cpu.sse4.1=maybe: Parameter 'sse4.1' expects 'on' or 'off'"
    );
}

#[test]
fn every_name_of_qemu64_is_a_feature_of_that_register() {
    for (leaf, register, names) in QEMU64 {
        for name in *names {
            let feature = feature(name).unwrap();
            assert_eq!((feature.leaf, feature.register), (*leaf, *register), "{name}");
        }
    }
}

#[test]
fn features_print_as_in_qemus_warnings() {
    assert_eq!(feature("sse3").unwrap().to_string(), "CPUID.01H:ECX.pni [bit 0]");
    assert_eq!(feature("avx512f").unwrap().to_string(), "CPUID.07H:EBX.avx512f [bit 16]");
}
