//! Tokens, the people they belong to, and what they may do.

use std::{
    fs::File,
    io::Read,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::settings::{Role, TokenSource};

/// One token.
#[derive(Clone, Debug)]
pub struct Token {
    /// The person or program; none for the tokens that have no name.
    pub name: Option<String>,
    /// What it may do.
    pub role: Role,
    /// Where it is.
    pub source: TokenSource,
}

/// The owner of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Its name, where the token has one.
    pub(super) name: Option<String>,
    /// What it may do.
    pub(super) role: Role,
}

/// The tokens of one instance. Files and variables are read again, so that a token can be changed without
/// a restart.
pub struct Tokens {
    tokens: Vec<Token>,
    digests: Mutex<Digests>,
}

/// The digests of the tokens, in their order; none for a token that cannot be read.
struct Digests {
    read_at: Option<Instant>,
    digests: Vec<Option<[u8; 32]>>,
}

/// A token that was changed is known after this.
const REREAD_INTERVAL: Duration = Duration::from_secs(1);
/// A shorter token can be guessed.
const TOKEN_BYTES_MIN: usize = 16;
const TOKEN_BYTES_MAX: u64 = 4 << 10;

impl Tokens {
    /// These tokens.
    pub fn new(tokens: Vec<Token>) -> Self {
        Self { tokens, digests: Mutex::new(Digests { read_at: None, digests: Vec::new() }) }
    }

    /// The owner of the token in an `Authorization` header; none where it is not one of ours.
    pub(super) fn identify(&self, authorization: Option<&str>) -> Option<Identity> {
        let (scheme, token) = authorization?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") || token.trim().len() < TOKEN_BYTES_MIN {
            return None;
        }
        // Digests are compared, all of them: neither the time nor the length tells anything.
        let given = digest(token);
        let mut found = None;
        for (token, known) in self.tokens.iter().zip(self.digests()) {
            let known = known.unwrap_or_default();
            if bool::from(known.ct_eq(&given)) && found.is_none() {
                found = Some(Identity { name: token.name.clone(), role: token.role });
            }
        }
        found
    }

    fn digests(&self) -> Vec<Option<[u8; 32]>> {
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if digests.read_at.is_none_or(|read_at| read_at.elapsed() >= REREAD_INTERVAL) {
            digests.digests = self.tokens.iter().map(|token| read(&token.source).as_deref().map(digest)).collect();
            digests.read_at = Some(Instant::now());
        }
        digests.digests.clone()
    }
}

/// The text of a token, where it can be read and is long enough.
fn read(source: &TokenSource) -> Option<String> {
    let text = match source {
        TokenSource::File(file) => read_file(file)?,
        TokenSource::Environment(variable) => std::env::var(variable).ok()?,
        TokenSource::Text(secret) => secret.reveal().to_owned(),
    };
    let text = text.trim().to_owned();
    (text.len() >= TOKEN_BYTES_MIN).then_some(text)
}

fn read_file(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(TOKEN_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.trim().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Secret;

    fn token(name: Option<&str>, role: Role, text: &str) -> Token {
        let source = TokenSource::Text(Secret::new(text.to_owned()));
        Token { name: name.map(str::to_owned), role, source }
    }

    #[test]
    fn only_a_known_token_has_an_owner() {
        let tokens = Tokens::new(vec![
            token(None, Role::Operate, "write-token-0001"),
            token(Some("ann"), Role::Review, "token-of-ann-001"),
            token(Some("short"), Role::Operate, "short"),
        ]);
        let owner = |name: Option<&str>, role| Some(Identity { name: name.map(str::to_owned), role });
        let cases = [
            (None, None),
            (Some(""), None),
            (Some("write-token-0001"), None),
            (Some("Basic write-token-0001"), None),
            (Some("Bearer "), None),
            (Some("Bearer short"), None),
            (Some("Bearer write-token-000"), None),
            (Some("Bearer write-token-00012"), None),
            (Some("Bearer write-token-0001"), owner(None, Role::Operate)),
            (Some("bearer token-of-ann-001"), owner(Some("ann"), Role::Review)),
        ];
        for (authorization, expected) in cases {
            assert_eq!(tokens.identify(authorization), expected, "{authorization:?}");
        }
    }

    #[test]
    fn a_token_file_that_changes_is_read_again_and_one_that_is_gone_is_not_valid() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ann");
        let source = TokenSource::File(path.clone());
        let tokens = Tokens::new(vec![Token { name: Some("ann".to_owned()), role: Role::Look, source }]);
        let known = |token: &str| {
            // As after the interval.
            tokens.digests.lock().unwrap().read_at = None;
            tokens.identify(Some(&format!("Bearer {token}"))).is_some()
        };
        assert!(!known("token-of-ann-001"));
        std::fs::write(&path, "token-of-ann-001\n").unwrap();
        assert!(known("token-of-ann-001"));
        std::fs::write(&path, "token-of-ann-002\n").unwrap();
        assert!(known("token-of-ann-002") && !known("token-of-ann-001"));
        std::fs::remove_file(&path).unwrap();
        assert!(!known("token-of-ann-002"));
    }

    #[test]
    fn a_role_includes_those_before_it() {
        assert!(Role::Look < Role::Review && Role::Review < Role::Operate);
    }
}
