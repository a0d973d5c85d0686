//! A finished request into the hands of a producer, with less in it where it is too large.

use super::{
    failure::Failure,
    outcome::{Outcome, Told},
};
use crate::{
    delivery::Ticket,
    message::{FailureContext, OMITTED, Outgoing, Record, Verdict, header, is_added, text_header},
    settings::KafkaPlan,
};

/// Whether a producer took a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// It is larger than the producer or the brokers take.
    TooLarge,
    /// The brokers find something else wrong with it.
    Invalid,
}

impl Taken {
    /// What a request failed by whose verdict was not taken.
    pub(super) fn failure(self) -> Failure {
        match self {
            Self::Yes | Self::TooLarge => Failure::VerdictTooLarge,
            Self::Invalid => Failure::VerdictRefused,
        }
    }
}

/// Hands over what a finished request came to; `take` is asked until it takes. The request itself stays in its topic: waiting
/// for room that never comes would stop the partition. Gives what is to be told about it.
///
/// # Errors
/// What `take` says; `nothing_left` where not even the smallest dead letter is small enough.
pub(super) fn hand_over<E>(
    outcome: Outcome,
    ticket: Ticket,
    kafka: &KafkaPlan,
    nothing_left: impl FnOnce(String) -> E,
    mut take: impl FnMut(&Outgoing) -> Result<Taken, E>,
) -> Result<Told, E> {
    let Outcome { outgoing, told, record } = outcome;
    let Some(outgoing) = outgoing else { return Ok(told) };
    let taken = take(&outgoing)?;
    if taken == Taken::Yes {
        return Ok(told);
    }
    let (mut outgoing, told) = match record {
        // The request is still here: its dead letter can hold it, where that is smaller than what answers it.
        Some(record) => {
            let (letter, context) = match told {
                // A record that was to be tried again keeps the reason for that.
                Told::Retried { letter, context, .. } => (letter, context),
                Told::Verdict(verdict) => (taken.failure().dead_letter(), Box::new(context_of(*verdict))),
                Told::Refused { context, .. } => (taken.failure().dead_letter(), context),
                Told::Tombstone => (taken.failure().dead_letter(), Box::default()),
            };
            let (code, message) = (letter.code, letter.message.clone());
            let letter = letter.into_record(record, &kafka.dead_letters, &context);
            let told = Told::Refused { code, message, context };
            if take(&letter)? == Taken::Yes {
                return Ok(told);
            }
            (letter, told)
        }
        None => (outgoing, told),
    };
    loop {
        outgoing = match smaller(kafka, ticket, outgoing, taken) {
            Some(less) => less,
            None => return Err(nothing_left(NOTHING_LEFT.to_owned())),
        };
        if take(&outgoing)? == Taken::Yes {
            return Ok(told);
        }
    }
}

/// The context of a verdict, for a dead letter that takes its place.
pub(super) fn context_of(verdict: Verdict) -> FailureContext {
    FailureContext {
        request_id: Some(verdict.request_id),
        experiment: verdict.ab_experiment,
        variant: verdict.ab_variant,
        version: Some(verdict.model_version),
        assignment: verdict.ab,
        config_digest: Some(verdict.route.config_digest),
    }
}

pub(super) const NOTHING_LEFT: &str = "not even a dead letter without its payload and headers is small enough";

/// A dead letter with less in it: first without the payload, then without the original key and headers.
pub(super) fn smaller(kafka: &KafkaPlan, ticket: Ticket, outgoing: Outgoing, taken: Taken) -> Option<Outgoing> {
    if outgoing.topic != kafka.dead_letters {
        let Ticket { source, offset, .. } = ticket;
        let retry = usize::from(source.topic).checked_sub(1).and_then(|index| kafka.retries.get(index));
        let topic = retry.map_or(&kafka.requests, |retry| &retry.topic).clone();
        let record = Record { topic, partition: source.partition, offset, key: outgoing.key, ..Record::default() };
        let mut letter =
            taken.failure().dead_letter().into_record(record, &kafka.dead_letters, &FailureContext::default());
        // The request is not here any more: nobody should take nothing for what it was.
        letter.headers.push(text_header(OMITTED, "unknown"));
        return Some(letter);
    }
    let mut letter = outgoing;
    if let Some(payload) = letter.payload.take() {
        letter.headers.push((OMITTED.to_owned(), Some(payload.len().to_string().into_bytes())));
        return Some(letter);
    }
    let whole = letter.headers.len();
    letter.headers.retain(|(name, _)| is_added(name));
    // A compacted topic takes no record without a key, so the key becomes the request's place.
    let place = place_key(&letter);
    let is_longer = letter.key.as_ref() != Some(&place);
    letter.key = Some(place);
    (is_longer || letter.headers.len() < whole).then_some(letter)
}

/// A key for a dead letter that has none of its own: where its request was published.
pub(super) fn place_key(letter: &Outgoing) -> Vec<u8> {
    let text = |name: &str| header(&letter.headers, name).unwrap_or_default();
    let (topic, partition) = (text("__connect.errors.topic"), text("__connect.errors.partition"));
    format!("{topic}-{partition}-{}", text("__connect.errors.offset")).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{message::Source, settings::Plan};

    const TICKET: Ticket = Ticket { source: Source { topic: 0, partition: 0 }, epoch: 1, offset: 7 };

    const DEAD: &str = "moderation.dead-letters";

    fn kafka() -> KafkaPlan {
        Plan::read("pipeline.toml".as_ref()).unwrap().kafka
    }

    fn large() -> Record {
        Record {
            key: Some(vec![1]),
            payload: Some(vec![2; 9]),
            // Of this program's own names, and yet the producer's.
            headers: vec![("ofa-text".to_owned(), Some(vec![3; 9]))],
            ..Record::default()
        }
    }

    #[test]
    fn a_letter_that_is_too_large_loses_payload_then_key_and_headers_and_then_nothing_more() {
        let letter = Failure::VerdictTooLarge.dead_letter().into_record(large(), DEAD, &FailureContext::default());
        let first = smaller(&kafka(), TICKET, letter, Taken::TooLarge).unwrap();
        assert_eq!((first.payload.is_none(), first.key.is_some()), (true, true));
        assert!(first.headers.contains(&(OMITTED.to_owned(), Some(b"9".to_vec()))));
        let second = smaller(&kafka(), TICKET, first, Taken::TooLarge).unwrap();
        assert_eq!(second.key.as_deref(), Some(&b"-0-0"[..]), "a compacted topic takes none without a key");
        assert!(second.headers.iter().all(|(name, _)| name != "ofa-text"));
        assert_eq!(smaller(&kafka(), TICKET, second, Taken::TooLarge), None);
    }

    #[test]
    fn where_the_request_is_gone_its_letter_says_so() {
        let verdict = Outgoing { topic: "verdicts".to_owned(), key: None, payload: Some(vec![0; 9]), headers: vec![] };
        let letter = smaller(&kafka(), TICKET, verdict, Taken::TooLarge).unwrap();
        let header = |name: &str| crate::message::header(&letter.headers, name).unwrap_or_default().to_owned();
        assert_eq!((header(OMITTED).as_str(), header("__connect.errors.offset").as_str()), ("unknown", "7"));
        assert_eq!(header("__connect.errors.topic"), "moderation.requests");
    }

    #[test]
    fn what_is_too_large_is_offered_with_less_in_it_until_it_is_taken() {
        for (refusals, expected) in
            [(0, "verdicts, 9 bytes"), (1, "moderation.dead-letters, 9 bytes"), (2, "moderation.dead-letters, 0 bytes")]
        {
            let answer =
                Outgoing { topic: "verdicts".to_owned(), key: None, payload: Some(vec![0; 9]), headers: vec![] };
            let outcome = Outcome { outgoing: Some(answer), told: Told::Tombstone, record: Some(large()) };
            let (mut left, mut taken) = (refusals, String::new());
            let handed = hand_over(
                outcome,
                TICKET,
                &kafka(),
                |reason| reason,
                |outgoing| {
                    taken = format!("{}, {} bytes", outgoing.topic, outgoing.payload.as_ref().map_or(0, Vec::len));
                    left -= 1;
                    Ok(if left < 0 { Taken::Yes } else { Taken::TooLarge })
                },
            );
            assert!(handed.is_ok() && taken == expected, "{refusals}: {taken}");
        }
        let retry = Outgoing { topic: "retry".to_owned(), key: None, payload: Some(vec![0; 9]), headers: vec![] };
        let letter = Failure::Tombstone.dead_letter();
        let told = Told::Retried { letter, context: Box::default(), attempt: 1, delay: std::time::Duration::ZERO };
        let outcome = Outcome { outgoing: Some(retry), told, record: Some(large()) };
        let mut offers = 0;
        let handed = hand_over(
            outcome,
            TICKET,
            &kafka(),
            |reason| reason,
            |_| {
                offers += 1;
                Ok(if offers == 1 { Taken::TooLarge } else { Taken::Yes })
            },
        );
        assert!(matches!(handed, Ok(Told::Refused { code: "tombstone", .. })), "a retry keeps its own reason");
        let letter = Failure::VerdictTooLarge.dead_letter().into_record(large(), DEAD, &FailureContext::default());
        let outcome = Outcome { outgoing: Some(letter), told: Told::Tombstone, record: None };
        let handed = hand_over(outcome, TICKET, &kafka(), |reason| reason, |_| Ok(Taken::TooLarge));
        assert_eq!(handed.err().as_deref(), Some(NOTHING_LEFT));
    }
}
