//! Jobs survive the wire, and what was told is not looked at again.

use super::*;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

#[test]
fn a_job_is_read_as_it_was_written() {
    for job in jobs(&words(&[
        "6.12/q35-4/boots",
        "6.12/q35-4/nodes",
        "6.1/pc-1/cpus_and_memory",
        "6.1/libvirt-pc/boots",
    ])) {
        let (read, loud) = Job::parse(&job.line(true)).expect("a job");
        assert!(loud);
        assert_eq!(read.names(), job.names());
        assert!(!job.names().is_empty());
    }
    let Some((Job::Bench(5), false)) = Job::parse(&Job::Bench(5).line(false)) else {
        panic!("measurements");
    };
    for noise in [
        "",
        "{}",
        "[ 1.0] kernel",
        r#"{"job":["6.12/none/boots"],"loud":true}"#,
        r#"{"job":["x"],"loud":true}"#,
    ] {
        assert!(Job::parse(noise).is_none(), "{noise}");
    }
}

#[test]
fn what_was_told_is_not_looked_at_again() {
    let all = jobs(&words(&["6.12/q35-4/"])).remove(0);
    let told = words(&["6.12/q35-4/boots", "6.12/q35-4/nodes", "6.1/q35-4/cpus_and_memory"]);
    let rest = all.clone().without(&told).names();
    assert_eq!(rest.len() + 2, all.names().len());
    assert_eq!(rest[0], "6.12/q35-4/cpus_and_memory");
}

#[test]
fn words_choose_claims_and_none_choose_all() {
    assert_eq!(names(&words(&["6.12/q35-2/boots"])), ["6.12/q35-2/boots"]);
    assert_eq!(names(&words(&["no such claim"])), Vec::<String>::new());
    let boots = names(&[]).into_iter().filter(|name| name.ends_with("/boots")).count();
    let with_each = scenarios::BOOTS.len() + scenarios::MANAGED.len();
    assert_eq!(boots, with_each * KERNELS.len() + scenarios::FULL_BOOTS.len());
}
