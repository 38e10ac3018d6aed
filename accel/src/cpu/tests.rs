//! Claims about `-cpu` texts, names of features, and what models come to.

use super::*;
use crate::Topology;
use qapi::Value;
use qom::Input;

fn has(words: &Words, name: &str) -> bool {
    feature(name).unwrap().is_in(words)
}

/// KVM on a host that has `names`.
fn kvm_host(names: &[&str]) -> Supported {
    let mut words = [0; COUNT];
    names.iter().for_each(|name| feature(name).unwrap().switch(&mut words, true));
    Supported {
        words,
        vendor: *b"GenuineIntel",
        numbers: [6, 143, 8],
        model_id: "A Processor".into(),
        level: 0x20,
        xlevel: 0x8000_0008,
        kvm: true,
    }
}

fn facts(text: &str, names: &[&str]) -> Facts {
    CpuModel::parse(text).unwrap().facts(&kvm_host(names))
}

fn missing(facts: &Facts) -> Vec<String> {
    facts.missing.iter().map(ToString::to_string).collect()
}

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
    for (text, bits) in [
        ("host,host-phys-bits-limit=40", 40),
        ("host,host-phys-bits-limit=48", 46),
        ("host,host-phys-bits-limit=0", 46),
        ("host,phys-bits=39,host-phys-bits-limit=36", 39),
        ("qemu64,host-phys-bits-limit=36", 40),
    ] {
        assert_eq!(CpuModel::parse(text).unwrap().phys_bits(46), bits, "{text}");
    }
}

#[test]
fn features_are_switched_in_all_spellings() {
    let model = CpuModel::parse("qemu64,+aes,-sse4_1,sse3=off,avx,vendor=GenuineIntel,tsc_deadline").unwrap();
    let switched: Vec<_> = model.switched().map(|(feature, on)| (feature.name, on)).collect();
    let expected = [("aes", true), ("sse4.1", false), ("pni", false), ("avx", true), ("tsc-deadline", true)];
    assert_eq!(switched, expected);
    assert_eq!(model.vendor(), Some(b"GenuineIntel"));
    let last = CpuModel::parse("qemu64,+aes,aes=off").unwrap();
    assert_eq!(last.switched().map(|(_, on)| on).collect::<Vec<_>>(), [false]);
}

#[test]
fn errors_are_qemus() {
    let error = |text: &str| CpuModel::parse(text).unwrap_err().desc().to_owned();
    assert_eq!(error(""), "-cpu option cannot be empty");
    assert_eq!(error("foo"), "unable to find CPU model 'foo'");
    assert_eq!(error("host,+foo"), "Property 'host-x86_64-cpu.foo' not found");
    assert_eq!(error("qemu64,+avx=on"), "Property 'qemu64-x86_64-cpu.avx=on' not found");
    let global = |text: &str, what: &str| {
        let (model, setting) = text.split_once(',').unwrap();
        let setting = if setting.contains('=') { setting.to_owned() } else { format!("{setting}=on") };
        assert_eq!(error(text), format!("can't apply global {model}-x86_64-cpu.{setting}: {what}"));
    };
    global("qemu64,foo=1", "Property 'qemu64-x86_64-cpu.foo' not found");
    let hyper_v = "Property 'qemu64-x86_64-cpu.hv-time' not found: Hyper-V enlightenments are not supported";
    global("qemu64,hv-time", hyper_v);
    global("host,foo", "Property 'host-x86_64-cpu.foo' not found");
    global("qemu64,migratable=on", "Property 'qemu64-x86_64-cpu.migratable' not found");
    global("base,unavailable-features=1", "Property 'base-x86_64-cpu.unavailable-features' is not writable");
    global("qemu64,phys-bits=x", "Parameter 'phys-bits' expects uint64");
    global("qemu64,level=x", "Parameter 'level' expects uint64");
    global("host,host-phys-bits-limit=400", "Parameter 'host-phys-bits-limit' expects uint8_t");
    global("host,family=300", "parameter 'family' can be at most 270");
    global("host,model=256", "parameter 'model' can be at most 255");
    global("qemu64,stepping=-1", "parameter 'stepping' can be at most 15");
    global("qemu64,tsc-frequency=-1", "parameter 'tsc-frequency' can be at most 9223372036854775807");
    global("qemu64,vendor=foo", "value of property 'vendor' must consist of exactly 12 characters");
    global("qemu64,sse4.1=maybe", "Parameter 'sse4.1' expects 'on' or 'off'");
    global("host,migratable=maybe", "Parameter 'migratable' expects 'on' or 'off'");
    assert_eq!(error("qemu64,phys-bits=1"), "phys-bits should be between 32 and 52  (but is 1)");
    assert_eq!(error("host,host-phys-bits-limit=20"), "phys-bits should be between 32 and 52  (but is 20)");
}

#[test]
fn json_values_of_the_wrong_type_are_named_with_their_path() {
    let mut model = CpuModel::base(Base::Host);
    let mut set = |name, value: Value| {
        model.set(name, Input::Json(&value), &format!("model.props.{name}")).unwrap_err().desc().to_owned()
    };
    assert_eq!(set("avx", "on".into()), "Invalid parameter type for 'model.props.avx', expected: boolean");
    assert_eq!(set("family", "x".into()), "Parameter 'model.props.family' expects uint64");
    assert_eq!(set("vendor", 1.into()), "Invalid parameter type for 'model.props.vendor', expected: string");
    assert_eq!(set("hotplugged", true.into()), "Property 'host-x86_64-cpu.hotplugged' is not writable");
    assert_eq!(set("tsc_deadline", true.into()), "Property 'host-x86_64-cpu.tsc_deadline' not found");
}

#[test]
fn every_name_is_there_once_and_second_names_lead_to_first_ones() {
    let mut names: Vec<_> = features().map(|f| f.name).collect();
    let settings = SETTINGS.iter().map(|setting| setting.name);
    names.extend(settings.chain(ALIASES.iter().map(|(alias, _)| *alias)));
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
    assert!(ALIASES.iter().all(|(_, name)| feature(name).is_some_and(|f| f.name == *name)));
    assert!(WORDS.iter().all(|word| word.needs.is_none_or(|needs| feature(needs).is_some())));
}

#[test]
fn a_feature_of_two_bits_is_there_when_both_are() {
    let clock = feature("kvmclock").unwrap();
    assert_eq!(clock.mask, 0b1001);
    let mut words = [0; COUNT];
    words[clock.word] = 0b1000;
    assert!(!clock.is_in(&words));
    words[clock.word] = 0b1001;
    assert!(clock.is_in(&words));
}

#[test]
fn features_print_as_in_qemus_warnings() {
    assert_eq!(feature("sse3").unwrap().to_string(), "CPUID.01H:ECX.pni [bit 0]");
    assert_eq!(feature("avx512f").unwrap().to_string(), "CPUID.07H:EBX.avx512f [bit 16]");
    assert_eq!(feature("fred").unwrap().to_string(), "CPUID.07H:EAX.fred [bit 17]");
    assert_eq!(feature("rdctl-no").unwrap().to_string(), "MSR(10AH).rdctl-no [bit 0]");
    assert_eq!(feature("vmx-ins-outs").unwrap().to_string(), "MSR(480H).vmx-ins-outs [bit 54]");
}

#[test]
fn a_named_model_has_its_own_features_as_far_as_the_host_has_them() {
    let facts = facts("qemu64,+aes,+avx", &["fpu", "aes", "avx2", "kvmclock"]);
    assert_eq!(
        ["fpu", "aes", "avx2", "kvmclock", "lm"].map(|n| has(&facts.words, n)),
        [true, true, false, true, false]
    );
    assert!(has(&facts.wanted, "lm") && has(&facts.filtered, "lm"));
    let unavailable: Vec<_> = facts.unavailable().collect();
    assert!(unavailable.contains(&"avx") && unavailable.contains(&"lm") && !unavailable.contains(&"aes"));
    assert!(
        missing(&facts)
            .contains(&"host doesn't support requested feature: CPUID.01H:ECX.avx [bit 28]".into())
    );
    assert_eq!((facts.level, facts.xlevel, facts.vendor_text().as_str()), (0xd, 0x8000_000a, "GenuineIntel"));
}

#[test]
fn the_host_model_has_all_of_the_host_but_what_ties_to_it() {
    let names = ["fpu", "invtsc", "aes"];
    let plain = facts("host,-aes", &names);
    assert_eq!(names.map(|n| has(&plain.words, n)), [true, false, false]);
    assert!(plain.missing.is_empty(), "what is switched off is not missing");
    assert!(has(&facts("host,migratable=off", &names).words, "invtsc"));
    assert!(has(&facts("host,invtsc=on", &names).words, "invtsc"));
    assert_eq!((plain.family, plain.model, plain.stepping, plain.level), (6, 143, 8, 0x20));
    assert_eq!(facts("max,model-id=x,level=5", &names).model_id, "x");
}

#[test]
fn base_has_nothing_and_grows_with_what_is_added() {
    let base = facts("base", &["fpu", "avx2", "kvmclock"]);
    assert_eq!((base.words, base.level, base.vendor_text()), ([0; COUNT], 0, String::new()));
    let more = facts("base,+avx2,min-xlevel=0x80000008", &["fpu"]);
    assert_eq!((more.level, more.min_level, more.xlevel), (7, 7, 0x8000_0008));
    assert_eq!(facts("base,+avx2,level=1", &["avx2"]).level, 1);
    let level = |name: &str| {
        let facts = facts(&format!("base,+{name}"), &[]);
        (facts.level, facts.xlevel)
    };
    // As QEMU has them.
    for (name, leaves) in [
        ("fpu", (1, 0)),
        ("arat", (6, 0)),
        ("xsaveopt", (0xd, 0)),
        ("sm3", (7, 0)),
        ("sgx", (0x12, 0)),
        ("sgx1", (0, 0)),
        ("intel-pt", (0x14, 0)),
        ("avx10-128", (0, 0)),
        ("kvmclock", (0, 0)),
        ("npt", (0, 0)),
        ("invtsc", (0, 0x8000_0007)),
        ("overflow-recov", (0, 0)),
        ("clzero", (0, 0x8000_0008)),
        ("no-nested-data-bp", (0, 0x8000_0021)),
        ("perfmon-v2", (0, 0)),
        ("topoext", (0, 0x8000_0001)),
    ] {
        assert_eq!(level(name), leaves, "{name}");
    }
}

#[test]
fn parts_of_a_feature_that_is_off_are_off() {
    let names = ["arch-capabilities", "rdctl-no", "svm", "npt", "vmx", "vmx-ept"];
    let off = facts("host,-arch-capabilities,-svm", &names);
    assert_eq!(["rdctl-no", "npt", "vmx-ept"].map(|n| has(&off.words, n)), [false, false, true]);
    assert!(off.missing.is_empty());
    let alone = facts("base,+rdctl-no", &names);
    let text = "This feature depends on other features that were not requested: MSR(10AH).rdctl-no [bit 0]";
    assert_eq!(missing(&alone), [text]);
    let whole = facts("qemu64,vmx=on", &names);
    assert!(has(&whole.words, "vmx-ept"));
    assert!(!has(&facts("qemu64,vmx=on,vmx-ept=off", &names).words, "vmx-ept"));
}

#[test]
fn the_extended_state_follows_the_features_that_bring_it() {
    let low = word_at(Source::Cpuid { leaf: 0xd, index: Some(0), register: Register::Eax }).unwrap();
    let mut host = kvm_host(&["xsave", "avx", "avx512f", "pku", "amx-tile"]);
    host.words[low] = 0x602e7;
    let state = |text: &str| CpuModel::parse(text).unwrap().facts(&host).words[low];
    assert_eq!(state("host"), 0x602e7);
    assert_eq!(state("host,-avx512f,-amx-tile"), 0x207);
    assert_eq!(state("host,-xsave"), 0);
    assert_eq!(state("qemu64"), 0);
    assert_eq!(state("qemu64,+xsave,+avx"), 7);
}

#[test]
fn nobody_sees_what_is_hidden() {
    let names = ["kvmclock", "kvm-hint-dedicated", "pdcm"];
    let hidden = facts("host,kvm=off,pmu=off", &names);
    assert_eq!(names.map(|n| has(&hidden.words, n)), [false; 3]);
    assert_eq!(names.map(|n| has(&facts("host", &names).words, n)), [true; 3]);
}

#[test]
fn several_vcpus_say_that_they_share_a_package() {
    let names = ["ht", "cmp-legacy"];
    let alone = Topology { dies: 1, modules: 1, cores: 1, threads: 1 };
    let both = |several: bool, host: &[&str]| {
        let mut facts = facts("qemu64,vendor=AuthenticAMD", host);
        facts.realize(&Topology { cores: 1 + u32::from(several), ..alone }, &kvm_host(host));
        let filtered: Vec<_> = facts.unavailable().filter(|name| names.contains(name)).collect();
        (names.map(|name| has(&facts.words, name)), filtered)
    };
    assert_eq!(both(false, &names), ([false; 2], vec![]));
    assert_eq!(both(true, &names), ([true; 2], vec![]));
    assert_eq!(both(true, &["ht"]), ([true, false], vec!["cmp-legacy"]), "as on a host of another vendor");
}

#[test]
fn amds_extended_leaf_repeats_the_basic_one() {
    let edx = word_at(Source::Cpuid { leaf: 0x8000_0001, index: None, register: Register::Edx }).unwrap();
    let of =
        |vendor: &str| facts(&format!("base,+fpu,+lm,+ss,vendor={vendor}"), &["fpu", "lm", "ss"]).words[edx];
    assert_eq!((of("GenuineIntel"), of("AuthenticAMD")), (1 << 29, 1 << 29 | 1));
}

#[test]
fn global_defaults_come_before_what_cpu_says() {
    let model = CpuModel::parse("qemu64,aes=off").unwrap();
    let globals = [("cpu", "aes", "on"), ("qemu64-x86_64-cpu", "family", "6")];
    let facts = model.with_globals(globals).unwrap().facts(&Supported::nominal());
    assert!(!has(&facts.words, "aes"));
    assert_eq!(facts.family, 6);
    let error = model.with_globals([("cpu", "aes", "maybe")]).unwrap_err();
    assert_eq!(error.desc(), "can't apply global cpu.aes=maybe: Parameter 'aes' expects 'on' or 'off'");
}

#[test]
fn feature_words_are_told_last_first_with_their_questions() {
    let mut words = [0; COUNT];
    feature("fpu").unwrap().switch(&mut words, true);
    let value = words_value(&words);
    let list = value.as_list().unwrap();
    let entry = |at: usize, key: &str| list[at].as_dict().unwrap().get(key).cloned();
    assert_eq!(entry(0, "cpuid-input-eax"), Some(0x24.into()));
    let last = list.len() - 1;
    let keys = ["cpuid-input-eax", "cpuid-input-ecx", "cpuid-register", "features"];
    assert_eq!(keys.map(|key| entry(last, key)), [Some(1.into()), None, Some("EDX".into()), Some(1.into())]);
    assert_eq!(list.len(), 31);
}
