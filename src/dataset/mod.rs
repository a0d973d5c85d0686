//! Labelled examples on disk: what models are trained and measured on.
//!
//! A data set is a folder with one file of JSON lines for each split, `train.jsonl`, `validation.jsonl`, `test.jsonl` and
//! whatever else; each line is an [`Example`]: a request, as producers publish it, with its label.

mod blind;
mod example;
mod files;

pub use blind::{Blind, glance};
pub use example::{Example, Picture};
pub use files::{DatasetError, Reader, Writer, read};
