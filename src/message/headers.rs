//! Headers that go from a request to what answers it.

use super::{Header, Record};

/// Where a trace goes on, in W3C Trace Context.
const TRACE_PARENT: &str = "traceparent";
const TRACE_STATE: &str = "tracestate";
/// What stands at the beginning of the names of this program's own headers.
const OWN: &str = "ofa-";
/// What stands at the beginning of the names that dead letters get.
pub(super) const CONNECT: &str = "__connect.errors.";
const CONTENT_TYPE: &str = "content-type";

/// The value of a header as text; of several of a name, the last.
pub fn header<'h>(headers: &'h [Header], name: &str) -> Option<&'h str> {
    let found = headers.iter().rev().find(|(known, _)| known == name)?;
    std::str::from_utf8(found.1.as_deref()?).ok()
}

/// A header with text.
pub fn text_header(name: &str, value: impl Into<String>) -> Header {
    (name.to_owned(), Some(value.into().into_bytes()))
}

/// The headers of an answer that come from its request: all but those that describe the request's own value, with the
/// trace going on in a new span.
pub fn carried(record: &Record) -> Vec<Header> {
    let is_the_requests_own = |name: &str| {
        let name = name.to_ascii_lowercase();
        name == CONTENT_TYPE || name.starts_with(OWN) || name.starts_with(CONNECT)
    };
    let span = header(&record.headers, TRACE_PARENT).and_then(child_span);
    let kept = record.headers.iter().filter(|(name, _)| match name.as_str() {
        TRACE_PARENT => false,
        // Without its parent it means nothing.
        TRACE_STATE => span.is_some(),
        name => !is_the_requests_own(name),
    });
    let mut headers: Vec<Header> = kept.cloned().collect();
    headers.extend(span.as_deref().map(|span| text_header(TRACE_PARENT, span)));
    headers
}

/// The trace of a `traceparent`, with a span of its own whose parent is the one given. None where it is not one of version
/// 00 (<https://www.w3.org/TR/trace-context/#traceparent-header>).
fn child_span(parent: &str) -> Option<String> {
    let mut parts = parent.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hexadecimal = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_some_id = |text: &str, length| is_hexadecimal(text, length) && text.bytes().any(|byte| byte != b'0');
    let good = version == "00"
        && is_some_id(trace, 32)
        && is_some_id(span, 16)
        && is_hexadecimal(flags, 2)
        && parts.next().is_none();
    let mut own = [0_u8; 8];
    (good && getrandom::fill(&mut own).is_ok()).then(|| format!("{version}-{trace}-{}-{flags}", hex::encode(own)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn an_answer_goes_on_with_the_trace_in_a_span_of_its_own() {
        let (one, two) = (child_span(PARENT).unwrap(), child_span(PARENT).unwrap());
        assert!(one.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && one.ends_with("-01"), "{one}");
        assert!(one != two && !one.contains("b7ad6b7169203331") && one.len() == PARENT.len());
        let zeros = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        for bad in
            ["", "00-x", &zeros, &PARENT.to_uppercase(), &format!("{PARENT}-more"), &PARENT.replace("00-", "ff-")]
        {
            assert_eq!(child_span(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_a_producer_sends_along_comes_back_and_what_describes_its_value_does_not() {
        let names = ["tenant", "Content-Type", "ofa-text", "traceparent", "tracestate", "ce_id"];
        let headers = |traceparent: &str| -> Vec<String> {
            let record = Record {
                headers: names
                    .iter()
                    .map(|name| text_header(name, if *name == "traceparent" { traceparent } else { "x" }))
                    .collect(),
                ..Record::default()
            };
            carried(&record).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(headers(PARENT), ["tenant", "tracestate", "ce_id", "traceparent"]);
        assert_eq!(headers("broken"), ["tenant", "ce_id"]);
    }
}
