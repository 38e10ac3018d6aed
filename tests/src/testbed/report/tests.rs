//! Messages survive the wire, and gaps cover what they say.

use super::*;

#[test]
fn messages_are_read_as_they_were_written() {
    let failed = Outcome::Failed { reason: "a\n\"b\"".into(), console: "\u{1b}[0m x".into() };
    for outcome in [Outcome::Ok, failed, Outcome::Skipped("no reason".into())] {
        let message = Message::Claim { name: "6.1/q35-1/boots".into(), outcome, seconds: 1.5 };
        assert_eq!(Message::parse(&message.line()), Some(message));
    }
    let keep = Message::Keep { name: "n".into(), text: "t\nu".into() };
    for message in [Message::Say("x".into()), keep, Message::Ready, Message::Done] {
        assert_eq!(Message::parse(&message.line()), Some(message));
    }
    for noise in ["", "[    1.0] kernel", "{\"x\":1}", "17"] {
        assert_eq!(Message::parse(noise), None, "{noise}");
    }
}

#[test]
fn a_gap_covers_a_claim_or_all_of_a_boot() {
    let gaps = Gaps::parse("# known\n6.1/q35-4/balloon  not there yet\n*/microvm-1   no such machine\n");
    assert_eq!(gaps.reason("6.1/q35-4/balloon"), Some("not there yet"));
    assert_eq!(gaps.reason("6.12/q35-4/balloon"), None);
    assert_eq!(gaps.reason("6.12/microvm-1/boots"), Some("no such machine"));
    assert_eq!(gaps.reason("6.12/microvm-12/boots"), None);
}

#[test]
fn a_gap_that_is_closed_fails_the_run() {
    let person = ToPerson { gaps: Gaps::parse("a/b/c why"), ..ToPerson::default() };
    let claim = |outcome| Message::Claim { name: "a/b/c".into(), outcome, seconds: 0.0 };
    person.hear(claim(Outcome::Failed { reason: "r".into(), console: String::new() }));
    assert!(person.close());
    person.hear(claim(Outcome::Ok));
    assert!(!person.close());
}
