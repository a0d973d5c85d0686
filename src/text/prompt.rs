//! The sentence around the words, and the whole way from words to source ids.

use super::{TextError, Tokenizer, clean};

/// The two sentences that OFA was trained with, or the one that a model's configuration puts in
/// their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates {
    alone: Template,
    with_caption: Template,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Words(String),
    Argument(usize),
}

impl Default for Templates {
    fn default() -> Self {
        let words = |text: &str| Piece::Words(text.to_owned());
        let alone = vec![words(" does the image describe \" "), Piece::Argument(0), words(" \"?")];
        let with_caption = vec![
            words(" can image and text1 \" "),
            Piece::Argument(0),
            words(" \" imply text2 \" "),
            Piece::Argument(1),
            words(" \"?"),
        ];
        Self { alone: Template(alone), with_caption: Template(with_caption) }
    }
}

impl Templates {
    /// One template for both cases, in Python's `str.format` notation with `{}`, `{0}`, `{1}`,
    /// `{{` and `}}`. With a caption there are two values, the caption first; without one there is the
    /// text alone, and a template that needs two then gets an empty second one.
    ///
    /// # Errors
    /// When the notation is not understood.
    pub fn overridden(template: &str) -> Result<Self, TextError> {
        let template = Template::parse(template)?;
        Ok(Self { alone: template.clone(), with_caption: template })
    }

    pub(crate) fn fill(&self, text: &str, caption: Option<&str>) -> String {
        match caption {
            None => self.alone.fill(&[text]),
            Some(caption) => self.with_caption.fill(&[caption, text]),
        }
    }
}

impl Template {
    fn parse(template: &str) -> Result<Self, TextError> {
        let refuse = |reason: &str| TextError::Template { template: template.to_owned(), reason: reason.to_owned() };
        let mut pieces = Vec::new();
        let mut words = String::new();
        let (mut automatic, mut numbered) = (0, false);
        let mut characters = template.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '{' if characters.next_if_eq(&'{').is_some() => words.push('{'),
                '}' if characters.next_if_eq(&'}').is_some() => words.push('}'),
                '}' => return Err(refuse("a single `}` has no `{` before it")),
                '{' => {
                    let mut name = String::new();
                    loop {
                        match characters.next() {
                            Some('}') => break,
                            Some(inner) => name.push(inner),
                            None => return Err(refuse("a `{` is never closed")),
                        }
                    }
                    let argument = match name.as_str() {
                        "" => {
                            automatic += 1;
                            automatic - 1
                        }
                        "0" | "1" => {
                            numbered = true;
                            usize::from(name == "1")
                        }
                        _ => return Err(refuse("only `{}`, `{0}` and `{1}` can be filled")),
                    };
                    if argument > 1 || (numbered && automatic > 0) {
                        return Err(refuse("there are two values, numbered in all fields or in none"));
                    }
                    pieces.push(Piece::Words(std::mem::take(&mut words)));
                    pieces.push(Piece::Argument(argument));
                }
                _ => words.push(character),
            }
        }
        pieces.push(Piece::Words(words));
        Ok(Self(pieces))
    }

    fn fill(&self, arguments: &[&str]) -> String {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Words(words) => words.as_str(),
                Piece::Argument(index) => arguments.get(*index).copied().unwrap_or_default(),
            })
            .collect()
    }
}

/// Turns words into the ids that the encoder reads.
#[derive(Clone, Debug)]
pub struct Prompter {
    tokenizer: Tokenizer,
    templates: Templates,
    source_tokens_max: usize,
}

impl Prompter {
    /// `source_tokens_max` is `max_src_length` of the model: it bounds the words of each text and
    /// the tokens of the finished prompt.
    pub fn new(tokenizer: Tokenizer, templates: Templates, source_tokens_max: usize) -> Self {
        Self { tokenizer, templates, source_tokens_max }
    }

    /// The tokenizer, for the answers.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The finished prompt: cleaned text and caption in their template.
    pub fn prompt(&self, text: &str, caption: Option<&str>) -> String {
        let text = clean(text, self.source_tokens_max);
        let caption = caption.map(|caption| clean(caption, self.source_tokens_max));
        self.templates.fill(&text, caption.as_deref())
    }

    /// Source ids `[tokens]`: beginning of sentence, the first `source_tokens_max` tokens of the
    /// prompt, end of sentence. A long text thus loses the end of the prompt, as in the reference.
    pub fn source_ids(&self, text: &str, caption: Option<&str>) -> Vec<u32> {
        let mut ids = vec![Tokenizer::BEGIN];
        ids.extend(self.tokenizer.encode(&self.prompt(text, caption)).into_iter().take(self.source_tokens_max));
        ids.push(Tokenizer::END);
        ids
    }

    /// Ids `[tokens]` of a cleaned text that the decoder is to say, in no template: its tokens and the end of sentence, or the first
    /// `source_tokens_max` tokens and no end, lest a text that was cut is taken for a whole one.
    pub fn said_ids(&self, text: &str) -> Vec<u32> {
        let mut ids = self.tokenizer.encode(&format!(" {}", clean(text, usize::MAX)));
        match ids.len() > self.source_tokens_max {
            true => ids.truncate(self.source_tokens_max),
            false => ids.push(Tokenizer::END),
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_prompts_read_as_the_model_was_trained() {
        let templates = Templates::default();
        assert_eq!(templates.fill("a dog", None), " does the image describe \" a dog \"?");
        assert_eq!(
            templates.fill("a dog", Some("a walk")),
            " can image and text1 \" a walk \" imply text2 \" a dog \"?"
        );
    }

    #[test]
    fn an_overriding_template_serves_both_cases_and_bad_notation_is_refused() {
        let templates = Templates::overridden(" is it {{{}}}?").unwrap();
        assert_eq!(templates.fill("a dog", None), " is it {a dog}?");
        assert_eq!(templates.fill("a dog", Some("a walk")), " is it {a walk}?");
        let both = Templates::overridden(" is {1} so, given {0}?").unwrap();
        assert_eq!(both.fill("a dog", Some("a walk")), " is a dog so, given a walk?");
        for bad in ["{name}", "}", "{", "{0", "{0:>5}", "{} {} {}", "{} {1}", "{2}"] {
            assert!(Templates::overridden(bad).is_err(), "{bad}");
        }
    }
}
