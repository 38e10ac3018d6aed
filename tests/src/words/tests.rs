//! Claims about splitting a line into words.

use super::words;

#[test]
fn blanks_separate_and_quotes_join() {
    assert_eq!(words("a  b 'c d'e \"f\\\"g\""), ["a", "b", "c de", "f\"g"]);
}

#[test]
fn an_empty_quote_is_a_word_and_an_empty_line_has_none() {
    assert_eq!(words("-device ''"), ["-device", ""]);
    assert!(words("  ").is_empty());
}
