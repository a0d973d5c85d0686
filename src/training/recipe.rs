//! What is learned and how.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{TrainError, disk};

/// A recipe, from a TOML file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The same seed, data and recipe give the same model on the same machine.
    #[serde(default = "defaults::seed")]
    pub seed: u64,
    /// Steps of the optimizer.
    pub steps: usize,
    /// Pictures of each step, each with all that is said of it.
    #[serde(default = "defaults::pictures")]
    pub pictures: usize,
    /// The highest learning rate, reached after `warm_up` steps; from there it falls to nought along half a cosine.
    pub learning_rate: f64,
    /// Steps until the learning rate is reached.
    #[serde(default = "defaults::warm_up")]
    pub warm_up: usize,
    /// Decoupled weight decay (Loshchilov and Hutter, 2019).
    #[serde(default = "defaults::weight_decay")]
    pub weight_decay: f32,
    /// Share of the target that goes to the other labels.
    #[serde(default = "defaults::label_smoothing")]
    pub label_smoothing: f64,
    /// The second task.
    #[serde(default)]
    pub captions: Captions,
    /// Weight of the third task, nought for none: to say behind an answer why it is right. Yes or no tells little about what in the
    /// picture was meant; words about it tell more.
    #[serde(default = "defaults::explanations")]
    pub explanations: f64,
    /// Longest gradient of a tensor; longer ones are shortened.
    #[serde(default = "defaults::gradient_norm_max")]
    pub gradient_norm_max: f32,
    /// Steps between two looks at the validation split, after each of which what was reached is saved.
    #[serde(default = "defaults::validate_every")]
    pub validate_every: usize,
    /// Merges of a vocabulary that is learned; a version that is trained further keeps its own.
    #[serde(default = "defaults::merges")]
    pub merges: usize,
    /// Keys of `config.json`; not for a version that is trained further.
    #[serde(default)]
    pub network: toml::Table,
    /// Keys of the `model` section of `configuration.json`; of a version that is trained further they replace its own.
    #[serde(default)]
    pub task: toml::Table,
}

/// The second task: to say what a picture shows, having seen it alone. That is its description, or without one the texts that it
/// entails. The label of a text depends on picture and text together and on neither alone, which tells the image half of the
/// network nothing until the text half knows something, and the other way round; a caption depends on the picture directly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Captions {
    /// Of its loss, beside that of the labels; nought leaves the task away.
    pub weight: f64,
    /// Of the steps, so many at the beginning learn captions and nothing else: a step without the texts to be judged costs
    /// little, and judging is learned fast by who can see.
    pub first_steps: usize,
    /// Pictures of each of these.
    pub first_pictures: usize,
}

impl Default for Captions {
    fn default() -> Self {
        Self { weight: 1.0, first_steps: 0, first_pictures: 32 }
    }
}

mod defaults {
    pub(super) fn seed() -> u64 {
        1
    }
    pub(super) fn pictures() -> usize {
        16
    }
    pub(super) fn warm_up() -> usize {
        200
    }
    pub(super) fn weight_decay() -> f32 {
        0.01
    }
    pub(super) fn label_smoothing() -> f64 {
        0.05
    }
    pub(super) fn explanations() -> f64 {
        1.0
    }
    pub(super) fn gradient_norm_max() -> f32 {
        1.0
    }
    pub(super) fn validate_every() -> usize {
        500
    }
    pub(super) fn merges() -> usize {
        300
    }
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// Naming the key that is wrong.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let text = fs::read_to_string(path).map_err(disk(path))?;
        Self::from_toml(&text).map_err(|reason| TrainError::Recipe { path: path.to_owned(), reason })
    }

    /// All of it, in one form, whatever its file leaves to the defaults.
    ///
    /// # Errors
    /// When a table of it cannot be written.
    pub fn to_toml(&self) -> Result<String, String> {
        toml::to_string(self).map_err(|error| error.to_string())
    }

    /// Reads a recipe from TOML.
    ///
    /// # Errors
    /// Naming the key that is wrong.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let recipe: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        let positive = [
            ("steps", recipe.steps),
            ("pictures", recipe.pictures),
            ("captions.first_pictures", recipe.captions.first_pictures),
            ("validate_every", recipe.validate_every),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(format!("`{key}` must be above 0"));
        }
        if recipe.warm_up >= recipe.steps && recipe.steps > 1 {
            return Err(format!("`warm_up` is {}, it must be less than `steps`, {}", recipe.warm_up, recipe.steps));
        }
        let Captions { weight, first_steps, .. } = recipe.captions;
        if first_steps >= recipe.steps {
            return Err(format!(
                "`captions.first_steps` is {first_steps}, it must be less than `steps`, {}",
                recipe.steps
            ));
        }
        if first_steps > 0 && weight == 0.0 {
            return Err("`captions.first_steps` needs a `captions.weight` above 0".to_owned());
        }
        let rates = [
            ("learning_rate", recipe.learning_rate, recipe.learning_rate > 0.0 && recipe.learning_rate < 1.0),
            ("label_smoothing", recipe.label_smoothing, (0.0..0.5).contains(&recipe.label_smoothing)),
            ("captions.weight", weight, (0.0..=100.0).contains(&weight)),
            ("explanations", recipe.explanations, (0.0..=100.0).contains(&recipe.explanations)),
            ("weight_decay", f64::from(recipe.weight_decay), (0.0..1.0).contains(&recipe.weight_decay)),
            ("gradient_norm_max", f64::from(recipe.gradient_norm_max), recipe.gradient_norm_max > 0.0),
        ];
        match rates.into_iter().find(|(.., fits)| !fits) {
            Some((key, value, _)) => Err(format!("`{key}` cannot be {value}")),
            None => Ok(recipe),
        }
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// What trained them stands beside them, and not what was tried later: the second recipe in their manifests, the network of the
    /// first in their configuration.
    #[test]
    fn the_shipped_versions_come_from_the_recipes_beside_them() {
        for version in ["ofa_large", "ofa_base", "ofa_small"] {
            let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
            let further = Recipe::read(&models.join(format!("{version}.further.toml"))).unwrap();
            let digest = hex::encode(Sha256::digest(further.to_toml().unwrap()));
            let read = |name: &str| fs::read_to_string(models.join(version).join(name)).unwrap();
            let manifest = read("manifest.toml");
            assert!(manifest.contains(&format!("recipe_sha256 = \"{digest}\"")), "{version}: {digest}");
            assert!(manifest.contains("from = \"sha256:"), "{version} began with another");
            let first = Recipe::read(&models.join(format!("{version}.recipe.toml"))).unwrap();
            let network: serde_json::Value = serde_json::from_str(&read("config.json")).unwrap();
            for (key, value) in &first.network {
                assert_eq!(network[key], serde_json::to_value(value).unwrap(), "{version}: {key}");
            }
            assert!(further.network.is_empty() && !first.network.is_empty());
        }
    }

    #[test]
    fn a_recipe_needs_steps_and_a_rate_and_refuses_what_it_does_not_know() {
        let recipe = Recipe::from_toml("steps = 1000\nlearning_rate = 1e-3\n[network]\nd_model = 32").unwrap();
        assert_eq!((recipe.pictures, recipe.network["d_model"].as_integer()), (16, Some(32)));
        for (bad, named) in [
            ("steps = 10", "learning_rate"),
            ("steps = 0\nlearning_rate = 1e-3", "steps"),
            ("steps = 1000\nlearning_rate = 2.0", "learning_rate"),
            ("steps = 100\nlearning_rate = 1e-3", "warm_up"),
            ("steps = 10\nlearning_rate = 1e-3\nepochs = 3", "epochs"),
            ("steps = 1000\nlearning_rate = 1e-3\nlabel_smoothing = 0.7", "label_smoothing"),
            ("steps = 1000\nlearning_rate = 1e-3\ncaptions.weight = -1.0", "captions.weight"),
            ("steps = 1000\nlearning_rate = 1e-3\ncaptions.first_steps = 1000", "captions.first_steps"),
            ("steps = 1000\nlearning_rate = 1e-3\ncaptions = { first_steps = 10, weight = 0.0 }", "captions.weight"),
        ] {
            let error = Recipe::from_toml(bad).unwrap_err();
            assert!(error.contains(named), "{bad}: {error}");
        }
    }
}
