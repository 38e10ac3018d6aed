//! How long libvirt takes with the program under test, and with QEMU for the same domains, by turns: `libvirt-bench [RUNS]`.
//!
//! From `virsh start` to the event `RESUME`, by the event's own time; and, of the program alone, from the moment in which the guest reached the size that it was asked for
//! (the event's time) to that in which libvirtd had heard of it, and in which `virsh dumpxml` says so.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use tests::libvirt::{Domain, Events, Host, Node};
use tests::program;

fn main() {
    let runs = std::env::args().nth(1).map_or(20, |text| text.parse().expect("a number of runs"));
    let host = Host::new();
    let node = Node::start(&host, "bench");
    for domain in [Domain::q35_vmem(), Domain::pc_vmem(), Domain::microvm()] {
        starts(&node, &domain, runs);
    }
    resizes(&node, &Domain::q35_vmem(), runs);
}

fn starts(node: &Node<'_>, domain: &Domain, runs: usize) {
    let ours = domain.clone();
    let theirs = program::qemu().map(|path: PathBuf| domain.clone().of_emulator(&path, "peer"));
    let domains: Vec<Domain> = std::iter::once(ours).chain(theirs).collect();
    domains.iter().for_each(|domain| node.define(domain));
    let mut times = vec![Vec::new(); domains.len()];
    // The first of each finds out what the emulator can do.
    for run in 0..=runs {
        for (domain, times) in domains.iter().zip(&mut times) {
            let begin = now();
            node.virsh(&["start", domain.name()]);
            let resume = events(node, "RESUME").pop().expect("it runs").0;
            if run > 0 {
                times.push((resume - begin) * 1e3);
            }
            node.virsh(&["destroy", domain.name()]);
        }
    }
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    print!("{:10} start to RESUME: {:7.1} ms", domain.name(), medians[0]);
    match medians.get(1) {
        Some(theirs) => println!(", QEMU {theirs:7.1} ms, {:.2} times", medians[0] / theirs),
        None => println!(),
    }
    domains.iter().for_each(|domain| {
        node.virsh(&["undefine", domain.name()]);
    });
}

fn resizes(node: &Node<'_>, domain: &Domain, runs: usize) {
    let name = domain.name();
    node.define(domain);
    let mut told = Events::listen(node, domain);
    node.virsh(&["start", name]);
    told.expect(&["memory-device-size-change", "virtiomem0", "size: 131072"]);
    let (mut heard, mut shown) = (Vec::new(), Vec::new());
    for run in 0..runs {
        let (size, kib) = if run % 2 == 0 { ("256MiB", 262_144) } else { ("128MiB", 131_072) };
        node.virsh(&[
            "update-memory-device",
            name,
            "--live",
            "--alias",
            "virtiomem0",
            "--requested-size",
            size,
        ]);
        let current = format!("<current unit='KiB'>{kib}</current>");
        node.until(&["dumpxml", name], |xml| xml.contains(&current));
        let seen = now();
        let (happened, came) = events(node, "MEMORY_DEVICE_SIZE_CHANGE").pop().expect("it was told");
        heard.push((came - happened) * 1e3);
        shown.push((seen - happened) * 1e3);
    }
    let worst = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
    println!(
        "{name:10} size reached to libvirtd: worst {:.1} ms; to dumpxml, which is asked until it says so: median {:.1}, worst {:.1} ms",
        worst(&heard),
        median(shown.clone()),
        worst(&shown)
    );
    node.virsh(&["destroy", name]);
}

/// The events of that name: when they happened, and when libvirtd read them, in seconds.
fn events(node: &Node<'_>, name: &str) -> Vec<(f64, f64)> {
    let event = |line: String| {
        let (time, text) = line.split_once(" RECV_EVENT ")?;
        if !text.contains(&format!("\"event\": \"{name}\"")) {
            return None;
        }
        let number = |key: &str| {
            let (_, rest) = text.split_once(&format!("\"{key}\": "))?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<f64>().ok()
        };
        let happened = number("seconds")? + number("microseconds")? / 1e6;
        // The log has the time of day.
        let of_day = time
            .split(':')
            .filter_map(|part| part.parse::<f64>().ok())
            .fold(0.0, |sum, part| sum * 60.0 + part);
        let day = (happened / 86400.0).floor() * 86400.0;
        Some((happened, day + of_day))
    };
    node.traffic(usize::MAX).into_iter().filter_map(event).collect()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
