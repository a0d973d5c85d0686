//! Attributes, each of a type that has no size to speak of but a text's.

use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::{Context, RequestBounds};
use crate::message::request::{AttributeValue, Attributes};

pub(super) struct AttributesSeed<'c>(pub(super) &'c Context<'c>);

impl<'de> DeserializeSeed<'de> for AttributesSeed<'_> {
    type Value = Attributes;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Attributes, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AttributesSeed<'_> {
    type Value = Attributes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of strings, numbers, true, false and null")
    }

    fn visit_unit<E>(self) -> Result<Attributes, E> {
        Ok(Attributes::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Attributes, A::Error> {
        let context = self.0;
        let RequestBounds { attributes_max, attribute_bytes_max, .. } = *context.bounds;
        let mut attributes = Attributes::new();

        while let Some(name) = fields.next_key::<String>()? {
            if attributes.len() >= attributes_max {
                let reason = format!("has more than {attributes_max} names, which `requests.attributes_max` allows");
                return Err(context.invalid("attributes", reason));
            }
            if name.len() > attribute_bytes_max {
                return Err(context.invalid("attributes", too_many_bytes("a name", name.len(), attribute_bytes_max)));
            }
            let field = format!("attributes.{name}");
            // A gateway that looks at the first value must not be passed by with a second one.
            if attributes.contains_key(&name) {
                return Err(context.invalid(field, "is there twice: write it once"));
            }
            let value = fields.next_value_seed(AttributeSeed(context, &field))?;
            attributes.insert(name, value);
        }

        Ok(attributes)
    }
}

fn too_many_bytes(what: &str, bytes: usize, bytes_max: usize) -> String {
    format!("{what} has {bytes} bytes, `requests.attribute_bytes_max` allows {bytes_max}")
}

struct AttributeSeed<'c>(&'c Context<'c>, &'c str);

impl<'de> DeserializeSeed<'de> for AttributeSeed<'_> {
    type Value = Option<AttributeValue>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AttributeSeed<'_> {
    type Value = Option<AttributeValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number, true, false or null")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(Some(AttributeValue::Flag(flag)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(AttributeValue::Number(number as f64)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(AttributeValue::Number(number as f64)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Some(AttributeValue::Number(number)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let Self(context, field) = self;
        let bytes_max = context.bounds.attribute_bytes_max;
        if text.len() > bytes_max {
            return Err(context.invalid(field, too_many_bytes("its value", text.len(), bytes_max)));
        }
        Ok(Some(AttributeValue::Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Err(self.0.invalid(self.1, "is a list: expected a string, a number, true, false or null"))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Err(self.0.invalid(self.1, "is an object: expected a string, a number, true, false or null"))
    }
}
