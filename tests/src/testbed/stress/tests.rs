//! The program finds what it is there to find.

use super::*;

fn written(pages: usize, rounds: usize) -> Area {
    let mut area = Area::new(pages, 3, noise());
    for _ in 0..rounds {
        for page in 0..pages {
            area.step(page).unwrap();
        }
    }
    area
}

#[test]
fn what_is_as_it_was_left_is_right() {
    let mut area = written(8, 40);
    assert_eq!(area.rounds, [40; 8]);
    assert_eq!(area.step(7), Ok(()));
}

#[test]
fn a_byte_that_changed_is_found() {
    for round in [0, 5] {
        let mut area = written(4, round);
        area.bytes[2 * PAGE + 4095] ^= 1;
        assert_eq!(area.step(1), Ok(()));
        let found = area.step(2).unwrap_err();
        assert!(found.starts_with(&format!("page 2 of area 3, which is in round {round}, ")), "{found}");
        assert!(round == 0 || found.ends_with("differs from byte 4095 on"), "{found}");
    }
}

#[test]
fn a_page_of_an_earlier_round_or_of_another_place_is_found() {
    let old = written(4, 5);
    for pages in [1..2, 3..4, 0..4] {
        let mut area = written(4, 6);
        let at = pages.start * PAGE..pages.end * PAGE;
        area.bytes[at.clone()].copy_from_slice(&old.bytes[at]);
        let found = area.step(pages.start).unwrap_err();
        assert!(found.ends_with("which is in round 6, has round 5"), "{found}");
    }
    let mut area = written(4, 6);
    area.bytes.copy_within(0..PAGE, PAGE);
    assert!(area.step(1).is_err());
    area.bytes[..PAGE].fill(0);
    assert_eq!(area.step(0), Err("page 0 of area 3, which is in round 6, is zero".into()));
}

#[test]
fn half_a_page_of_an_earlier_round_is_found() {
    let old = written(2, 5);
    let mut area = written(2, 6);
    area.bytes[PAGE + 2048..].copy_from_slice(&old.bytes[PAGE + 2048..]);
    let found = area.step(1).unwrap_err();
    assert!(found.contains("differs from byte 20"), "{found}");
}

#[test]
fn a_clock_that_goes_back_is_noticed() {
    let said = Said {
        counts: vec![("lines".into(), AtomicU64::new(7))],
        wrong: Mutex::default(),
        begun: Instant::now(),
        latest: AtomicU64::default(),
    };
    said.look_at_the_clock();
    assert_eq!(said.text(), "lines 7\n");
    said.latest.store(u64::MAX, Ordering::SeqCst);
    said.look_at_the_clock();
    let text = said.text();
    assert!(text.starts_with("lines 7\nwrong it was 18446744073709551615 ns, and then "), "{text}");
}
