//! Versions such as `2.3.0-rc.1`, compared as semver.org 2.0.0 orders them. Borrowed from the text: a library's own
//! type would put identifiers on the heap for every request. A test holds it to the `semver` crate.

use std::cmp::Ordering;

/// A version; build metadata is checked and left out, because it has no precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SemanticVersion<T> {
    numbers: [u64; 3],
    /// Identifiers separated by dots; empty for a release.
    prerelease: T,
}

impl<'t> SemanticVersion<&'t str> {
    /// None where the text is no such version.
    pub(super) fn parse(text: &'t str) -> Option<Self> {
        let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
        let (core, prerelease) = text.split_once('-').map_or((text, None), |(core, after)| (core, Some(after)));
        let mut parts = core.split('.');
        let numbers = [number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?];
        let sound = parts.next().is_none()
            && build.is_none_or(|build| build.split('.').all(is_identifier))
            && prerelease.is_none_or(|it| it.split('.').all(|it| is_identifier(it) && !has_leading_zero(it)));
        sound.then_some(Self { numbers, prerelease: prerelease.unwrap_or_default() })
    }

    pub(super) fn into_owned(self) -> SemanticVersion<Box<str>> {
        SemanticVersion { numbers: self.numbers, prerelease: self.prerelease.into() }
    }
}

fn number(text: &str) -> Option<u64> {
    (is_numeric(text) && !has_leading_zero(text)).then(|| text.parse().ok())?
}

fn is_numeric(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn has_leading_zero(text: &str) -> bool {
    is_numeric(text) && text.len() > 1 && text.starts_with('0')
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Which of two versions comes first.
pub(super) fn precedence(one: &SemanticVersion<&str>, other: &SemanticVersion<Box<str>>) -> Ordering {
    one.numbers.cmp(&other.numbers).then_with(|| match (one.prerelease, &*other.prerelease) {
        ("", "") => Ordering::Equal,
        ("", _) => Ordering::Greater,
        (_, "") => Ordering::Less,
        (one, other) => identifiers(one, other),
    })
}

fn identifiers(one: &str, other: &str) -> Ordering {
    let (mut ones, mut others) = (one.split('.'), other.split('.'));
    loop {
        let ordering = match (ones.next(), others.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(one), Some(other)) => match (is_numeric(one), is_numeric(other)) {
                // Without leading zeros the longer number is the larger, whatever its length.
                (true, true) => one.len().cmp(&other.len()).then_with(|| one.cmp(other)),
                (true, false) => Ordering::Less,
                (false, true) => Ordering::Greater,
                (false, false) => one.cmp(other),
            },
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn versions_are_read_and_ordered_as_the_library_does(
            one in "(0|[1-9][0-9]{0,2}|01)\\.[0-9]\\.[0-9](-[0-9a-c-]{0,3}(\\.[0-9a-c-]{1,2})?)?(\\+[0-9a]{0,2})?",
            other in "[0-9]\\.[0-9]\\.[0-9](-[0-9a-c]{1,2}(\\.[0-9a-c]{1,2})?)?",
        ) {
            let (ours, theirs) = (SemanticVersion::parse(&one), semver::Version::parse(&one));
            prop_assert_eq!(ours.is_some(), theirs.is_ok(), "{}", one);
            let second = (SemanticVersion::parse(&other), semver::Version::parse(&other));
            if let (Some(ours), Ok(theirs), (Some(second), Ok(their_second))) = (ours, theirs, second) {
                let expected = theirs.cmp_precedence(&their_second);
                prop_assert_eq!(precedence(&ours, &second.into_owned()), expected, "{} {}", one, other);
            }
        }
    }
}
