//! Patterns of event names: `*` is any text, also none, and `?` any one character.

/// Whether `text` fits `pattern`. Takes time in proportion to the product of their lengths at most.
///
/// ```
/// assert!(trace::glob::matches("virtio_mem_*_request", "virtio_mem_plug_request"));
/// assert!(!trace::glob::matches("virtio_mem", "virtio_mem_plug_request"));
/// ```
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on if it does not work out: behind the last `*`, which then takes one character more.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                p += 1;
                retry = Some((p, t));
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((behind, taken)) => {
                    retry = Some((behind, taken + 1));
                    p = behind;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}
