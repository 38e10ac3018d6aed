//! Claims about which accelerator is taken and what is said of the others.

use super::*;

fn failure(specs: &[AccelSpec]) -> Vec<String> {
    match open(specs) {
        Ok(opened) => panic!("{} opened", opened.accel.name()),
        Err(lines) => lines,
    }
}

#[test]
fn unknown_accelerators_are_refused_as_qemu_does() {
    assert_eq!(failure(&[AccelSpec::option("foo")]), ["-accel foo: invalid accelerator foo"]);
    assert_eq!(failure(&[AccelSpec::option("kvm:tcg")]), ["-accel kvm:tcg: invalid accelerator kvm:tcg"]);
    assert_eq!(
        failure(&AccelSpec::machine_list("foo:bar")),
        ["invalid accelerator foo", "invalid accelerator bar"]
    );
}

#[test]
fn an_empty_machine_list_finds_nothing_and_an_empty_option_wants_help() {
    assert_eq!(failure(&AccelSpec::machine_list("")), ["no accelerator found"]);
    assert!(AccelSpec::option("").wants_help() && AccelSpec::option("help").wants_help());
    assert!(!AccelSpec::option("kvm,help").wants_help());
    assert!(AccelSpec::machine_list("help").iter().all(|spec| !spec.wants_help()));
    assert_eq!(failure(&AccelSpec::machine_list("help")), ["invalid accelerator help"]);
}

#[test]
fn options_are_checked_before_anything_is_opened() {
    assert_eq!(
        failure(&[AccelSpec::option("kvm,foo=bar")]),
        ["-accel kvm,foo=bar: Property 'kvm-accel.foo' not found"]
    );
    assert_eq!(
        failure(&[AccelSpec::option("kvm,kernel-irqchip=bad")]),
        ["-accel kvm,kernel-irqchip=bad: Parameter 'kernel-irqchip' does not accept value 'bad'"]
    );
    assert_eq!(
        failure(&[AccelSpec::option("qtest,help")]),
        ["-accel qtest,help: Property 'qtest-accel.help' not found"]
    );
}

#[test]
fn a_machine_list_names_unknown_ones_first_and_falls_back() {
    let opened = open(&AccelSpec::machine_list("foo:sim:bar")).unwrap_or_else(|lines| panic!("{lines:?}"));
    assert_eq!(opened.accel.name(), "sim");
    assert_eq!(
        opened.messages,
        ["invalid accelerator foo", "invalid accelerator bar", "falling back to sim"]
    );
}

#[test]
fn who_asks_for_qemus_software_gets_ours_and_is_told() {
    let opened = open(&[AccelSpec::option("tcg")]).unwrap_or_else(|lines| panic!("{lines:?}"));
    assert_eq!(opened.accel.name(), "sim");
    assert_eq!(
        opened.messages,
        ["-accel tcg: warning: there is no translator: 'sim' runs the built-in guest and nothing else"]
    );
    assert_eq!(
        failure(&[AccelSpec::option("tcg,thread=single")]),
        ["-accel tcg,thread=single: Property 'tcg-accel.thread' not found"]
    );
}

#[test]
fn without_kvm_the_default_is_sim_and_one_line_says_so() {
    let missing = KvmAccel::open_path("/nonexistent/kvm", &[]).map(|_| ()).unwrap_err();
    assert_eq!(
        missing.desc(),
        "Could not access KVM kernel module: No such file or directory\n\
         failed to initialize kvm: No such file or directory"
    );
    let opened = open_default(Err(missing));
    assert_eq!(opened.accel.name(), "sim");
    assert_eq!(opened.messages.len(), 1);
    assert!(opened.messages[0].starts_with("warning: Could not access KVM kernel module"));
}

#[test]
fn a_file_that_is_not_kvm_is_too_old() {
    let error = KvmAccel::open_path("/dev/null", &[]).map(|_| ()).unwrap_err();
    assert_eq!(error.desc(), "kvm version too old\nfailed to initialize kvm: Inappropriate ioctl for device");
}
