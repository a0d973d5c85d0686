//! The two hubs: where they list a model's files, and where they give them.

use std::fmt;

use serde::Deserialize;

use super::{Pull, PullError, download::Downloader};

/// A model hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hub {
    /// ModelScope.
    ModelScope,
    /// Hugging Face.
    HuggingFace,
}

impl std::str::FromStr for Hub {
    type Err = &'static str;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        match written {
            "modelscope" => Ok(Self::ModelScope),
            "huggingface" => Ok(Self::HuggingFace),
            _ => Err("expected `modelscope` or `huggingface`"),
        }
    }
}

/// A model's id, `owner/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelId(String);

impl std::str::FromStr for ModelId {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let good = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        };
        match written.split_once('/') {
            Some((owner, name)) if good(owner) && good(name) => Ok(Self(written.to_owned())),
            _ => Err(format!("`{written}` is no model id: write `owner/name`, as in the hub's address of the model")),
        }
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A file that a hub has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// In hexadecimal, where the hub knows it.
    pub(super) sha256: Option<String>,
}

impl Hub {
    /// Its public address.
    pub fn endpoint(self) -> &'static str {
        match self {
            Self::ModelScope => "https://modelscope.cn",
            Self::HuggingFace => "https://huggingface.co",
        }
    }

    /// The revision that counts where none is named.
    pub fn default_revision(self) -> &'static str {
        match self {
            Self::ModelScope => "master",
            Self::HuggingFace => "main",
        }
    }

    /// The address of one file.
    pub(super) fn address(self, pull: &Pull, file: &str) -> String {
        let Pull { endpoint, model, .. } = pull;
        let revision = escaped(&pull.revision);
        match self {
            Self::ModelScope => format!("{endpoint}/api/v1/models/{model}/repo?Revision={revision}&FilePath={file}"),
            Self::HuggingFace => format!("{endpoint}/{model}/resolve/{revision}/{file}"),
        }
    }

    /// The files of a model.
    pub(super) fn list(self, pull: &Pull, downloader: &Downloader<'_>) -> Result<Vec<RemoteFile>, PullError> {
        let Pull { endpoint, model, .. } = pull;
        let revision = escaped(&pull.revision);
        let url = match self {
            Self::ModelScope => {
                format!("{endpoint}/api/v1/models/{model}/repo/files?Revision={revision}&Recursive=false")
            }
            Self::HuggingFace => format!("{endpoint}/api/models/{model}/tree/{revision}"),
        };
        let text = downloader.text(&url)?;
        self.read_listing(&text).map_err(|error| PullError::Listing { url, reason: error.to_string() })
    }

    /// The files that a hub's list names.
    pub(super) fn read_listing(self, text: &str) -> serde_json::Result<Vec<RemoteFile>> {
        Ok(match self {
            Self::ModelScope => {
                let listing: ModelScopeListing = serde_json::from_str(text)?;
                listing.data.files.into_iter().filter(|file| file.kind != "tree").map(RemoteFile::from).collect()
            }
            Self::HuggingFace => {
                let listing: Vec<HuggingFaceFile> = serde_json::from_str(text)?;
                listing.into_iter().filter(|file| file.kind == "file").map(RemoteFile::from).collect()
            }
        })
    }
}

/// A slash inside a revision, such as `refs/pr/1`, must not divide the path.
fn escaped(revision: &str) -> String {
    revision.replace('/', "%2F")
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModelScopeListing {
    data: ModelScopeFiles,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModelScopeFiles {
    files: Vec<ModelScopeFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModelScopeFile {
    path: String,
    size: u64,
    #[serde(default)]
    sha256: Option<String>,
    #[serde(rename = "Type", default)]
    kind: String,
}

impl From<ModelScopeFile> for RemoteFile {
    fn from(file: ModelScopeFile) -> Self {
        Self { name: file.path, bytes: file.size, sha256: file.sha256.filter(|hash| !hash.is_empty()) }
    }
}

#[derive(Deserialize)]
struct HuggingFaceFile {
    path: String,
    size: u64,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    oid: String,
}

impl From<HuggingFaceFile> for RemoteFile {
    fn from(file: HuggingFaceFile) -> Self {
        let sha256 = file.lfs.map(|large| large.oid.trim_start_matches("sha256:").to_owned());
        Self { name: file.path, bytes: file.size, sha256 }
    }
}
