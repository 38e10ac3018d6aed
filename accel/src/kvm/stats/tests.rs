//! Claims about the statistics that the kernel keeps.

use std::io::Write;

use super::*;

/// A descriptor: flags, exponent, number of values, place, bucket, name of eight bytes at most.
fn descriptor(flags: u32, exponent: i16, len: u16, offset: u32, bucket: u32, name: &str) -> Vec<u8> {
    let mut bytes = flags.to_le_bytes().to_vec();
    bytes.extend(exponent.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.extend(bucket.to_le_bytes());
    bytes.extend(name.bytes().chain(std::iter::repeat(0)).take(8));
    bytes
}

fn file(count: u32, descriptors: &[u8], values: &[u64]) -> StatsFile {
    let mut file = tempfile::tempfile().unwrap();
    let at = HEADER as u32 + 4;
    for word in [0, 8, count, HEADER as u32, at, at + descriptors.len() as u32, 0] {
        file.write_all(&u32::to_le_bytes(word)).unwrap();
    }
    file.write_all(descriptors).unwrap();
    values.iter().for_each(|value| file.write_all(&value.to_le_bytes()).unwrap());
    StatsFile { file, layout: OnceLock::new() }
}

#[test]
fn descriptors_and_values_are_read_where_the_header_says() {
    let descriptors = [
        descriptor(0, 0, 1, 0, 0, "exits"),
        descriptor(KVM_STATS_TYPE_LOG_HIST | KVM_STATS_UNIT_SECONDS, -9, 2, 8, 0, "hist"),
        // A type of a kernel to come.
        descriptor(0xf, 0, 1, 24, 0, "unknown"),
        descriptor(KVM_STATS_TYPE_LINEAR_HIST | KVM_STATS_BASE_POW2, 10, 1, 24, 16, "eight_ch"),
    ]
    .concat();
    let file = file(4, &descriptors, &[7, u64::MAX, 2, 3]);
    let (stats, values) = file.read().unwrap();
    let names: Vec<_> = stats.iter().map(|stat| (&*stat.name, stat.base, stat.exponent)).collect();
    assert_eq!(names, [("exits", 10, 0), ("hist", 10, -9), ("eight_ch", 2, 10)]);
    assert_eq!((stats[1].unit, stats[1].kind), (StatUnit::Seconds, StatKind::LogHistogram));
    assert_eq!(stats[2].bucket_size, 16);
    assert_eq!(values, [vec![7], vec![u64::MAX, 2], vec![3]]);
}

#[test]
fn a_file_that_claims_too_much_or_ends_early_is_refused() {
    assert!(file(u32::MAX, &[], &[]).read().is_err());
    assert!(file(1, &[], &[]).read().is_err());
    let beyond = descriptor(0, 0, 2, 0, 0, "beyond");
    assert!(file(1, &beyond, &[1]).read().is_err());
    let far = descriptor(0, 0, 1, u32::MAX, 0, "far");
    assert!(file(1, &far, &[1]).read().is_err());
}

#[test]
fn the_kernel_counts_for_a_vm() {
    let Ok(kvm) = kvm_ioctls::Kvm::new() else {
        eprintln!("no KVM here");
        return;
    };
    let vm = kvm.create_vm().unwrap();
    assert!(StatsFile::of(&kvm).is_none(), "the system itself has none");
    let Some(file) = StatsFile::of(&vm) else {
        eprintln!("a kernel without statistics");
        return;
    };
    let (stats, values) = file.read().unwrap();
    assert_eq!(stats.len(), values.len());
    let flushes = stats.iter().find(|stat| stat.name == "remote_tlb_flush").unwrap();
    assert_eq!((flushes.kind, flushes.unit, flushes.len), (StatKind::Cumulative, StatUnit::None, 1));
}
