//! `synth`: a data set of pictures and statements, made up.

use std::{io::Cursor, path::PathBuf};

use clap::Args;
use image::{ExtendedColorType, ImageEncoder as _, codecs::png::PngEncoder};
use indicatif::{ProgressBar, ProgressStyle};

use super::{CliError, failed, output};
use crate::{
    dataset::{Blind, Example, Writer, glance},
    synth::{Generator, Split, World},
    vision::RgbImage,
};

#[derive(Args)]
pub(super) struct Arguments {
    /// The folder to write: images/, train.jsonl, validation.jsonl, test.jsonl, unseen.jsonl
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
    /// How many examples, in all
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(600..=10_000_000))]
    count: u64,
    /// The same seed gives the same examples
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which shapes and colours there are: small is five in six, large eight in ten
    #[arg(long, default_value = "large", value_parser = ["small", "large"])]
    world: String,
}

/// Statements of each label about one picture.
const PER_LABEL: usize = 2;

/// Out of twenty examples, how many a split gets.
fn share(split: Split) -> u64 {
    match split {
        Split::Train => 17,
        Split::Validation | Split::Test | Split::Unseen => 1,
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CliError> {
    let mut there = Split::ALL.into_iter().map(|split| arguments.out.join(format!("{}.jsonl", split.as_str())));
    if let Some(there) = there.find(|path| path.exists()) {
        return Err(failed(format!("{} is there already: name another folder, or remove it", there.display())));
    }
    let per_picture = 3 * PER_LABEL as u64;
    let pictures = |split| (arguments.count * share(split) / 20 / per_picture).max(1);
    let world = if arguments.world == "large" { World::Large } else { World::Small };
    let bar = ProgressBar::new(Split::ALL.into_iter().map(pictures).sum());
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} pictures, {eta} left") {
        bar.set_style(style);
    }
    let (mut rows, mut learned, mut learned_beside) = (Vec::new(), Vec::new(), Vec::new());
    for split in Split::ALL {
        let mut writer = Writer::create(&arguments.out, split.as_str()).map_err(failed)?;
        // What hides something of its picture, for each example.
        let (mut examples, mut obstacles) = (Vec::new(), Vec::new());
        let generator = Generator::new(world, arguments.seed, split, PER_LABEL).take(pictures(split) as usize);
        for (number, picture) in generator.enumerate() {
            let name = format!("{}-{number:06}", split.as_str());
            let image = writer.picture(&format!("{name}.png"), &png(&picture.image)?).map_err(failed)?;
            for (index, said) in picture.said.into_iter().enumerate() {
                let example = Example {
                    request_id: Some(format!("{name}-{index}")),
                    image: image.clone(),
                    text: said.text,
                    caption: None,
                    description: Some(picture.description.clone()),
                    explanation: Some(said.explanation),
                    label: said.label,
                    kind: Some(said.statement.kind().as_str().to_owned()),
                };
                writer.example(&example).map_err(failed)?;
                examples.push(example);
                obstacles.push(picture.scene.obstacle.as_str());
            }
            bar.inc(1);
        }
        writer.finish().map_err(failed)?;
        let count = examples.len();
        let blind = if split == Split::Train {
            (learned, learned_beside) = (examples, obstacles);
            None
        } else {
            let beside = glance(
                learned.iter().zip(learned_beside.iter().copied()),
                examples.iter().zip(obstacles.iter().copied()),
            );
            Some((Blind::measure(&learned, &examples), beside))
        };
        rows.push((split, count, blind));
    }
    bar.finish_and_clear();
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let rows = rows.into_iter().map(|(split, examples, blind)| {
        let shown = |of: fn(&(Blind, f64)) -> f64| blind.as_ref().map_or("–".to_owned(), |blind| percent(of(blind)));
        vec![
            split.as_str().to_owned(),
            (examples as u64 / per_picture).to_string(),
            examples.to_string(),
            shown(|(blind, _)| blind.words),
            shown(|(blind, _)| blind.picture),
            shown(|(_, beside)| *beside),
        ]
    });
    let columns = ["split", "pictures", "examples", "words alone", "picture alone", "words and obstacle"];
    output::show(&output::table(&columns, &columns[1..], rows));
    output::line(
        "Chance is 33.3 %. The last column is for one who reads, and sees no more than what hides a part of the picture: mostly, whether \
         anything can be told.",
    );
    Ok(())
}

fn png(image: &RgbImage) -> Result<Vec<u8>, CliError> {
    let mut bytes = Cursor::new(Vec::new());
    PngEncoder::new(&mut bytes)
        .write_image(&image.data, image.width, image.height, ExtendedColorType::Rgb8)
        .map_err(failed)?;
    Ok(bytes.into_inner())
}
