//! `-fw_cfg`: what a guest reads of it by port and by DMA, and how mistakes are answered. The texts are those of QEMU 10.0.2.

use tests::Vm;

#[test]
fn files_of_the_command_line_are_read_by_port_and_by_dma() {
    let builder = Vm::new();
    std::fs::write(builder.scratch().join("blob"), b"from a file").unwrap();
    let line =
        "-machine q35 -m 128M -fw_cfg name=opt/org.example/a,string=some,,text -fw_cfg opt/b,file=$RUN/blob";
    let mut vm = builder.line(line).accel("qtest").qtest().start();
    let qtest = vm.qtest();
    assert_eq!(qtest.fw_cfg_item(0, 4), b"QEMU");
    assert_eq!(qtest.fw_cfg_file("opt/org.example/a").unwrap().1, b"some,text");
    let (key, contents) = qtest.fw_cfg_file("opt/b").unwrap();
    assert_eq!((contents.as_slice(), qtest.fw_cfg_file("opt/c")), (&b"from a file"[..], None));
    let (key, size) = (u32::from(key), contents.len() as u32);
    let request = [&(key << 16 | 8 | 2).to_be_bytes()[..], &size.to_be_bytes(), &0x2000u64.to_be_bytes()];
    qtest.write_bytes(0x1000, &request.concat());
    qtest.out(0x514, 4, 0);
    qtest.out(0x518, 4, 0x1000u32.swap_bytes());
    assert_eq!((qtest.read(0x1000, 4), qtest.bytes(0x2000, 12)), (0, b"from a file\0".to_vec()));
}

#[test]
fn mistakes_are_answered_as_by_qemu() {
    let needed = "name, plus exactly one of file, string and gen_id, are needed";
    let long = format!("name={},string=a", "n".repeat(56));
    let cases = [
        ("opt/a", needed),
        ("name=opt/a,file=x,string=a", needed),
        ("name=,string=b", needed),
        ("name=opt/a,string=", needed),
        ("name=opt/a,foo=b", "Invalid parameter 'foo'"),
        (&*long, "name too long (max. 55 char)"),
        ("name=opt/a,gen_id=x", "Cannot find object ID 'x'"),
        (
            "name=opt/a,file=/nonexistent",
            "can't load /nonexistent: Failed to open file “/nonexistent”: No such file or directory",
        ),
    ];
    let failure = |args: &[&str]| {
        let exited = Vm::new().bare().args(args.iter().copied()).run();
        assert_eq!(exited.code, Some(1));
        exited.stderr.replace("qemu-system-x86_64: ", "")
    };
    for (text, error) in cases {
        let got = failure(&["-machine", "pc", "-accel", "qtest", "-nodefaults", "-fw_cfg", text]);
        assert_eq!(got, format!("-fw_cfg {text}: {error}\n"));
    }
    let text = "name=opt/a,string=a";
    let got =
        failure(&["-machine", "pc", "-accel", "qtest", "-nodefaults", "-fw_cfg", text, "-fw_cfg", text]);
    assert_eq!(got, format!("-fw_cfg {text}: duplicate fw_cfg file name: opt/a\n"));
    let got = failure(&["-machine", "none", "-accel", "qtest", "-nodefaults", "-fw_cfg", text]);
    assert_eq!(got, format!("-fw_cfg {text}: fw_cfg device not available\n"));
}
