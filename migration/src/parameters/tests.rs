//! What QEMU 10.0.2 said to the same commands.

use super::*;

fn text(name: &str, value: &str) -> Result<MigrationParameters, String> {
    from_text(name, value).and_then(|change| changed(&defaults(), &change)).map_err(|e| e.desc().to_owned())
}

fn refusal(change: MigrationParameters) -> String {
    changed(&defaults(), &change).unwrap_err().desc().to_owned()
}

#[test]
fn texts_mean_what_they_mean_to_qemu() {
    let bandwidth = |value| text("max-bandwidth", value).map(|p| p.max_bandwidth.unwrap());
    assert_eq!(bandwidth("100M"), Ok(100 << 20));
    assert_eq!(bandwidth("100"), Ok(100 << 20));
    assert_eq!(bandwidth("1.5"), Ok(3 << 19));
    assert_eq!(bandwidth("0x10"), Ok(16 << 20));
    assert_eq!(bandwidth("1b"), Ok(1));
    assert_eq!(bandwidth("8796093022207"), Ok(9_223_372_036_853_727_232));
    for value in ["8796093022208", "8E", "16E", "-1", "foo", "", "1 ", "1kk"] {
        assert_eq!(bandwidth(value), Err(format!("Invalid size {value}")));
    }
    let initial = |value| text("cpu-throttle-initial", value).map(|p| p.cpu_throttle_initial.unwrap());
    for (value, number) in [("0x20", 32), ("010", 8), (" 20", 20), ("+20", 20), ("-18446744073709551596", 20)]
    {
        assert_eq!(initial(value), Ok(number), "{value}");
    }
    for value in ["foo", "1k", "20 ", "20,30", "", "20.0", "18446744073709551616"] {
        assert_eq!(initial(value), Err("Parameter 'cpu-throttle-initial' expects uint64".into()), "{value}");
    }
    for value in ["-1", "256"] {
        assert_eq!(initial(value), Err("Parameter 'cpu-throttle-initial' expects uint8_t".into()));
    }
    assert_eq!(text("downtime-limit", "1k").unwrap().downtime_limit, Some(1024));
    assert_eq!(
        text("downtime-limit", "-5"),
        Err("Value '-5' is out of range for parameter 'downtime-limit'".into())
    );
    for value in ["1.5", "-5k", "-", "-0x5", ""] {
        assert_eq!(
            text("downtime-limit", value),
            Err("Parameter 'downtime-limit' expects a non-negative number below 2^64".into())
        );
    }
    assert_eq!(text("max-postcopy-bandwidth", "100").unwrap().max_postcopy_bandwidth, Some(100));
    assert_eq!(text("cpu-throttle-tailslow", "yes").unwrap().cpu_throttle_tailslow, Some(true));
    assert_eq!(
        text("cpu-throttle-tailslow", "1"),
        Err("Parameter 'cpu-throttle-tailslow' expects 'on' or 'off'".into())
    );
    let zlib = text("multifd-compression", "zlib").unwrap();
    assert_eq!(zlib.multifd_compression, Some(MultiFDCompression::Zlib));
    assert_eq!(
        text("multifd-compression", "ZLIB"),
        Err("Parameter 'multifd-compression' does not accept value 'ZLIB'".into())
    );
    for name in ["max", "Max-bandwidth", "max_bandwidth", ""] {
        assert_eq!(text(name, "1"), Err(format!("invalid parameter value: {name}")));
    }
}

#[test]
fn each_range_ends_where_qemus_does() {
    for (name, good, bad, expects) in [
        ("throttle-trigger-threshold", ["1", "100"], ["0", "101"], "an integer in the range of 1 to 100"),
        ("cpu-throttle-initial", ["1", "99"], ["0", "100"], "an integer in the range of 1 to 99"),
        ("cpu-throttle-increment", ["1", "99"], ["0", "100"], "an integer in the range of 1 to 99"),
        (
            "downtime-limit",
            ["0", "2000000"],
            ["2000001", "15E"],
            "an integer in the range of 0 to (2000 * 1000) ms",
        ),
        ("multifd-channels", ["1", "255"], ["0", "0x0"], "a value between 1 and 255"),
        ("multifd-zlib-level", ["0", "9"], ["10", "255"], "a value between 0 and 9"),
        ("multifd-zstd-level", ["0", "20"], ["21", "255"], "a value between 0 and 20"),
        (
            "max-cpu-throttle",
            ["20", "99"],
            ["19", "100"],
            "an integer in the range of cpu_throttle_initial to 99",
        ),
    ] {
        for value in good {
            assert!(text(name, value).is_ok(), "{name} {value}");
        }
        for value in bad {
            let name_in_text = name.replace('-', "_");
            assert_eq!(text(name, value), Err(format!("Parameter '{name_in_text}' expects {expects}")));
        }
    }
}

#[test]
fn of_two_mistakes_qemus_first_is_told_and_nothing_is_changed() {
    let of = MigrationParameters::default;
    let first = |change| refusal(change).split('\'').nth(1).unwrap().to_owned();
    assert_eq!(
        first(MigrationParameters {
            cpu_throttle_initial: Some(0),
            throttle_trigger_threshold: Some(0),
            ..of()
        }),
        "throttle_trigger_threshold"
    );
    assert_eq!(
        first(MigrationParameters { downtime_limit: Some(u64::MAX), multifd_channels: Some(0), ..of() }),
        "downtime_limit"
    );
    assert_eq!(
        first(MigrationParameters { max_cpu_throttle: Some(0), multifd_zstd_level: Some(30), ..of() }),
        "multifd_zstd_level"
    );
    // What was set before counts, too.
    let low = changed(&defaults(), &MigrationParameters { max_cpu_throttle: Some(40), ..of() }).unwrap();
    let high = MigrationParameters { cpu_throttle_initial: Some(60), ..of() };
    assert_eq!(
        changed(&low, &high).unwrap_err().desc(),
        "Parameter 'max_cpu_throttle' expects an integer in the range of cpu_throttle_initial to 99"
    );
    let both = MigrationParameters { max_cpu_throttle: Some(60), ..high };
    assert_eq!(changed(&low, &both).unwrap().max_cpu_throttle, Some(60));
}
