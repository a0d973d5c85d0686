//! A finished request into the hands of a producer, with less in it where it is too large.

use super::{
    failure::Failure,
    outcome::{Outcome, Told},
};
use crate::{
    delivery::Ticket,
    message::{OMITTED, Outgoing, Record, is_added, text_header},
    settings::KafkaPlan,
};

/// Whether a producer took a record.
pub(super) enum Taken {
    Yes,
    /// It is larger than the producer or the brokers take.
    TooLarge,
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
    if let Taken::Yes = take(&outgoing)? {
        return Ok(told);
    }
    let (mut outgoing, told) = match record {
        // The request is still here: its dead letter can hold it, where that is smaller than what answers it.
        Some(record) => {
            let group = if let Told::Verdict(verdict) = told { verdict.ab_variant } else { None };
            let failure = Failure::VerdictTooLarge;
            let letter = failure.dead_letter().into_record(record, &kafka.dead_letters);
            if let Taken::Yes = take(&letter)? {
                return Ok(Told::Refused { code: failure.code(), message: failure.message(), group });
            }
            (letter, Told::Refused { code: failure.code(), message: failure.message(), group })
        }
        None => (outgoing, told),
    };
    loop {
        outgoing = match smaller(kafka, ticket, outgoing) {
            Some(less) => less,
            None => return Err(nothing_left(NOTHING_LEFT.to_owned())),
        };
        if let Taken::Yes = take(&outgoing)? {
            return Ok(told);
        }
    }
}

pub(super) const NOTHING_LEFT: &str = "not even a dead letter without its payload and headers is small enough";

/// A dead letter with less in it: first without the payload, then without the original key and headers.
pub(super) fn smaller(kafka: &KafkaPlan, ticket: Ticket, outgoing: Outgoing) -> Option<Outgoing> {
    if outgoing.topic != kafka.dead_letters {
        let Ticket { source, offset, .. } = ticket;
        let retry = usize::from(source.topic).checked_sub(1).and_then(|index| kafka.retries.get(index));
        let topic = retry.map_or(&kafka.requests, |retry| &retry.topic).clone();
        let record = Record { topic, partition: source.partition, offset, key: outgoing.key, ..Record::default() };
        let mut letter = Failure::VerdictTooLarge.dead_letter().into_record(record, &kafka.dead_letters);
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
    let had_key = letter.key.take().is_some();
    (had_key || letter.headers.len() < whole).then_some(letter)
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
        let letter = Failure::VerdictTooLarge.dead_letter().into_record(large(), DEAD);
        let first = smaller(&kafka(), TICKET, letter).unwrap();
        assert_eq!((first.payload.is_none(), first.key.is_some()), (true, true));
        assert!(first.headers.contains(&(OMITTED.to_owned(), Some(b"9".to_vec()))));
        let second = smaller(&kafka(), TICKET, first).unwrap();
        assert!(second.key.is_none() && second.headers.iter().all(|(name, _)| name != "ofa-text"));
        assert_eq!(smaller(&kafka(), TICKET, second), None);
    }

    #[test]
    fn where_the_request_is_gone_its_letter_says_so() {
        let verdict = Outgoing { topic: "verdicts".to_owned(), key: None, payload: Some(vec![0; 9]), headers: vec![] };
        let letter = smaller(&kafka(), TICKET, verdict).unwrap();
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
        let letter = Failure::VerdictTooLarge.dead_letter().into_record(large(), DEAD);
        let outcome = Outcome { outgoing: Some(letter), told: Told::Tombstone, record: None };
        let handed = hand_over(outcome, TICKET, &kafka(), |reason| reason, |_| Ok(Taken::TooLarge));
        assert_eq!(handed.err().as_deref(), Some(NOTHING_LEFT));
    }
}
