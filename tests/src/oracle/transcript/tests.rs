//! Claims about reading the oracle's transcripts.

use serde_json::json;

use super::{Step, parse};

#[test]
fn a_session_is_read_step_by_step() {
    let text = "# title\n$ qemu -m 1\n(qemu) info a\none\n\n two\n\nplugged it\n-> {\"execute\": \"x\"}\n\
                <- {\"event\": \"E\"}\n<- {\"return\": 1}\n<- {\"event\": \"F\"}\n\n## head\n";
    let steps: Vec<(usize, Step)> =
        parse(text, &["plugged"]).into_iter().map(|l| (l.number, l.step)).collect();
    assert_eq!(
        steps,
        [
            (2, Step::Start("qemu -m 1".into())),
            (3, Step::Hmp("info a".into(), "one\n\n two\n".into())),
            (8, Step::Note("plugged it".into())),
            (9, Step::Qmp(json!({ "execute": "x" }), vec![json!({ "event": "E" }), json!({ "return": 1 })])),
            (12, Step::Event(json!({ "event": "F" }))),
            (14, Step::Heading("head".into())),
        ]
    );
}
