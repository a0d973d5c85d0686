//! Who may look, and who may change.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::settings::Secret;

/// The tokens of one instance.
#[derive(Clone)]
pub struct Tokens {
    /// Who has it may change things, and look.
    pub write: Secret,
    /// Who has it may look.
    pub read: Option<Secret>,
}

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Read,
    Write,
}

impl Tokens {
    /// What the value of an `Authorization` header allows; none where it is no token of ours.
    pub(super) fn role(&self, authorization: Option<&str>) -> Option<Role> {
        let (scheme, token) = authorization?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        // Both are always compared: how long it takes tells nothing.
        let (write, read) = (same(&self.write, token), self.read.as_ref().is_some_and(|read| same(read, token)));
        match (write, read) {
            (true, _) => Some(Role::Write),
            (false, true) => Some(Role::Read),
            (false, false) => None,
        }
    }
}

/// Compares digests, so that not even the length shows.
fn same(secret: &Secret, token: &str) -> bool {
    let digest = |text: &str| Sha256::digest(text.trim().as_bytes());
    digest(secret.reveal()).ct_eq(&digest(token)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_token_is_let_in_and_only_the_write_token_may_change() {
        let secret = |text: &str| Secret::new(text.to_owned());
        let tokens = Tokens { write: secret("write-token-0001"), read: Some(secret("read-token-00001")) };
        let cases = [
            (None, None),
            (Some(""), None),
            (Some("write-token-0001"), None),
            (Some("Basic write-token-0001"), None),
            (Some("Bearer "), None),
            (Some("Bearer write-token-000"), None),
            (Some("Bearer write-token-00012"), None),
            (Some("Bearer write-token-0001"), Some(Role::Write)),
            (Some("bearer read-token-00001"), Some(Role::Read)),
        ];
        for (authorization, role) in cases {
            assert_eq!(tokens.role(authorization), role, "{authorization:?}");
        }
        let alone = Tokens { read: None, ..tokens };
        assert_eq!(alone.role(Some("Bearer read-token-00001")), None);
    }
}
