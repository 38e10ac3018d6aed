//! The console as a person sees it: the program in a window of tmux, compared with the pictures in `docs/console/`; and the same
//! editor through `socat`.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use tests::pci::Function;
use tests::screen::{Screen, Window, guide, recorded};
use tests::virtio_mem::Kind;
use tests::{Need, Qtest, VirtioMem, Vm, Wire, have, program, words};

/// A machine with two memory devices on a window's terminal, at its first prompt.
fn console(window: Window) -> Screen {
    console_with(window, "")
}

/// The same with more options.
fn console_with(window: Window, more: &str) -> Screen {
    let line = "-nodefaults -no-user-config -display none -accel qtest -machine q35 -m 1G,maxmem=80G \
                -object memory-backend-ram,id=mem0,size=8G -device virtio-mem-pci,id=vm0,memdev=mem0,requested-size=1G \
                -object memory-backend-ram,id=mem1,size=64M,reserve=off \
                -device virtio-mem-pci,id=vm1,memdev=mem1,block-size=8M -monitor stdio";
    let screen = window.run(&program::path(), &words(&format!("{line} {more}")));
    screen.until_shows("(qemu)");
    screen
}

fn same(text: &str) -> String {
    text.to_owned()
}

/// Types and waits for a text.
fn types(screen: &Screen, text: &str, shows: &str) -> String {
    screen.types(text);
    screen.until_shows(shows)
}

#[test]
fn completion_looks_as_in_the_docs() {
    if !have(&[Need::Pliant, Need::Tmux]) {
        return;
    }
    let screen = console(Window::new(80, 24));
    screen.types("device_add virtio-mem-pci,un");
    screen.press("Tab");
    screen.until_shows("unplugged-protection=");
    screen.types("p");
    screen.press("Tab");
    screen.until(|text| text.ends_with("pci,unplugged-protection=\n"));
    screen.press("Tab");
    let picture = screen.until(|text| text.matches("(qemu)").count() == 3);
    recorded("completion", &picture, same);
}

#[test]
fn values_are_completed_for_what_is_set() {
    if !have(&[Need::Pliant, Need::Tmux]) {
        return;
    }
    let screen = console(Window::new(80, 24));
    for part in ["qom-s", "/machine/peripheral/vm0 unplugged-a"] {
        screen.types(part);
        screen.press("Tab");
    }
    screen.press("Tab");
    let picture = screen.until_shows("report");
    assert!(picture.contains("kill      report    stop"), "{picture}");
    types(&screen, "k", "unplugged-access k");
    screen.press("Tab");
    screen.press("Enter");
    types(&screen, "qom-get vm0 unplugged-access\r", "\"kill\"");
}

#[test]
fn hints_look_as_in_the_docs_and_are_grey() {
    if !have(&[Need::Pliant, Need::Tmux]) {
        return;
    }
    let screen = console(Window::new(80, 24));
    types(&screen, "qom-get vm0 size\r", "\n0\n");
    types(&screen, "info nonsense\r", "unknown command");
    types(&screen, "qom-set", " [-j] path property value");
    screen.types(" vm0 ");
    let picture = screen.until(|text| text.ends_with("qom-set vm0 property value\n"));
    assert!(screen.colours().contains("qom-set vm0 \x1b[90mproperty value"), "{:?}", screen.colours());
    recorded("hint", &picture, same);
    // The rest of an earlier line, which going right takes.
    screen.press("C-u");
    types(&screen, "qom-g", "qom-get vm0 size");
    assert!(screen.colours().contains("qom-g\x1b[90met vm0 size"), "{:?}", screen.colours());
    screen.press("Right");
    screen.press("Enter");
    screen.until(|text| text.matches("\n0\n").count() == 2);
    // Errors are red.
    assert!(screen.colours().contains("\x1b[31munknown command: 'info nonsense'"), "{:?}", screen.colours());
}

#[test]
fn no_color_and_dumb_terminals_get_no_colour() {
    if !have(&[Need::Pliant, Need::Tmux]) {
        return;
    }
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let screen = console(Window::new(80, 24).env(name, value));
        types(&screen, "nonsense\r", "unknown command");
        types(&screen, "qom-set", "qom-set");
        types(&screen, "\rinfo name\r", "string expected");
        screen.until(|text| text.ends_with("info name\n(qemu)\n"));
        let colours = screen.colours();
        assert!(!colours.contains('\x1b'), "{name}: {colours:?}");
        assert!(!colours.contains("path"), "{name}: {colours:?}");
    }
}

#[test]
fn a_search_looks_as_in_the_docs_and_the_history_outlives_the_program() {
    if !have(&[Need::Pliant, Need::Tmux]) {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let window = || Window::new(80, 24).env("XDG_STATE_HOME", state.path().to_str().unwrap());
    let screen = console(window());
    types(&screen, "info status\r", "VM status");
    types(&screen, "qom-set vm0 requested-size 2G\r", "2G\n(qemu)");
    types(&screen, " info name\r", "info name\n(qemu)");
    screen.types("quit\r");
    screen.until_ended();
    drop(screen);
    let screen = console(window());
    screen.press("C-r");
    let picture = types(&screen, "req", "`req': qom-set vm0 requested-size 2G");
    recorded("search", &picture, same);
    screen.press("Enter");
    let picture = types(&screen, "info history\r", "quit'");
    let listed: Vec<&str> = picture.lines().filter(|line| line.contains(": '")).collect();
    assert_eq!(
        listed,
        ["0: 'info status'", "1: 'quit'", "2: 'qom-set vm0 requested-size 2G'", "3: 'info history'"],
        "what begins with a blank is not kept"
    );
}

#[test]
fn the_block_map_is_as_wide_as_the_window() {
    if !have(&[Need::Pliant, Need::Tmux]) {
        return;
    }
    let window = Window::new(80, 24);
    let socket = window.home().join("qtest");
    let listener = UnixListener::bind(&socket).unwrap();
    let screen = console_with(window, &format!("-qtest unix:{} -qtest-log none", socket.display()));
    let mut qtest = Qtest::new(Wire::new(listener.accept().unwrap().0.into()));
    let [vm0, vm1] = [1, 2].map(Function::at);
    let mut drivers = [(vm0, 0), (vm1, 1)].map(|(function, nth)| VirtioMem::map(&mut qtest, function, nth));
    for driver in &mut drivers {
        driver.init_usual(&mut qtest);
    }
    // Blocks of 2 MiB, 64 of them and some more with gaps; of the second device, two of 8 MiB.
    let plug = |driver: &mut VirtioMem, qtest: &mut Qtest, addr: u64, blocks: u16| {
        assert_eq!(driver.request(qtest, Kind::Plug, addr, blocks), "ACK");
    };
    plug(&mut drivers[0], &mut qtest, 0x1_0000_0000, 128);
    for n in 0..40 {
        plug(&mut drivers[0], &mut qtest, 0x1_1800_0000 + (n << 24), 3);
    }
    types(&screen, "qom-set vm1 requested-size 40M\r", "40M\n(qemu)");
    for block in [0, 1, 4] {
        plug(&mut drivers[1], &mut qtest, 0x3_0000_0000 + (block << 23), 1);
    }
    screen.press("C-l");
    let picture = types(&screen, "info memory-devices -m\r", "not usable yet\n(qemu)");
    recorded("map", &picture, same);
    // It follows the window, and knows what the terminal can show.
    screen.resize(100, 30);
    screen.types("info memory-devices -m\r");
    screen.until(|text| text.lines().any(|line| line.chars().count() == 100));
    drop(screen);
    let screen = console(Window::new(80, 24).env("LANG", "C"));
    let picture = types(&screen, "info memory-devices -m\r", "not usable yet\n(qemu)");
    assert!(picture.contains(" |...") && !picture.contains('\u{2502}'), "{picture}");
}

#[test]
fn long_lines_and_characters_of_any_width_are_edited_in_a_narrow_window() {
    if !have(&[Need::Pliant, Need::Tmux]) {
        return;
    }
    let screen = console(Window::new(30, 12).env("NO_COLOR", "1"));
    let text = "print \"gr\u{fc}n \u{65e5}\u{672c}\u{8a9e} 0123456789 0123456789 end";
    screen.types(text);
    screen.until_shows("end");
    let joined = |picture: &str| picture.lines().skip(1).collect::<Vec<_>>().concat();
    screen.until(|picture| joined(picture).ends_with("0123456789 end"));
    (0..27).for_each(|_| screen.press("Left"));
    screen.press("BSpace");
    screen.types("X");
    let wanted = text.replace("\u{672c}\u{8a9e}", "X\u{8a9e}");
    // Blanks at the end of a row are not captured.
    let squeezed = |text: &str| text.replace(' ', "");
    screen.until(|picture| squeezed(&joined(picture)).ends_with(&squeezed(&wanted)));
}

#[test]
fn the_same_editor_and_completion_work_through_socat() {
    if !have(&[Need::Pliant, Need::Tmux, Need::Socat]) {
        return;
    }
    let mut vm = Vm::new()
        .line("-machine q35 -m 1G,maxmem=4G -object memory-backend-ram,id=mem0,size=1G")
        .line("-device virtio-mem-pci,id=vm0,memdev=mem0 -monitor unix:$RUN/console,server=on,wait=off")
        .qmp()
        .start();
    vm.qmp().ok("query-status", serde_json::json!({}));
    let line = format!("-,raw,echo=0 UNIX-CONNECT:{}", vm.scratch().join("console").display());
    let screen = Window::new(80, 24).run("socat".as_ref(), &words(&line));
    screen.until_shows("(qemu)");
    types(&screen, "info sttus", "info sttus");
    (0..3).for_each(|_| screen.press("Left"));
    types(&screen, "a\r", "VM status");
    screen.types("qom-set vm0 requested-s");
    screen.press("Tab");
    types(&screen, "64M\r", "requested-size 64M\n(qemu)");
    screen.press("C-r");
    types(&screen, "stat", "`stat': info status");
    screen.press("Enter");
    screen.until(|text| text.matches("VM status").count() == 2);
    types(&screen, "device_add virtio-mem-pci,memdev=m", "memdev=m");
    screen.press("Tab");
    screen.until_shows("memdev=mem0");
    // As QEMU: no colour and no hints.
    assert!(!screen.colours().contains('\x1b'), "{:?}", screen.colours());
    types(&screen, "\u{15}info memory-devices\r", "requested-size: 67108864");
}

/// A pipe with a name: the end to read from, and another that keeps it from ending before somebody writes.
fn pipe(path: &Path) -> (File, File) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    // For both it opens without waiting for anybody.
    let both = OpenOptions::new().read(true).write(true).open(path).unwrap();
    (File::open(path).unwrap(), both)
}

#[test]
fn a_dump_shows_how_far_it_is_and_the_console_waits_for_its_end() {
    if !have(&[Need::Pliant, Need::Tmux]) {
        return;
    }
    let window = Window::new(80, 24);
    let (socket, core) = (window.home().join("qtest"), window.home().join("core"));
    let listener = UnixListener::bind(&socket).unwrap();
    let (mut pipe, both) = pipe(&core);
    let line = format!(
        "-nodefaults -no-user-config -display none -accel qtest -machine pc -m 64M -monitor stdio \
         -qtest unix:{} -qtest-log none",
        socket.display()
    );
    let screen = window.run(&program::path(), &words(&line));
    let mut qtest = Qtest::new(Wire::new(listener.accept().unwrap().0.into()));
    screen.until_shows("(qemu)");
    qtest.memset(0, 64 << 20, 0x55);
    screen.types("dump-guest-memory core\r");
    // As much as this is taken, and no more for a while.
    let mut taken = vec![0; 16 << 20];
    pipe.read_exact(&mut taken).unwrap();
    drop(both);
    let picture =
        screen.until(|text| text.lines().any(|l| l.starts_with("dump [") && l.contains("16 MiB of")));
    // How fast it goes is the machine's affair.
    let view = |picture: &str| {
        let line = |line: &str| match line.split_once(" of ") {
            Some((part, rest)) if line.starts_with("dump [") => {
                assert!(rest.starts_with("64") && rest.contains("/s, ") && rest.ends_with(" left"), "{line}");
                part.to_owned()
            }
            _ => line.to_owned(),
        };
        picture.lines().map(line).collect::<Vec<_>>().join("\n")
    };
    recorded("progress", &picture, view);
    // What is typed meanwhile waits; the program does not.
    screen.types("info status\r");
    assert_eq!(qtest.read(0x1000, 1), 0x55);
    let drained = std::thread::spawn(move || std::io::copy(&mut pipe, &mut std::io::sink()).unwrap());
    let picture = screen.until_shows("VM status");
    let lines: Vec<&str> = picture.lines().collect();
    assert_eq!(
        lines[1..4],
        ["(qemu) dump-guest-memory core", "(qemu) info status", "VM status: running"],
        "{picture}"
    );
    assert!(drained.join().unwrap() > 40 << 20);
    // An error is told as it would be without a line.
    types(&screen, "dump-guest-memory /dev/full\r", "Error: dump: failed to");
    screen.until(|text| text.ends_with("No space left on device\n(qemu)\n"));
    types(&screen, "dump-guest-memory /nonexistent/core\r", "Could not create '/nonexistent/core'");
    types(&screen, "info status\r", "info status\nVM status: running\n(qemu)");
}

#[test]
fn the_guide_shows_the_pictures() {
    let (with_pictures, as_it_is) = guide();
    assert!(with_pictures == as_it_is, "docs/guide.md shows old pictures: tests/run --update-screens");
}
