//! Why an entry of the settings cannot work, and where in it that is.

/// The place within the entry, such as `.variants[1].weight`, and the reason.
pub(super) type Refused = (String, String);

pub(super) fn refused(field: &str, reason: String) -> Refused {
    (field.to_owned(), reason)
}

pub(super) fn refused_variant(index: usize, field: &str, reason: String) -> Refused {
    (format!(".variants[{index}]{field}"), reason)
}
