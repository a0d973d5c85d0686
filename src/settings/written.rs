//! Settings that are one of a few words.

use serde::Deserialize;

macro_rules! written {
    ($(#[$about:meta])* $name:ident, $expected:literal, { $($(#[$what:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        #[serde(try_from = "String")]
        pub enum $name {
            $($(#[$what])* $variant,)+
        }

        impl TryFrom<String> for $name {
            type Error = &'static str;

            fn try_from(written: String) -> Result<Self, Self::Error> {
                match written.as_str() {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($expected),
                }
            }
        }
    };
}

written!(
    /// What is promised about outcomes.
    Delivery, "expected \"exactly_once\" or \"at_least_once\"", {
        /// Outcomes and offsets go together, in transactions.
        ExactlyOnce = "exactly_once",
        /// Offsets follow outcomes; after a crash an outcome may come again.
        AtLeastOnce = "at_least_once",
    }
);

written!(
    /// Who divides the partitions of a group among its members.
    GroupProtocol, "expected \"classic\" or \"consumer\"", {
        /// A member, so that only partitions that move stop.
        Classic = "classic",
        /// The brokers (Kafka 4).
        Consumer = "consumer",
    }
);

written!(
    /// What becomes of records without a value, which say of a key that it is to be forgotten.
    Tombstones, "expected \"forward\", \"skip\" or \"dead_letter\"", {
        /// A record without a value goes to the verdicts, under the same key.
        Forward = "forward",
        /// Nothing.
        Skip = "skip",
        /// A dead letter: such records are a mistake here.
        DeadLetter = "dead_letter",
    }
);

written!(
    /// What becomes of a request of which a part was not read, because it is longer than its version reads.
    Truncated, "expected \"review\", \"reject\" or \"allow\"", {
        /// A person looks at it.
        Review = "review",
        /// It is rejected.
        Reject = "reject",
        /// It is decided by what was read.
        Allow = "allow",
    }
);

written!(
    /// What becomes of a text of which cleaning leaves no letter, digit or symbol.
    EmptyText, "expected \"refuse\", \"review\" or \"judge\"", {
        /// A dead letter.
        Refuse = "refuse",
        /// A person looks at it.
        Review = "review",
        /// It is judged as any other.
        Judge = "judge",
    }
);

/// What a token allows. Each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reading.
    Look,
    /// Answering review tasks.
    Review,
    /// Every change.
    Operate,
}
