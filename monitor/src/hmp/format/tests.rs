//! Claims from QEMU 10.0.2's `x`, `xp` and `print`.

use super::*;

/// Firmware of QEMU, from ffffffc0h to the end of memory.
const BYTES: [u8; 64] = [
    0xfa, 0xed, 0x66, 0x48, 0x83, 0xf8, 0xfd, 0x76, 0x1c, 0xf6, 0xc1, 0x07, 0x75, 0x0f, 0x66, 0x83, 0xc1,
    0x08, 0x66, 0x0f, 0xb6, 0xc5, 0x66, 0x39, 0xd8, 0x74, 0xcb, 0xeb, 0x04, 0x66, 0x41, 0xeb, 0xf1, 0x66,
    0x83, 0xc9, 0xff, 0x66, 0x89, 0xc8, 0x66, 0x5b, 0x66, 0x5e, 0x66, 0x5f, 0x66, 0xc3, 0xea, 0x5b, 0xe0,
    0x00, 0xf0, 0x30, 0x36, 0x2f, 0x32, 0x33, 0x2f, 0x39, 0x39, 0x00, 0xfc, 0x00,
];

/// Shows memory whose last byte is at ffffffffh.
fn shows(spec: &str, addr: u64) -> String {
    let mut last = LastFormat { letter: Letter::Hex, size: 1 };
    let (format, rest) = Format::parse(spec, &mut last).unwrap();
    assert_eq!(rest, "");
    let wanted = format.count as usize * format.size;
    let from = (addr - 0xffff_ffc0) as usize;
    memory(format, addr, wanted, &BYTES[from..(from + wanted).min(64)])
}

#[test]
fn memory_is_printed_in_columns() {
    for (spec, addr, expected) in [
        (
            "/4xg",
            0xffff_fff0,
            "00000000fffffff0: 0x2f3630f000e05bea 0x00fc0039392f3332\n0000000100000000: Cannot access memory\n",
        ),
        (
            "/17xb",
            0xffff_ffea,
            "00000000ffffffea: 0x66 0x5e 0x66 0x5f 0x66 0xc3 0xea 0x5b\n\
             00000000fffffff2: 0xe0 0x00 0xf0 0x30 0x36 0x2f 0x32 0x33\n\
             00000000fffffffa: 0x2f\n",
        ),
        (
            "/9xw",
            0xffff_ffc0,
            "00000000ffffffc0: 0x4866edfa 0x76fdf883 0x07c1f61c 0x83660f75\n\
             00000000ffffffd0: 0x0f6608c1 0x3966c5b6 0xebcb74d8 0xeb416604\n\
             00000000ffffffe0: 0xc98366f1\n",
        ),
        (
            "/5dw",
            0xffff_ffc0,
            "00000000ffffffc0: 1214705146 1996355715  130151964 2204503925\n00000000ffffffd0:  258345153\n",
        ),
        (
            "/5ow",
            0xffff_ffc0,
            "00000000ffffffc0: 011031566772 016677374203  0760373034 020331407565\n\
             00000000ffffffd0: 01731404301\n",
        ),
        (
            "/5dg",
            0xffff_ffc0,
            "00000000ffffffc0:  8574282508322401786 -8978471811800762852\n\
             00000000ffffffd0:  4136210693519444161 -1494801429988412200\n\
             00000000ffffffe0: -3996549945531078927\n",
        ),
        ("/1ug", 0xffff_ffc8, "00000000ffffffc8:  9468272261908788764\n"),
        ("/2og", 0xffff_ffc0, "00000000ffffffc0: 0733757610151031566772 01015460367240760373034\n"),
        ("/5d", 0xffff_ffc0, "00000000ffffffc0: 250 237 102  72 131\n"),
        ("/5ob", 0xffff_ffc0, "00000000ffffffc0: 0372 0355 0146 0110 0203\n"),
        ("/1ob", 0xffff_fff3, "00000000fffffff3:   0\n"),
        ("/5dh", 0xffff_ffc0, "00000000ffffffc0: 60922 18534 63619 30461 63004\n"),
        ("/3oh", 0xffff_ffc0, "00000000ffffffc0: 0166772 044146 0174203\n"),
        (
            "/20cb",
            0xffff_fff0,
            r"00000000fffffff0: '\xea' '[' '\xe0' '\x00' '\xf0' '0' '6' '/'
00000000fffffff8: '2' '3' '/' '9' '9' '\x00' '\xfc' '\x00'
0000000100000000: Cannot access memory
",
        ),
        ("/c", 0xffff_fff8, "00000000fffffff8: '2'\n"),
        // Characters of as many bytes as the values would have.
        ("/2cw", 0xffff_fff4, r"00000000fffffff4: '\xf0' '0' '6' '/' '2' '3' '/' '9'".to_owned().leak()),
        ("/0xb", 0xffff_ffc0, ""),
        // A line that cannot be read whole is not shown at all.
        ("/3xw", 0xffff_fff8, "00000000fffffff8: Cannot access memory\n"),
    ] {
        assert_eq!(shows(spec, addr).trim_end_matches('\n'), expected.trim_end_matches('\n'), "{spec}");
    }
}

#[test]
fn what_a_format_leaves_out_is_as_it_was_last_time() {
    let mut last = LastFormat::default();
    let mut parse = |text| Format::parse(text, &mut last).map(|(f, rest)| (f.count, f.letter, f.size, rest));
    assert_eq!(parse("0"), Ok((1, Letter::Hex, 4, "0")));
    assert_eq!(parse("/4xb 0"), Ok((4, Letter::Hex, 1, " 0")));
    assert_eq!(parse("/3 0"), Ok((3, Letter::Hex, 1, " 0")));
    assert_eq!(parse("/og"), Ok((1, Letter::Octal, 8, "")));
    assert_eq!(parse("/wd 1"), Ok((1, Letter::Decimal, 4, " 1")));
    assert_eq!(parse("/ib 1"), Ok((1, Letter::Instruction, 1, " 1")));
    assert_eq!(parse("1"), Ok((1, Letter::Instruction, 0, "1")));
    assert_eq!(parse("/2xL 0"), Ok((2, Letter::Hex, 8, " 0")));
    assert_eq!(parse("/ 0"), Ok((1, Letter::Hex, 8, " 0")));
    assert_eq!(parse("/99999999999999999999999b 0"), Ok((u64::MAX, Letter::Hex, 1, " 0")));
    for (text, c) in [("/-1xb 0", '-'), ("/4z 0", 'z'), ("/xb4 0", '4'), ("/s", 's'), ("/2xé", 'é')] {
        assert_eq!(parse(text), Err(format!("invalid char in format: '{c}'\n")));
    }
}

#[test]
fn expressions_are_printed_in_every_format() {
    for (letter, value, expected) in [
        (Letter::Hex, 255, "0xff"),
        (Letter::Hex, 0, "0"),
        (Letter::Hex, -1, "0xffffffffffffffff"),
        (Letter::Octal, 8, "010"),
        (Letter::Octal, 0, "0"),
        (Letter::Octal, -1, "01777777777777777777777"),
        (Letter::Decimal, -1, "-1"),
        (Letter::Unsigned, -1, "18446744073709551615"),
        (Letter::Instruction, -5, "-5"),
        (Letter::Character, 65, "'A'"),
        (Letter::Character, 10, r"'\n'"),
        (Letter::Character, 13, r"'\r'"),
        (Letter::Character, 39, r"'\''"),
        (Letter::Character, 92, r"'\\'"),
        (Letter::Character, 34, "'\"'"),
        (Letter::Character, 0x7f, r"'\x7f'"),
        (Letter::Character, 200, r"'\xc8'"),
        (Letter::Character, -1, r"'\xffffffff'"),
        (Letter::Character, 256 + 65, r"'\x141'"),
    ] {
        assert_eq!(expression(letter, value), expected, "{letter:?} {value}");
    }
}
