//! MSI-X: vectors, the table in BAR 1, and messages that are seen as writes to guest memory.

use tests::oracle::transcript::Step;
use tests::virtio_mem::{BAR1, Kind};
use tests::{Need, have};

use super::{hex, start};
use crate::replay::{Player, lines};

#[test]
fn interrupts_are_messages_as_the_oracle() {
    if !have(&[Need::Oracle]) {
        return;
    }
    let file = "4-device/msix.txt";
    let steps = lines(file, &["after ", "mem before", "MSI-X", "config vector", "queue 0", "entry "]);
    let mut player = Player::new(file, start(&steps));
    let notes: Vec<(String, &str)> = steps
        .iter()
        .filter_map(|line| match &line.step {
            Step::Note(note) if !note.starts_with('(') => Some((player.id(line), note.as_str())),
            _ => None,
        })
        .collect();
    let got = msix(&mut player);
    assert_eq!(notes.len(), got.len(), "{notes:?}");
    for ((id, note), got) in notes.iter().zip(got) {
        player.report.text(id, note, note, &got);
    }
    player.finish();
}

/// Programs the vectors so that messages are writes to guest memory, and tells what happened in the recorder's words.
fn msix(player: &mut Player) -> Vec<String> {
    const DATA: u64 = 0x20_0000;
    let mut said = player.map(0, |driver, qtest| {
        let mut said = Vec::new();
        driver.init_usual(qtest);
        let msix = driver.function.capabilities(qtest).into_iter().find(|&(_, id)| id == 0x11).unwrap().0;
        said.push(format!("MSI-X control before enable: {:#06x}", driver.function.read(qtest, msix + 2, 2)));
        for entry in 0..2 {
            let control = qtest.read(BAR1 + 16 * entry + 12, 4);
            said.push(format!("entry {entry} vector control reset value={control:#x}"));
        }
        driver.function.write(qtest, msix + 2, 2, 0x8001);
        said.push(format!("MSI-X control after enable: {:#06x}", driver.function.read(qtest, msix + 2, 2)));
        for (entry, data) in [(0, 0xabc0), (1, 0xabc1)] {
            qtest.write(BAR1 + 16 * entry, 4, DATA + 4 * entry);
            qtest.write(BAR1 + 16 * entry + 4, 4, 0);
            qtest.write(BAR1 + 16 * entry + 8, 4, data);
            qtest.write(BAR1 + 16 * entry + 12, 4, 0);
        }
        driver.set_common(qtest, 16, 2, 2);
        let refused = driver.common(qtest, 16, 2);
        driver.set_common(qtest, 16, 2, 0);
        said.push(format!("config vector written 0 reads back {}", driver.common(qtest, 16, 2)));
        said.push(format!("config vector written 2 (out of range, 2 vectors) reads back {refused:#x}"));
        driver.set_common(qtest, 26, 2, 1);
        said.push(format!("queue 0 vector reads back {}", driver.common(qtest, 26, 2)));
        said.push(format!("mem before: {}", hex(&qtest.bytes(DATA, 8))));
        let answer = driver.request(qtest, Kind::Plug, 0x1_0000_0000, 1);
        said.push(format!("req PLUG       addr=0x100000000 (offset 0x0) nb_blocks=1 -> {answer}"));
        said.push(format!("after a request: {}", hex(&qtest.bytes(DATA, 8))));
        said
    });
    assert_eq!(player.vm.hmp().run("qom-set vm0 requested-size 32M"), "");
    let (memory, isr) = player.map(0, |driver, qtest| (hex(&qtest.bytes(DATA, 8)), driver.isr(qtest)));
    said.push(format!("after requested-size change: {memory} ; isr={isr:#x}"));
    said
}
