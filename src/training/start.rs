//! What training begins with: configuration, vocabulary, weights.

use std::path::Path;

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::{Recipe, TrainError};
use crate::{
    dataset::Example,
    ofa::{NetworkConfig, Published, TaskConfig, wanted_tensors},
    store::{DefinitionError, Texts},
    text::{Templates, Vocabulary, clean},
};

/// The text files of a version that is trained from nothing: the vocabulary is learned from the examples.
pub(super) fn texts(recipe: &Recipe, path: &Path, examples: &[Example]) -> Result<Texts, TrainError> {
    let refuse = |reason: String| TrainError::Recipe { path: path.to_owned(), reason };
    let mut task = object(&recipe.task);
    for (key, value) in [("gen_type", "traverse"), ("prompt_type", "prev_output"), ("language", "en")] {
        task.entry(key).or_insert_with(|| value.into());
    }
    task.entry("answer2label").or_insert_with(|| "answer2label.json".into());
    let task = indented(&json!({ "framework": "pytorch", "task": "visual-entailment", "model": task }));
    let settings = TaskConfig::from_json(&task)?;
    let templates = match &settings.prompt {
        Some(prompt) => Templates::overridden(prompt).map_err(DefinitionError::from)?,
        None => Templates::default(),
    };
    let prompts: Vec<String> = examples
        .iter()
        .flat_map(|example| {
            let cleaned = |text: &str| clean(text, settings.max_src_length);
            let read = templates.fill(&cleaned(&example.text), example.caption.as_deref().map(cleaned).as_deref());
            let said = example.description.iter().chain(&example.explanation).map(|said| format!(" {}", cleaned(said)));
            std::iter::once(read).chain(said.collect::<Vec<_>>())
        })
        .collect();
    let answers = ["no", "yes", "maybe"];
    let vocabulary = Vocabulary::learn(prompts.iter().map(String::as_str), &answers, recipe.merges)
        .map_err(|error| refuse(error.to_string()))?;
    let entries: Map<String, Value> =
        serde_json::from_str(&vocabulary.vocabulary).map_err(|error| refuse(error.to_string()))?;
    let mut network = object(&recipe.network);
    network.insert("vocab_size".to_owned(), entries.len().into());
    network.entry("model_type").or_insert_with(|| "ofa".into());
    let numbered: Map<String, Value> =
        answers.iter().enumerate().map(|(number, answer)| ((*answer).to_owned(), number.into())).collect();
    Ok(Texts {
        network: indented(&Value::Object(network)),
        task,
        vocabulary: vocabulary.vocabulary,
        merges: vocabulary.merges,
        answers: (settings.answer2label, indented(&Value::Object(numbered))),
    })
}

/// The text files of a version that is trained further: its own, but for what the recipe says of the task.
pub(super) fn further(own: Texts, recipe: &Recipe) -> Texts {
    let mut task: Value = serde_json::from_str(&own.task).unwrap_or_default();
    match task.get_mut("model").and_then(Value::as_object_mut) {
        Some(model) if !recipe.task.is_empty() => model.extend(object(&recipe.task)),
        // What is not as it should be is for whoever reads it to say.
        _ => return own,
    }
    Texts { task: indented(&task), ..own }
}

fn object(table: &toml::Table) -> Map<String, Value> {
    match serde_json::to_value(table) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

fn indented(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Weights by chance: products and convolutions after He et al. (2015) and Glorot and Bengio (2010), embeddings narrow as in the
/// reference, norms and gains at one, biases and relative positions at nought. Absolute positions begin with little to say:
/// what they add to attention has nothing to do with the picture, and would drown what has.
pub(super) fn weights(config: &NetworkConfig, seed: u64) -> Result<Vec<Published>, TrainError> {
    let mut chance = Rng::with_seed(seed);
    let wanted = wanted_tensors(config)?.into_iter().filter(|wanted| !wanted.optional);
    Ok(wanted
        .map(|wanted| {
            let count = wanted.shape.iter().product();
            let values = match spread(&wanted.name, &wanted.shape) {
                Spread::All(value) => vec![value; count],
                Spread::Normal(deviation) => (0..count).map(|_| deviation * normal(&mut chance)).collect(),
            };
            (wanted.name, wanted.shape, values)
        })
        .collect())
}

const POSITIONS: [&str; 2] = ["pos_q_linear", "pos_k_linear"];
const POSITION_GAIN: f32 = 0.2;

enum Spread {
    All(f32),
    Normal(f32),
}

fn spread(name: &str, shape: &[usize]) -> Spread {
    let ends = |part: &str| name.ends_with(part);
    match shape {
        [outputs, _, height, width] => Spread::Normal((2.0 / (outputs * height * width) as f32).sqrt()),
        [_] if ends("running_var") || ends("weight") || ends("c_attn") => Spread::All(1.0),
        [_] => Spread::All(0.0),
        _ if name.contains("rel_pos_table") => Spread::All(0.0),
        // The published spread, which the norm behind each embedding widens.
        _ if name.contains("embed_tokens")
            || name.contains("embed_positions")
            || name.contains("embed_image_positions") =>
        {
            Spread::Normal(0.02)
        }
        [outputs, inputs] if POSITIONS.iter().any(|part| name.contains(part)) => {
            Spread::Normal(POSITION_GAIN * (2.0 / (outputs + inputs) as f32).sqrt())
        }
        [outputs, inputs] => Spread::Normal((2.0 / (outputs + inputs) as f32).sqrt()),
        _ => Spread::Normal(0.02),
    }
}

/// Box and Muller (1958).
fn normal(chance: &mut Rng) -> f32 {
    let radius = (-2.0 * (1.0 - chance.f32()).ln()).sqrt();
    radius * (std::f32::consts::TAU * chance.f32()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_is_trained_further_keeps_its_task_but_for_what_the_recipe_says_of_it() {
        let recipe = |task: &str| Recipe::from_toml(&format!("steps = 1\nlearning_rate = 1e-3\n{task}")).unwrap();
        let task = r#"{"framework": "pytorch", "model": {"max_src_length": 40, "prompt": " {}?"}}"#.to_owned();
        let (none, answers) = (String::new, ("answers.json".to_owned(), String::new()));
        let own = Texts { network: none(), task, vocabulary: none(), merges: none(), answers };
        assert_eq!(further(own.clone(), &recipe("")).task, own.task);
        let read: Value = serde_json::from_str(&further(own, &recipe("[task]\nmax_src_length = 60")).task).unwrap();
        let expected = json!({"framework": "pytorch", "model": {"max_src_length": 60, "prompt": " {}?"}});
        assert_eq!(read, expected);
    }
}
