//! `info mtree` in all its forms, of boards with two virtio-mem devices of which one maps its memory in slots.
//!
//! The forms must agree with each other over both ways to give a command, and where QEMU is installed, it is started with
//! the same options, driven in the same way, and must show the same of memory devices.

use std::collections::BTreeSet;

use tests::oracle::view::{flat_view, view, without_last_lookup};
use tests::pci::Function;
use tests::virtio_mem::{IDS, Kind, VirtioMem};
use tests::{Need, Vm, VmBuilder, have, program};

const DEVICES: &str = "-m 4G,maxmem=20G -smp 2 \
    -object memory-backend-ram,id=ram0,size=2G -object memory-backend-ram,id=ram1,size=2G \
    -numa node,nodeid=0,cpus=0,memdev=ram0 -numa node,nodeid=1,cpus=1,memdev=ram1 \
    -object memory-backend-ram,id=mem0,size=8G,reserve=off -object memory-backend-ram,id=mem1,size=8G,reserve=off \
    -device virtio-mem-pci,id=vm0,memdev=mem0,node=0,requested-size=1G \
    -device virtio-mem-pci,id=vm1,memdev=mem1,node=1,requested-size=4G,dynamic-memslots=on";

/// All forms that differ in what they print, and some that do not.
const FORMS: [&str; 11] = [
    "info mtree",
    "info mtree -f",
    "info mtree -d",
    "info mtree -o",
    "info mtree -D",
    "info mtree -f -d",
    "info mtree -f -o",
    "info mtree -f -D",
    "info mtree -f -d -o",
    "info mtree -d -o -D",
    "info mtree -f -d -o -D",
];

/// A machine, and what was done with it.
struct Board {
    vm: Vm,
    drivers: Vec<VirtioMem>,
}

impl Board {
    fn new(vm: Vm) -> Self {
        Self { vm, drivers: Vec::new() }
    }

    /// Places the BARs of both devices and plugs a block into three memory slots of the dynamic one, two of them neighbours.
    fn plug(&mut self) {
        let qtest = self.vm.qtest();
        let functions = Function::find(qtest, 0, IDS.0, IDS.1);
        assert_eq!(functions.len(), 2);
        for (nth, function) in (0..).zip(functions) {
            self.drivers.push(VirtioMem::map(qtest, function, nth));
        }
        let dynamic = &mut self.drivers[1];
        dynamic.init_usual(qtest);
        let config = dynamic.config(qtest);
        for offset in [0, 1 << 30, 3 << 30] {
            let answer = dynamic.request(qtest, Kind::Plug, config.addr + offset, 1);
            assert_eq!(answer, "ACK");
        }
    }

    fn run(&mut self, command: &str) -> String {
        let text = self.vm.hmp().run(command);
        assert_eq!(self.vm.qmp().human(command), text, "{command}");
        text
    }
}

fn machine(name: &str) -> Board {
    let vm = Vm::new().line(&format!("-machine {name}")).line(DEVICES);
    Board::new(vm.qmp().hmp().qtest().start())
}

/// The lines that satisfy a condition.
fn lines(text: &str, mut keep: impl FnMut(&str) -> bool) -> String {
    text.split_inclusive('\n').filter(|line| keep(line)).collect()
}

/// Without what `-o` adds.
fn without_owners(text: &str) -> String {
    let line = |line: &str| {
        let owner = [" owner:", " parent:"].iter().filter_map(|mark| line.find(mark)).min();
        format!("{}\n", &line[..owner.unwrap_or(line.len())])
    };
    text.lines().map(line).collect()
}

/// Without what `-d` adds to `-f`.
fn without_trees(text: &str) -> String {
    let mut in_tree = false;
    lines(text, |line| {
        in_tree = line == "  Dispatch\n" || in_tree && line != "\n";
        !in_tree
    })
}

#[test]
fn the_forms_agree_on_pc() {
    the_forms_agree("pc");
}

#[test]
fn the_forms_agree_on_q35() {
    the_forms_agree("q35");
}

fn the_forms_agree(name: &str) {
    let mut board = machine(name);
    for plugged in [false, true] {
        if plugged {
            board.plug();
        }
        let [tree, flat, d, o, disabled, f_d, f_o, f_disabled, f_d_o, d_o_disabled, all] =
            FORMS.map(|form| without_last_lookup(&board.run(form)));
        assert_eq!(d, tree, "-d counts with -f only");
        assert_eq!(f_disabled, flat, "nothing disabled is in a flat view");
        assert_eq!(all, f_d_o);
        assert_eq!(without_owners(&o), tree);
        assert_eq!(without_owners(&f_o), flat);
        assert_eq!(without_owners(&f_d_o), f_d);
        assert_eq!(without_owners(&d_o_disabled), disabled);
        assert_eq!(without_trees(&f_d), flat);
        assert_eq!(lines(&disabled, |line| !line.contains(" [disabled]")), tree);
        assert!(disabled.contains(" [disabled]\n"));
        for path in ["owner:{dev id=vm0}", "owner:{dev id=vm1}", "owner:{obj path=/objects/mem0}"] {
            assert!(o.contains(path) && f_o.contains(path), "{path}");
        }
        let slots: Vec<bool> =
            (0..4).map(|n| tree.contains(&format!(": alias memslot-{n} @mem1 "))).collect();
        assert_eq!(slots, if plugged { [true, true, false, true] } else { [false; 4] }, "{tree}");
    }
}

#[test]
fn pc_shows_of_memory_devices_what_qemu_shows() {
    both_show_the_same("pc");
}

#[test]
fn q35_shows_of_memory_devices_what_qemu_shows() {
    both_show_the_same("q35");
}

/// QEMU itself, with no vCPU that runs.
fn qemu() -> VmBuilder {
    Vm::new().program(&program::qemu().unwrap()).accel("tcg").line("-S")
}

/// Of `info mtree -f`: the address spaces that share a flat view with `memory`, but for those of devices that one program lacks.
fn sharing_memory(text: &str) -> Vec<String> {
    let names = flat_view(text, "memory");
    let names = names.lines().filter_map(|line| line.strip_prefix(" AS "));
    names.filter(|name| name.contains("mem")).map(str::to_owned).collect()
}

fn both_show_the_same(name: &str) {
    if !have(&[Need::Qemu, Need::Pliant]) {
        return;
    }
    let mut ours = machine(name);
    let qemu = qemu();
    let mut theirs =
        Board::new(qemu.line(&format!("-machine {name}")).line(DEVICES).qmp().hmp().qtest().start());
    for plugged in [false, true] {
        if plugged {
            ours.plug();
            theirs.plug();
        }
        for form in FORMS {
            let (ours, theirs) =
                (view(form, &ours.run(form)).unwrap(), view(form, &theirs.run(form)).unwrap());
            assert!(theirs.contains("mem0"), "{theirs}");
            assert_eq!(ours, theirs, "{form} of {name}, plugged: {plugged}");
        }
        let shared = [&mut ours, &mut theirs].map(|board| sharing_memory(&board.run("info mtree -f")));
        assert_eq!(shared[0], shared[1]);
        // Bus masters see what the vCPUs see.
        let masters = shared[0].iter().filter(|name| name.starts_with("\"virtio-mem-pci\"")).count();
        assert_eq!(masters, if plugged { 2 } else { 0 });
    }
}

#[test]
fn machine_none_shows_every_byte_that_qemu_shows() {
    if !have(&[Need::Qemu, Need::Pliant]) {
        return;
    }
    // The order of address spaces and views is that of a hash table.
    let blocks = |text: &str| -> BTreeSet<String> {
        let block = |block: &str| lines(block, |line| !line.starts_with("FlatView #"));
        without_last_lookup(text).split("\n\n").map(block).collect()
    };
    for size in ["2M", "3M", "1G", "1537M"] {
        let line = format!("-machine none -m {size}");
        let [mut ours, mut theirs] =
            [Vm::new(), qemu()].map(|vm| Board::new(vm.line(&line).qmp().hmp().start()));
        for form in FORMS {
            let (ours, theirs) = (ours.run(form), theirs.run(form));
            assert!(theirs.contains("ram"), "{theirs}");
            assert_eq!(blocks(&ours), blocks(&theirs), "{form} {line}");
        }
    }
}

#[test]
fn options_in_another_order_than_the_tables_are_refused_as_qemu_refuses_them() {
    let mut board = machine("q35");
    let refused = |what: &str| format!("mtree: {what}\nTry \"help info mtree\" for more information\n");
    for (options, letter) in [("-f -f", "f"), ("-d -f", "f"), ("-o -d", "d"), ("-f -o -d", "d"), ("--f", "-")]
    {
        let expected = refused(&format!("unsupported option -{letter}"));
        assert_eq!(board.run(&format!("info mtree {options}")), expected);
    }
    for options in ["-fdo", "-D -o", "-f -D -o", "-f extra"] {
        let expected = refused("extraneous characters at the end of line");
        assert_eq!(board.run(&format!("info mtree {options}")), expected);
    }
    assert_eq!(board.run("info mtree -f-d"), board.run("info mtree -f -d"));
}

#[test]
fn the_dispatch_tree_of_device_memory_follows_the_memory_slots() {
    let mut board = machine("q35");
    board.plug();
    let shown = flat_view(&board.run("info mtree -f -d"), "device-memory");
    let expected = r#" AS "device-memory", root: device-memory
 Root memory region: device-memory
  0000000180000000-000000037fffffff (prio 0, ram): mem0
  0000000380000000-00000003bfffffff (prio 0, ram): mem1
  00000003c0000000-00000003ffffffff (prio 0, ram): mem1 @0000000040000000
  0000000440000000-000000047fffffff (prio 0, ram): mem1 @00000000c0000000
  Dispatch
    Physical sections
      #0 @0000000000000000..ffffffffffffffff (noname) [unassigned]
      #1 @0000000180000000..000000037fffffff mem0 [not dirty]
      #2 @0000000380000000..00000003bfffffff mem1 [ROM]
      #3 @00000003c0000000..00000003ffffffff mem1 [watch]
      #4 @0000000440000000..000000047fffffff mem1
    Nodes (9 bits per level, 6 levels) ptr=[3] skip=4
      [0]
	  0       skip=3  ptr=[3]
	  1..511  skip=1  ptr=NIL
      [1]
	  0       skip=2  ptr=[3]
	  1..511  skip=1  ptr=NIL
      [2]
	  0       skip=1  ptr=[3]
	  1..511  skip=1  ptr=NIL
      [3]
	  0..5    skip=1  ptr=NIL
	  6..13   skip=0  ptr=#1
	 14       skip=0  ptr=#2
	 15       skip=0  ptr=#3
	 16       skip=1  ptr=NIL
	 17       skip=0  ptr=#4
	 18..511  skip=1  ptr=NIL

"#;
    let (number, shown) = shown.split_once('\n').unwrap();
    assert!(number.starts_with("FlatView #"));
    assert_eq!(without_last_lookup(shown), expected);
}
