//! What a request and its image may hold, checked.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    load::{SettingsError, Source},
    raw,
    written::{EmptyText, Truncated},
};
use crate::{fetch::FetchOptions, message::RequestBounds};

/// What a request may hold, and what becomes of texts that a version cannot read as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitsPlan {
    /// Bounds that are held while a request is parsed.
    pub request: RequestBounds,
    /// What becomes of a request of which a part was not read.
    pub truncated: Truncated,
    /// What becomes of a text that says nothing.
    pub empty_text: EmptyText,
    /// The share of a text's letters, 0 to 1, that may be in another script than the version knows; beyond it the request goes
    /// to review.
    pub foreign_share_max: f64,
    /// Encoded bytes of an image.
    pub image_bytes_max: usize,
    /// Width times height of an image.
    pub image_pixels_max: u64,
    /// Bytes that decoding may hold, all threads together.
    pub decode_bytes_max: u64,
    /// Folder below which `image.path` may point; none refuses paths.
    pub path_root: Option<PathBuf>,
    /// How long a file may take to be read.
    pub read_timeout: Duration,
    /// Threads that may read files at a time, those that hang among them.
    pub read_threads_max: usize,
    /// What may be fetched by URL.
    pub fetch: FetchOptions,
}

const SCHEMES: [&str; 2] = ["https", "http"];

pub(super) fn limits(
    source: &Source,
    requests: raw::Requests,
    images: raw::Images,
    is_running: bool,
) -> Result<LimitsPlan, SettingsError> {
    let path_root = match images.path_root {
        None => None,
        Some(root) => {
            let refuse = |reason: &dyn std::fmt::Display| source.field("images.path_root", format!("{root}: {reason}"));
            // While the program runs the folder may be away for a moment; requests wait for it then.
            if !is_running && !Path::new(&root).is_dir() {
                return Err(refuse(&"there is no such folder"));
            }
            Some(std::path::absolute(&root).map_err(|error| refuse(&error))?)
        }
    };
    if !(0.0..=1.0).contains(&requests.foreign_share_max) {
        let reason = format!("is {}, it must lie between 0 and 1", requests.foreign_share_max);
        return Err(source.field("requests.foreign_share_max", reason));
    }
    Ok(LimitsPlan {
        request: RequestBounds {
            texts_max: requests.texts_max,
            text_characters_max: requests.text_characters_max,
            attributes_max: requests.attributes_max,
            attribute_bytes_max: requests.attribute_bytes_max,
            nesting_max: requests.nesting_max,
            headers_max: requests.headers_max,
        },
        truncated: requests.truncated,
        empty_text: requests.empty_text,
        foreign_share_max: requests.foreign_share_max,
        image_bytes_max: images.bytes_max,
        image_pixels_max: images.pixels_max,
        decode_bytes_max: images.decode_bytes_max,
        path_root,
        read_timeout: Duration::from_millis(images.read_timeout_ms),
        read_threads_max: images.read_threads_max,
        fetch: fetch(source, images.fetch)?,
    })
}

fn fetch(source: &Source, raw: raw::Fetch) -> Result<FetchOptions, SettingsError> {
    for (index, host) in raw.hosts.iter().enumerate() {
        let name = host.strip_prefix("*.").unwrap_or(host);
        let is_name = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']')
        };
        if name.is_empty() || !name.bytes().all(is_name) {
            let reason = format!(
                "`{host}` is no host: write `images.example.com`, or `*.example.com` for all below, in small letters"
            );
            return Err(source.field(&format!("images.fetch.hosts[{index}]"), reason));
        }
    }
    for (index, scheme) in raw.schemes.iter().enumerate() {
        if !SCHEMES.contains(&scheme.as_str()) {
            let reason = format!("`{scheme}` is not fetched by: there are {}", SCHEMES.join(", "));
            return Err(source.field(&format!("images.fetch.schemes[{index}]"), reason));
        }
    }
    let mut networks = Vec::new();
    for (index, network) in raw.networks.iter().enumerate() {
        let refused = |_| {
            let reason = format!("`{network}` is no network: write it as 10.20.0.0/16");
            source.field(&format!("images.fetch.networks[{index}]"), reason)
        };
        networks.push(network.parse().map_err(refused)?);
    }
    Ok(FetchOptions {
        hosts: raw.hosts,
        schemes: raw.schemes,
        ports: raw.ports,
        networks,
        redirects_max: raw.redirects_max,
        timeout: Duration::from_millis(raw.timeout_ms),
        concurrent_max: raw.concurrent_max,
    })
}
