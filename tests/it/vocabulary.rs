//! The tokenizer on OFA's published vocabulary, which is read in place and not part of this
//! repository.

use std::{env, fs, path::PathBuf};

use ofa_stream::text::{Prompter, Templates, Tokenizer};
use serde_json::Value;

use crate::support::{json, repository};

/// Where the vocabulary lies: a folder with `vocab.json` and `merges.txt`.
const FOLDER: &str = "OFA_STREAM_PUBLISHED_VOCABULARY";

fn folder() -> Option<PathBuf> {
    let folder =
        env::var_os(FOLDER).map_or_else(|| repository("../shared/vectors/third_party/real_vocab"), PathBuf::from);
    folder.join("vocab.json").is_file().then_some(folder)
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn has_special_literal(text: &str) -> bool {
    ["<s>", "</s>", "<pad>", "<unk>", "<mask>", "<code_", "<bin_"].iter().any(|special| text.contains(special))
}

#[test]
fn the_published_vocabulary_gives_the_reference_ids() {
    let Some(folder) = folder() else {
        // Never a failure: the files may not be copied here, so a clone elsewhere cannot have them.
        eprintln!(
            "\n*** SKIPPED: no published vocabulary; set {FOLDER} to a folder with vocab.json and merges.txt ***\n"
        );
        return;
    };
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let tokenizer = Tokenizer::new(&read("vocab.json"), &read("merges.txt")).unwrap();
    let golden = json(&repository("testdata/golden/unit/real_vocab_tokenization.json"));
    for (answer, expected) in golden["answers"].as_object().unwrap() {
        assert_eq!(tokenizer.encode(&format!(" {answer}")), ids(expected), "{answer}");
    }
    let mut compared = 0;
    for (length, key) in [(80, "ids80"), (256, "ids256")] {
        let prompter = Prompter::new(tokenizer.clone(), Templates::default(), length);
        for case in golden["prompts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            if !has_special_literal(text) {
                assert_eq!(prompter.source_ids(text, None), ids(&case[key]), "{text:?} at {length}");
                compared += 1;
            }
        }
    }
    for case in golden["raw"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        if !has_special_literal(text) {
            assert_eq!(tokenizer.encode(text), ids(&case["ids"]), "{text:?}");
            compared += 1;
        }
    }
    assert!(compared > 10, "only {compared} cases");
}
