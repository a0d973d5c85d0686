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

    /// Whether a caption has a place in the prompt beside the text. Where it has none it would stand in the text's place.
    pub fn takes_caption(&self) -> bool {
        let has = |wanted: usize| self.with_caption.0.contains(&Piece::Argument(wanted));
        has(0) && has(1)
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

/// What the encoder reads of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Ids `[tokens]`, beginning and end of sentence included.
    pub ids: Vec<u32>,
    /// Whether a part of the text or of the caption is not in them.
    pub is_truncated: bool,
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

    /// Whether this version's prompt has a place for a caption.
    pub fn takes_caption(&self) -> bool {
        self.templates.takes_caption()
    }

    /// Source ids `[tokens]`: beginning of sentence, the first `source_tokens_max` tokens of the
    /// prompt, end of sentence. A long text thus loses the end of the prompt, as in the reference; a long caption is cut before
    /// the text is, where the reference would cut the text.
    pub fn source(&self, text: &str, caption: Option<&str>) -> Source {
        let whole_text = clean(text, usize::MAX);
        let kept_text = clean(text, self.source_tokens_max);
        let mut is_truncated = kept_text.len() < whole_text.len();

        let whole_caption = caption.map(|caption| clean(caption, usize::MAX));
        let kept_caption = caption.map(|caption| self.caption_that_fits(&kept_text, caption));
        is_truncated |= kept_caption.as_ref().map(String::len) < whole_caption.as_ref().map(String::len);

        let tokens = self.tokenizer.encode(&self.templates.fill(&kept_text, kept_caption.as_deref()));
        is_truncated |= tokens.len() > self.source_tokens_max;
        let mut ids = vec![Tokenizer::BEGIN];
        ids.extend(tokens.into_iter().take(self.source_tokens_max));
        ids.push(Tokenizer::END);
        Source { ids, is_truncated }
    }

    /// The ids of [`Prompter::source`].
    pub fn source_ids(&self, text: &str, caption: Option<&str>) -> Vec<u32> {
        self.source(text, caption).ids
    }

    /// The first words of a cleaned caption, as many as leave room for the text.
    fn caption_that_fits(&self, kept_text: &str, caption: &str) -> String {
        let caption = clean(caption, self.source_tokens_max);
        let tokens = |caption: &str| self.tokenizer.encode(&self.templates.fill(kept_text, Some(caption))).len();
        if tokens(&caption) <= self.source_tokens_max {
            return caption;
        }
        let words: Vec<&str> = caption.split(' ').collect();
        let first = |count: usize| words[..count].join(" ");
        // More words have more tokens, so the number that fits is found by halving.
        let (mut fits, mut too_many) = (0, words.len());
        while too_many - fits > 1 {
            let middle = fits.midpoint(too_many);
            if tokens(&first(middle)) <= self.source_tokens_max { fits = middle } else { too_many = middle }
        }
        first(fits)
    }

    /// Ids `[tokens]` of a cleaned text that the decoder is to say, in no template: its tokens and the end of sentence, or the first
    /// `source_tokens_max` tokens and no end, lest a text that was cut is taken for a whole one.
    pub fn said_ids(&self, text: &str) -> Vec<u32> {
        let mut ids = self.tokenizer.encode(&format!(" {}", clean(text, usize::MAX)));
        if ids.len() > self.source_tokens_max {
            ids.truncate(self.source_tokens_max);
        } else {
            ids.push(Tokenizer::END);
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompter(templates: Templates, source_tokens_max: usize) -> Prompter {
        let tokenizer = Tokenizer::new(
            include_str!("../../testdata/golden/dev/vocab.json"),
            include_str!("../../testdata/golden/dev/merges.txt"),
        );
        Prompter::new(tokenizer.unwrap(), templates, source_tokens_max)
    }

    #[test]
    fn what_is_not_read_is_noticed_wherever_it_is_cut() {
        let prompter = prompter(Templates::default(), 80);
        let short = prompter.source("there is a star", None);
        assert!(!short.is_truncated);
        let harmless = "there is a star ".repeat(30);
        for text in [format!("{harmless} and drugs"), "x".repeat(500), "a ".repeat(100)] {
            let long = prompter.source(&text, None);
            assert!(long.is_truncated && long.ids.len() == 82, "{text}");
        }
    }

    #[test]
    fn a_long_caption_is_cut_before_the_text_is() {
        let prompter = prompter(Templates::default(), 80);
        let caption = "a walk in the park with a dog ".repeat(20);
        let sources = ["there is a star", "there is no star"].map(|text| prompter.source(text, Some(&caption)));
        assert_ne!(sources[0].ids, sources[1].ids, "the text is read");
        assert!(sources.iter().all(|source| source.is_truncated && source.ids.len() <= 82));
        let short = prompter.source("there is a star", Some("a walk"));
        assert!(!short.is_truncated);
    }

    #[test]
    fn a_prompt_of_one_field_takes_no_caption() {
        let overridden = |template: &str| Templates::overridden(template).unwrap();
        assert!(Templates::default().takes_caption() && overridden(" {1} given {0}?").takes_caption());
        assert!(!overridden(" {}?").takes_caption() && !overridden(" {0} or {0}?").takes_caption());
    }

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
