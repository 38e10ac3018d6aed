//! Splitting a command line of a transcript into words, as a POSIX shell does for what the transcripts use: blanks, single
//! quotes, double quotes and backslashes. No expansion of any kind; `$RUN` is replaced by the caller.

/// The words of a shell command line.
///
/// # Panics
///
/// If a quote is not closed: the transcript is damaged then.
///
/// ```
/// assert_eq!(tests::words(r#"-device '{"driver":"a b"}' ''"#), ["-device", r#"{"driver":"a b"}"#, ""]);
/// ```
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => panic!("unclosed {c} in {line}"),
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => word.extend(chars.next()),
                        Some(other) => word.push(other),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests;
