//! The network's gradients, against differences of its loss.

use burn::tensor::{Device, Tensor, TensorData, activation::log_softmax};
use fastrand::Rng;

use super::{Recipe, batches::Batches, start};
use crate::{
    dataset::{Example, Picture, Reader},
    engine::Preparer,
    message::Label,
    ofa::{Ofa, OfaOptions, Published, Row},
    store::{Definition, Texts},
    vision::{Limits, Normalization},
    weights::{Arithmetic, Precision, Weights, Writer},
};

const LIMITS: Limits = Limits { bytes_max: 1 << 20, pixels_max: 1 << 20, decode_bytes_max: u64::MAX };

const RECIPE: &str = r#"
steps = 1
learning_rate = 1e-3
merges = 40
[network]
d_model = 8
encoder_layers = 2
decoder_layers = 2
encoder_attention_heads = 2
decoder_attention_heads = 2
encoder_ffn_dim = 12
decoder_ffn_dim = 12
max_position_embeddings = 32
token_bucket_size = 8
image_bucket_size = 4
resnet_layers = [1, 1, 1]
resnet_base_planes = 2
[task]
patch_image_size = 32
max_src_length = 16
prompt = " {}?"
"#;

fn texts() -> Texts {
    let example = |text: &str| Example {
        request_id: None,
        image: Picture::Path("a.png".to_owned()),
        text: text.to_owned(),
        caption: None,
        description: None,
        explanation: None,
        label: Label::Yes,
        kind: None,
    };
    let said = ["a red circle", "two blue squares", "no star"].repeat(3);
    let examples: Vec<Example> = said.into_iter().map(example).collect();
    start::texts(&Recipe::from_toml(RECIPE).unwrap(), "recipe.toml".as_ref(), &examples).unwrap()
}

fn network(definition: &Definition, weights: &[Published]) -> Ofa {
    open(definition, weights, true).into_training().unwrap()
}

fn open(definition: &Definition, weights: &[Published], trains: bool) -> Ofa {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensors = weights.iter().map(|(name, shape, _)| (name.as_str(), shape.as_slice()));
    let mut writer = Writer::create(&path, Precision::F32, tensors).unwrap();
    weights.iter().for_each(|(_, _, values)| assert!(writer.write(values).unwrap()));
    writer.finish().unwrap();
    let options = OfaOptions {
        precision: Arithmetic::F32,
        kernels: false,
        absorb: false,
        token_multiple: 1,
        bias_cache_bytes: 1 << 20,
        trains,
    };
    let on = (&Device::flex(), options);
    let weights = Weights::open(&[path]).unwrap();
    Ofa::load(weights, &definition.network, 32, definition.trie.clone(), on).unwrap()
}

fn loss(network: &mut Ofa, definition: &Definition, pixels: &[f32]) -> Tensor<1> {
    let said = ["a red circle", "two blue squares", "no star", "a circle, no square"];
    let rows: Vec<Row> = said
        .iter()
        .enumerate()
        .map(|(index, text)| Row { image: index / 2, source: definition.prompter.source_ids(text, None) })
        .collect();
    let images = network.learned_images(pixels.to_vec()).unwrap();
    let captions: Vec<Row> = [0, 1, 3].map(|row| rows[row].clone()).into();
    let captions = network.learned_captions(images.clone(), &captions).unwrap();
    let why = definition.prompter.said_ids("a red star");
    let explained = [(0, why.as_slice()), (1, &[]), (2, &why[..2]), (1, &why)];
    let learned = network.learned_answers(images, &rows, &explained).unwrap();
    let (answers, explanations) = (learned.answers, learned.explanations.unwrap());
    let targets = [1.0_f32, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.5, 0.0, 0.5].to_vec();
    let targets = Tensor::<2>::from_data(TensorData::new(targets, [4, 3]), &Device::flex());
    (log_softmax(answers, 1) * targets).sum() / -4.0 + spoken(captions) + spoken(explanations)
}

/// All next tokens weigh alike, and the columns of the vocabulary do not.
fn spoken(logits: Tensor<2>) -> Tensor<1> {
    let [tokens, vocabulary] = logits.dims();
    let weights =
        (0..tokens * vocabulary).map(|at| (at % 7) as f32 / (20 * tokens * vocabulary) as f32).collect::<Vec<_>>();
    let weights = Tensor::<2>::from_data(TensorData::new(weights, [tokens, vocabulary]), &Device::flex());
    -(log_softmax(logits, 1) * weights).sum()
}

fn value(loss: &Tensor<1>) -> f64 {
    f64::from(loss.clone().try_into_vec_as::<f32>().unwrap()[0])
}

/// Along each tensor's own gradient the loss must rise as fast as the gradient is long. Of what a gradient lacks its own direction
/// knows nothing: directions by chance do.
#[test]
fn the_gradient_of_every_tensor_is_the_slope_of_the_loss() {
    let definition = Definition::parse(&texts()).unwrap();
    let mut chance = Rng::with_seed(3);
    let mut weights = start::weights(&definition.network, 5).unwrap();
    // Norms, biases and relative positions that are all alike would hide which of them is which.
    for (name, _, values) in &mut weights {
        if !name.contains("running") {
            values.iter_mut().for_each(|value| *value += 0.2 * (chance.f32() - 0.5));
        }
    }
    let pixels: Vec<f32> = (0..2 * 3 * 32 * 32).map(|_| chance.f32() * 2.0 - 1.0).collect();
    let mut learner = network(&definition, &weights);
    let at_start = loss(&mut learner, &definition, &pixels);
    let gradients = learner.gradients(&at_start);
    let named = |tensors: &[Published]| {
        let names = tensors.iter().map(|(name, ..)| name.clone()).filter(|name| !name.contains("running_"));
        names.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(named(&gradients), named(&weights), "every tensor is learned");
    let slope = |name: &str, direction: &[f64], step: f64| {
        let moved = |sign: f64| {
            let mut moved = weights.clone();
            let (_, _, values) = moved.iter_mut().find(|(other, ..)| other == name).unwrap();
            for (value, along) in values.iter_mut().zip(direction) {
                *value += (sign * step * along) as f32;
            }
            value(&loss(&mut network(&definition, &moved), &definition, &pixels))
        };
        (moved(1.0) - moved(-1.0)) / (2.0 * step)
    };
    let mut checked = 0;
    for (name, _, gradient) in &gradients {
        let gradient: Vec<f64> = gradient.iter().copied().map(f64::from).collect();
        let length = gradient.iter().map(|value| value.powi(2)).sum::<f64>().sqrt();
        // A bias before a batch norm, or of keys before a softmax, changes nothing.
        if length < 1e-2 {
            continue;
        }
        let own: Vec<f64> = gradient.iter().map(|value| value / length).collect();
        // Short, because a ReLU that turns within it bends the loss, and long enough for 32 bits.
        let found = slope(name, &own, 1e-3);
        assert!((found - length).abs() < 0.05 * length + 5e-4, "{name}: gradient {length}, slope {found}");
        for _ in 0..2 {
            // What one of them has in common with a gradient is as small as there are many values, and each value moves as little.
            let each = (gradient.len() as f64).sqrt().recip();
            let other: Vec<f64> = gradient.iter().map(|_| if chance.bool() { each } else { -each }).collect();
            let expected: f64 = gradient.iter().zip(&other).map(|(value, along)| value * along).sum();
            let found = slope(name, &other, 4e-3);
            let off = (found - expected).abs();
            assert!(off < 0.2 * length * each + 1e-4, "{name}: along another {expected}, slope {found}");
        }
        checked += 1;
    }
    assert!(checked > 60, "only {checked} of {} tensors matter", gradients.len());
}

#[test]
fn what_is_loaded_to_be_trained_is_published_as_it_was() {
    let definition = Definition::parse(&texts()).unwrap();
    let weights = start::weights(&definition.network, 5).unwrap();
    let mut published = network(&definition, &weights).published();
    let mut expected = weights;
    published.sort_by(|one, other| one.0.cmp(&other.0));
    expected.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(published, expected);
}

#[test]
fn what_is_said_fits_into_the_positions_and_blanks_say_nothing() {
    let definition = Definition::parse(&texts()).unwrap();
    let example = |text: &str, description: &str, explanation: &str| Example {
        request_id: Some("r-1".to_owned()),
        image: Picture::Path("a.png".to_owned()),
        text: text.to_owned(),
        caption: None,
        description: Some(description.to_owned()),
        explanation: Some(explanation.to_owned()),
        label: Label::No,
        kind: None,
    };
    let long = "two blue squares and a red circle ".repeat(9);
    let read = |examples: &[Example], positions: usize| {
        let (reader, preparer) = (Reader::new("data".as_ref()), Preparer::new(&definition, LIMITS));
        Batches::new(examples, reader, preparer, Normalization::half(), (LIMITS, positions))
    };
    let positions = 20;
    let batches = read(&[example(&long, &long, &long)], positions).unwrap();
    let [(source, explanation, description)] = batches.texts()[..] else { panic!("{:?}", batches.texts()) };
    // Sixteen tokens of the text, its beginning and its end; the description was cut, and has no end.
    assert_eq!((source, description), (18, 17));
    assert_eq!(source + explanation, positions + 1, "the decoder reads one token less");
    let blank = read(&[example("no star", " ", "")], positions).unwrap();
    let [(_, explanation, description)] = blank.texts()[..] else { panic!("{:?}", blank.texts()) };
    assert_eq!((explanation, description), (0, 0));
    let refused = read(&[example(&long, "", "")], 12).err().unwrap().to_string();
    assert!(refused.contains("r-1") && refused.contains("positions for 12"), "{refused}");
}

#[test]
fn an_answer_is_the_same_whatever_is_said_behind_it_and_whichever_way_the_network_runs() {
    let definition = Definition::parse(&texts()).unwrap();
    let weights = start::weights(&definition.network, 5).unwrap();
    let mut chance = Rng::with_seed(4);
    let pixels: Vec<f32> = (0..2 * 3 * 32 * 32).map(|_| chance.f32() * 2.0 - 1.0).collect();
    let rows: Vec<Row> = ["a red circle", "two blue squares and a star", "no star"]
        .iter()
        .enumerate()
        .map(|(index, text)| Row { image: index / 2, source: definition.prompter.source_ids(text, None) })
        .collect();
    let mut learner = network(&definition, &weights);
    let mut logits = |whys: [&str; 3]| {
        let whys = whys.map(|why| if why.is_empty() { Vec::new() } else { definition.prompter.said_ids(why) });
        let explained: Vec<(usize, &[u32])> =
            whys.iter().enumerate().map(|(answer, why)| (answer, why.as_slice())).collect();
        let images = learner.learned_images(pixels.clone()).unwrap();
        learner.learned_answers(images, &rows, &explained).unwrap().answers.try_into_vec_as::<f32>().unwrap()
    };
    let silent = logits(["", "", ""]);
    let near = |one: &[f32], other: &[f32]| one.iter().zip(other).all(|(one, other)| (one - other).abs() < 1e-4);
    assert!(near(&silent, &logits(["a star", "", "none"])), "what is said behind an answer is not seen by it");
    assert!(near(&silent, &logits(["two red squares and a circle", "a star", ""])));

    // Batch norm by its running statistics, unfolded here and folded where it serves.
    let mut asked = open(&definition, &weights, true);
    asked.take_over(&learner);
    let published = learner.published();
    let mut serving = open(&definition, &published, false);
    let answers = |network: &mut Ofa| {
        let images = network.image_tokens(network.feature_map(pixels.clone(), None).unwrap());
        network.answer(images, &rows, None).unwrap().concat()
    };
    let (unfolded, folded) = (answers(&mut asked), answers(&mut serving));
    assert!(near(&unfolded, &folded), "{unfolded:?} {folded:?}");
    assert!(unfolded.windows(2).any(|pair| (pair[0] - pair[1]).abs() > 1e-3), "the answers differ");
}
