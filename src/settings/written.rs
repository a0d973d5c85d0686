//! Settings that are one of a few words.

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
