//! Claims about the columns, against what QEMU 10.0.2 printed of the same registers.

use qapi::json;

use super::*;

fn segment(selector: u64, base: u64, limit: u64, flags: u64) -> Dict {
    Dict::new().with("selector", selector).with("base", base).with("limit", limit).with("flags", flags)
}

/// Registers with known contents, and 16 vector registers of so many bits.
fn registers(efer: u64, cs_flags: u64, vector_bits: usize) -> Dict {
    let mut r = Dict::new();
    let names = [
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15",
    ];
    for (index, name) in (0x1_0000_0000u64..).zip(names) {
        r.insert(name, index);
    }
    let flat = segment(0x10, 0, 0xffff_ffff, 0xc0_9300);
    for name in ["ds", "es", "fs", "gs"] {
        r.insert(name, flat.clone());
    }
    let table = Dict::new().with("base", 0x10_3000).with("limit", 0x37);
    let float =
        |exponent: u64| Value::from(Dict::new().with("significand", 1u64 << 63).with("exponent", exponent));
    let vector = |n: usize| Value::from(format!("{n:0digits$x}", digits = vector_bits / 4));
    r.with("rip", 0x10_013cu64)
        .with("rflags", 0x206)
        .with("cs", segment(8, 0, 0xffff_ffff, cs_flags))
        .with("ss", segment(0, 0, 0, 0))
        .with("ldt", segment(0, 0, 0xffff, 0x8200))
        .with("tr", segment(0x28, 0x10_8000, 0x2068, 0x8b00))
        .with("gdt", table.clone())
        .with("idt", table)
        .with("cr0", 0x8000_0033u64)
        .with("cr2", 0)
        .with("cr3", 0x10_4000)
        .with("cr4", 0x620)
        .with("efer", efer)
        .with("dr0", 0x1234)
        .with("dr6", 0xffff_0ff0u64)
        .with("dr7", 0x400)
        .with("halted", true)
        .with("interrupt-shadow", false)
        .with("smm", false)
        .with("fcw", 0x37f)
        .with("fsw", 0x3800)
        .with("ftw", 0x80)
        .with("mxcsr", 0x1f80)
        .with("st", (0..8).map(float).collect::<Vec<_>>())
        .with("vectors", (0..16).map(vector).collect::<Vec<_>>())
}

fn shown(registers: Dict) -> String {
    Cpu(&registers.into()).to_string()
}

/// From CR0 or the floats on all kinds look alike.
const DEBUG: &str = "DR0=0000000000001234 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000 \n\
    DR6=00000000ffff0ff0 DR7=0000000000000400\n";
const FLOATS: &str = "FCW=037f FSW=3800 [ST=7] FTW=80 MXCSR=00001f80\n\
    FPR0=8000000000000000 0000 FPR1=8000000000000000 0001\n\
    FPR2=8000000000000000 0002 FPR3=8000000000000000 0003\n\
    FPR4=8000000000000000 0004 FPR5=8000000000000000 0005\n\
    FPR6=8000000000000000 0006 FPR7=8000000000000000 0007\n";

#[test]
fn code_of_64_bits_shows_all_of_everything() {
    let expected = "RAX=0000000100000000 RBX=0000000100000001 RCX=0000000100000002 RDX=0000000100000003\n\
        RSI=0000000100000004 RDI=0000000100000005 RBP=0000000100000006 RSP=0000000100000007\n\
        R8 =0000000100000008 R9 =0000000100000009 R10=000000010000000a R11=000000010000000b\n\
        R12=000000010000000c R13=000000010000000d R14=000000010000000e R15=000000010000000f\n\
        RIP=000000000010013c RFL=00000206 [-----P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\n\
        ES =0010 0000000000000000 ffffffff 00c09300 DPL=0 DS   [-WA]\n\
        CS =0008 0000000000000000 ffffffff 00a09b00 DPL=0 CS64 [-RA]\n\
        SS =0000 0000000000000000 00000000 00000000\n\
        DS =0010 0000000000000000 ffffffff 00c09300 DPL=0 DS   [-WA]\n\
        FS =0010 0000000000000000 ffffffff 00c09300 DPL=0 DS   [-WA]\n\
        GS =0010 0000000000000000 ffffffff 00c09300 DPL=0 DS   [-WA]\n\
        LDT=0000 0000000000000000 0000ffff 00008200 DPL=0 LDT\n\
        TR =0028 0000000000108000 00002068 00008b00 DPL=0 TSS64-busy\n\
        GDT=     0000000000103000 00000037\n\
        IDT=     0000000000103000 00000037\n\
        CR0=80000033 CR2=0000000000000000 CR3=0000000000104000 CR4=00000620\n";
    let text = shown(registers(0x500, 0xa0_9b00, 128));
    let vectors = "XMM00=0000000000000000 0000000000000000 XMM01=0000000000000000 0000000000000001\n";
    let start = format!("{expected}{DEBUG}EFER=0000000000000500\n{FLOATS}{vectors}");
    assert!(text.starts_with(&start), "{text}");
    assert!(text.ends_with("XMM15=0000000000000000 000000000000000f\n"), "{text}");
}

#[test]
fn other_code_shows_halves_in_and_outside_of_long_mode() {
    let text = shown(registers(0x500, 0xc0_9b00, 256));
    assert!(text.starts_with("EAX=00000000 EBX=00000001 "), "{text}");
    for line in [
        "EIP=0010013c EFL=00000206 [-----P-] CPL=0 II=0 A20=1 SMM=0 HLT=1",
        "CS =0008 00000000 ffffffff 00c09b00 DPL=0 CS32 [-RA]",
        "TR =0028 00108000 00002068 00008b00 DPL=0 TSS64-busy",
        "GDT=     0000000000103000 00000037",
        "CR0=80000033 CR2=0000000000000000 CR3=0000000000104000 CR4=00000620",
        "YMM07=0000000000000000 0000000000000000 0000000000000000 0000000000000007",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(!text.contains("R8 =") && !text.contains("YMM08"), "{text}");
    let text = shown(registers(0, 0x9b00, 128));
    for line in [
        "CS =0008 00000000 ffffffff 00009b00 DPL=0 CS16 [-RA]",
        "TR =0028 00108000 00002068 00008b00 DPL=0 TSS32-busy",
        "GDT=     00103000 00000037",
        "CR0=80000033 CR2=00000000 CR3=00104000 CR4=00000620",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

#[test]
fn wide_vectors_come_with_masks() {
    let masks: Vec<Value> = (0..8u64).map(Value::from).collect();
    let text = shown(registers(0x500, 0xa0_9b00, 512).with("opmask", masks));
    let masks = "Opmask00=0000000000000000 Opmask01=0000000000000001 Opmask02=0000000000000002 Opmask03=0000000000000003\n\
        Opmask04=0000000000000004 ";
    assert!(text.contains(&format!("{FLOATS}{masks}")), "{text}");
    let last = "ZMM15=0000000000000000 0000000000000000 0000000000000000 0000000000000000 \
        0000000000000000 0000000000000000 0000000000000000 000000000000000f\n";
    assert!(text.ends_with(last), "{text}");
}

/// A machine with two CPUs, or none; each tells its number in RAX.
fn run(cpus: u64, line: &str, cpu: Option<i64>) -> String {
    let execute = |command: &str, arguments: Dict| match command {
        "query-cpus-fast" => Ok(Value::from(
            (0..cpus).map(|n| Value::from(Dict::new().with("cpu-index", n))).collect::<Vec<_>>(),
        )),
        "x-pliant-query-registers" => Ok(json::parse(&format!(
            "{{\"rax\": {}}}",
            arguments.get("cpu-index").and_then(Value::as_i64).unwrap()
        ))?),
        other => panic!("{other}"),
    };
    let session = crate::hmp::Session {
        history: &[],
        format: &std::sync::Mutex::default(),
        cpu: &std::cell::Cell::new(cpu),
    };
    let text = crate::hmp::run_line(&execute, line, &session);
    text.lines().filter(|line| !line.contains('=') || line.starts_with("EAX")).collect::<Vec<_>>().join("|")
}

#[test]
fn the_cpu_is_the_one_that_is_named_or_was_chosen() {
    let cpu = |n: u32| format!("|CPU#{n}|EAX=0000000{n} EBX=00000000 ECX=00000000 EDX=00000000");
    assert_eq!(run(2, "info registers", None), cpu(0));
    assert_eq!(run(2, "info registers", Some(1)), cpu(1));
    assert_eq!(run(2, "info registers 1", None), cpu(1));
    assert_eq!(run(2, "info registers 0", Some(1)), cpu(0));
    assert_eq!(run(2, "info registers -a", Some(1)), format!("{}|{}", cpu(0), cpu(1)));
    assert_eq!(run(2, "info registers 0xffffffff", Some(1)), cpu(1), "QEMU's -1");
    assert_eq!(run(2, "info registers 2", None), "CPU#2 not available");
    assert_eq!(run(0, "info registers", None), "No CPU available");
    assert_eq!(run(0, "info registers -a", None), "");
}
