//! Claims about words and numbers.

use proptest::prelude::*;

use super::*;

#[test]
fn a_name_ends_where_a_format_begins() {
    assert_eq!(name("x/4xb 0"), Ok(("/4xb 0", "x")));
    assert_eq!(name("info  status"), Ok(("  status", "info")));
    assert_eq!(name("/4"), Err(Err::Error(Mistake(None))));
}

#[test]
fn a_word_is_quoted_or_ends_at_a_blank() {
    assert_eq!(word("a\"b c"), Ok((" c", "a\"b".to_owned())));
    assert_eq!(word(r#""a \"b\" \\\n"c"#), Ok(("c", "a \"b\" \\\n".to_owned())));
    assert_eq!(word("\"\""), Ok(("", String::new())));
    for broken in ["\"a", "\"a\\", r#""a\qb""#] {
        assert_eq!(word(broken), Err(Err::Failure(Mistake(None))), "{broken}");
    }
    assert_eq!(words(" a  \"b c\"d "), Some(vec!["a".to_owned(), "b c".to_owned(), "d".to_owned()]));
    assert_eq!(words("a \"b"), None);
}

#[test]
fn a_number_takes_the_digits_that_its_prefix_allows() {
    for (text, rest, value) in [
        ("0x1Fg", "g", 31),
        ("0X1f", "", 31),
        ("0x", "x", 0),
        ("0179", "9", 0o17),
        ("08", "8", 0),
        ("10M", "M", 10),
    ] {
        assert_eq!(number(text), Ok((rest, value)), "{text}");
    }
    assert_eq!(number("18446744073709551615"), Ok(("", u64::MAX)));
    assert_eq!(number("18446744073709551616"), Err(mistake("number too large")));
    assert_eq!(number("x"), Err(Err::Error(Mistake(None))));
}

proptest! {
    #[test]
    fn words_that_are_quoted_come_back(list in prop::collection::vec("[a-z \"\\\\\n\r']{0,8}", 0..5)) {
        let quote = |w: &String| {
            let escaped = w.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\r', "\\r");
            format!("\"{escaped}\"")
        };
        let text: Vec<String> = list.iter().map(quote).collect();
        prop_assert_eq!(words(&text.join(" ")), Some(list));
    }

    #[test]
    fn any_text_is_words_or_a_broken_quotation(text in ".{0,40}") {
        if let Some(list) = words(&text) {
            prop_assert!(list.len() <= text.len());
        }
    }
}
