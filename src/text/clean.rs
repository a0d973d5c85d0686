//! The cleaning that the reference applies to every text before it is put into the prompt.

/// Cleans a text and keeps its first `words_max` words.
///
/// In this order, as the reference does: lower case, leading punctuation off, `-` and `/` to
/// blanks, `<person>` to `person`, runs of two or more whitespace characters to one blank (a lone
/// tab stays), trailing newlines off, blanks off both ends, first words.
pub fn clean(text: &str, words_max: usize) -> String {
    let lower = text.to_lowercase();
    let bare = lower.trim_start_matches([',', '.', '!', '?', '*', '#', ':', ';', '~']);
    let plain = bare.replace(['-', '/'], " ").replace("<person>", "person");
    let collapsed = collapse_whitespace(&plain);
    let trimmed = collapsed.trim_end_matches('\n').trim_matches(' ');
    trimmed.split(' ').take(words_max).collect::<Vec<_>>().join(" ")
}

fn collapse_whitespace(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if !is_python_whitespace(character) {
            out.push(character);
            continue;
        }
        let mut run = 1;
        while characters.next_if(|&next| is_python_whitespace(next)).is_some() {
            run += 1;
        }
        out.push(if run > 1 { ' ' } else { character });
    }
    out
}

/// Python's `\s` also holds the four information separators, which Unicode's White_Space does not.
fn is_python_whitespace(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_agrees_with_the_reference_on_every_golden_case() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../testdata/golden/unit/pre_caption.json")).unwrap();
        let mut cases = 0;
        for (key, list) in golden.as_object().unwrap() {
            let words_max: usize = key.strip_prefix("max_words_").unwrap().parse().unwrap();
            for case in list.as_array().unwrap() {
                assert_eq!(clean(case["i"].as_str().unwrap(), words_max), case["o"].as_str().unwrap(), "{case}");
                cases += 1;
            }
        }
        assert!(cases > 20, "only {cases} cases");
    }
}
