//! The oracle's tables: memory slots by sizes, the usable region, block sizes by backend, where device memory lies, and what
//! the machine types' defaults are.

use serde_json::{Value, json};
use tests::oracle::{Gaps, Report, read};
use tests::virtio_mem::{IDS, VirtioMem};
use tests::{Need, Vm, have, pci::Function};

const FILE: &str = "2-properties/memslots-table.txt";
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

/// The lines under a heading of the table file, each with its id.
fn rows(heading: &str) -> Vec<(String, String)> {
    let text = read(FILE);
    let numbered = text
        .lines()
        .enumerate()
        .map(|(index, line)| (format!("memslots-table:{}", index + 1), line.to_owned()));
    let below = numbered.skip_while(|(_, line)| !line.starts_with(heading)).skip(1);
    below.take_while(|(_, line)| !line.starts_with("## ") && !line.is_empty()).collect()
}

fn report() -> Report {
    Report::new(FILE, Gaps::load(&["gaps-memslots-table"]))
}

/// A size as the table has it: `64M`, `3G`, `0T`.
fn size(text: &str) -> u64 {
    let (digits, unit) = text.split_at(text.len() - 1);
    let unit = match unit {
        "M" => M,
        "G" => G,
        "T" => 1 << 40,
        other => panic!("{text}: no unit {other}"),
    };
    digits.parse::<u64>().unwrap() * unit
}

#[test]
fn dynamic_memslots_have_the_numbers_and_sizes_of_the_oracle() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let mut report = report();
    for heading in ["## A:", "## B:", "## C:"] {
        for (id, row) in rows(heading) {
            let (what, rest) = row.split_at(34);
            // `maxmem=4G+2*8G` or `8G in 2048G`: the space for devices, whatever the device takes of it.
            let space = match what.trim().split_once(" in ") {
                Some((_, space)) => size(space),
                None => match what.trim().strip_prefix("maxmem=4G+").unwrap().split_once('*') {
                    Some((factor, of)) => factor.parse::<u64>().unwrap() * size(of),
                    None => size(what.trim().strip_prefix("maxmem=4G+").unwrap()),
                },
            };
            let expected = rest.split("limit=").next().unwrap().split_whitespace().collect::<Vec<_>>();
            let (region, count, first, last) =
                (expected[0], expected[1], hexadecimal(expected[3]), hexadecimal(expected[5]));
            let line = format!(
                "-machine pc -cpu qemu64,vendor=GenuineIntel,phys-bits=46 -m 4G,maxmem={}M \
                 -object memory-backend-ram,id=mem0,size={region},reserve=off \
                 -device virtio-mem-pci,id=vm0,memdev=mem0,dynamic-memslots=on",
                (4 * G + space) / M
            );
            let got = memslots(Vm::new().line(&line).qmp().start());
            report.text(&id, &line, &format!("{count} of {first:#x}, the last {last:#x}"), &got);
        }
    }
    report.finish();
}

/// `(0x40000000)`.
fn hexadecimal(text: &str) -> u64 {
    u64::from_str_radix(text.trim_matches(['(', ')']).strip_prefix("0x").unwrap(), 16).unwrap()
}

/// The regions that a device cuts its memory into.
fn memslots(mut vm: Vm) -> String {
    let path = "/machine/peripheral/vm0/virtio-backend";
    let children = vm.qmp().ok("qom-list", json!({ "path": path }));
    let is_slot = |child: &&Value| child["name"].as_str().is_some_and(|name| name.starts_with("memslot-"));
    let count = children.as_array().unwrap().iter().filter(is_slot).count();
    let mut of = |n: usize| vm.qmp().qom_get(&format!("{path}/memslot-{n}[0]"), "size").as_u64().unwrap();
    format!("{count} of {:#x}, the last {:#x}", of(0), of(count - 1))
}

#[test]
fn the_usable_region_grows_as_the_oracles() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let mut report = report();
    for (id, row) in rows("## usable_region_size") {
        let word =
            |key: &str| row.split_whitespace().find_map(|word| word.strip_prefix(key)).unwrap().to_owned();
        let (region, block) = (word("region="), word("block="));
        let requested = size(&word("requested="));
        let line = format!(
            "-machine pc -cpu qemu64,vendor=GenuineIntel,phys-bits=46 -m 4G,maxmem={}M \
             -object memory-backend-ram,id=mem0,size={region},reserve=off \
             -device virtio-mem-pci,id=vm0,memdev=mem0,requested-size={requested},block-size={block}",
            (4 * G + 2 * size(&region) + 8 * G) / M
        );
        let got = usable(&line);
        report.text(&id, &line, &word("usable_region_size="), &got);
    }
    report.finish();
}

fn usable(line: &str) -> String {
    let mut vm = Vm::new().line(line).qtest().start();
    let function = Function::find(vm.qtest(), 0, IDS.0, IDS.1)[0];
    let driver = VirtioMem::map(vm.qtest(), function, 0);
    format!("{:#x}", driver.config(vm.qtest()).usable_region_size)
}

#[test]
fn device_memory_lies_where_the_oracle_has_it() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let mut report = report();
    for (id, row) in rows("## device-memory area") {
        let (args, rest) =
            row.strip_prefix('-').map_or((&*row, ""), |row| row.split_once(" -> device-memory ").unwrap());
        let expected = rest.split(" (size ").next().unwrap().split(" ;").next().unwrap();
        let line = format!("-{args}");
        let mut vm = match Vm::new().line(&line).hmp().try_start() {
            Ok(vm) => vm,
            Err(exited) => {
                report.fail(&id, &line, &exited.stderr);
                continue;
            }
        };
        // Monitors greet before the machine is built, and it may yet come to nothing.
        let Ok(tree) = vm.hmp().try_run("info mtree") else {
            report.fail(&id, &line, &vm.wait().stderr);
            continue;
        };
        let area = tree.lines().find(|line| line.starts_with(' ') && line.ends_with(": device-memory"));
        let got = area.map_or("none".into(), |line| {
            let (from, to) = line.trim().split(' ').next().unwrap().split_once('-').unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            format!("{:#x}-{:#x}", number(from), number(to))
        });
        report.text(&id, &line, expected, &got);
    }
    report.finish();
}

#[test]
fn machine_types_have_the_defaults_of_the_oracle() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let mut report = Report::new("machine-type-defaults.txt", Gaps::load(&["gaps-machine-type-defaults"]));
    for row in read("2-properties/machine-type-defaults.txt").lines().filter(|line| line.starts_with("pc-")) {
        let (machine, rest) = row.split_once(' ').unwrap();
        let rest = rest.trim_start().strip_prefix("on (class default)").unwrap_or(rest.trim_start());
        // Behind the property as it was given: as it is after realize, and the others.
        let mut words = rest.split_whitespace();
        if row.contains("(class default)") {
            None
        } else {
            words.next()
        };
        let expected: Vec<&str> = words.take(4).collect();
        let line = format!(
            "-machine {machine} -m 1G,maxmem=4G -object memory-backend-ram,id=mem0,size=1G \
             -device virtio-mem-pci,id=vm0,memdev=mem0"
        );
        let mut vm = match Vm::new().line(&line).qmp().try_start() {
            Ok(vm) => vm,
            Err(exited) => {
                report.fail(machine, &line, &exited.stderr);
                continue;
            }
        };
        let got =
            ["unplugged-inaccessible", "vectors", "x-early-migration", "queue_reset"].map(
                |property| match vm.qmp().qom_get("vm0", property) {
                    Value::Bool(true) => "True".to_owned(),
                    Value::Bool(false) => "False".to_owned(),
                    Value::String(text) => text,
                    other => other.to_string(),
                },
            );
        report.text(machine, &line, &expected.join(" "), &got.join(" "));
    }
    report.finish();
}
