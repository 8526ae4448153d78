//! Fields of JSON that its type does not have: all of them at once, where serde names the first alone.

use std::cell::RefCell;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Map, Value};

use crate::parameters::join;

/// A `T`, all of whose fields are known, or what is wrong.
pub(crate) fn parse<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| {
        let value = serde_json::from_str(json).unwrap_or_default();
        unknown_fields::<T>(&value).unwrap_or_else(|| error.to_string())
    })
}

/// The same from a value that has been read.
pub(crate) fn parse_value<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    let unknown = unknown_fields::<T>(&value);
    serde_json::from_value(value).map_err(|error| unknown.unwrap_or_else(|| error.to_string()))
}

fn unknown_fields<T: DeserializeOwned>(value: &Value) -> Option<String> {
    let found = RefCell::default();
    let probe = Probe {
        value,
        path: String::new(),
        found: &found,
    };
    // Only the fields that it comes by matter.
    let _ = T::deserialize(probe);
    let found = found.into_inner();
    (!found.is_empty()).then(|| found.join("; "))
}

/// A value that notes the fields which the types it is read as do not have.
struct Probe<'v> {
    value: &'v Value,
    path: String,
    found: &'v RefCell<Vec<String>>,
}

impl<'v> Probe<'v> {
    fn within(&self, field: &str, value: &'v Value) -> Self {
        Self {
            value,
            path: join(&self.path, field),
            found: self.found,
        }
    }

    fn note(&self, map: &Map<String, Value>, fields: &[&str]) {
        let unknown = map.keys().filter(|key| !fields.contains(&key.as_str()));
        let unknown: Vec<String> = unknown.map(|key| format!("`{}`", join(&self.path, key))).collect();
        if unknown.is_empty() {
            return;
        }
        let noun = if unknown.len() == 1 { "field" } else { "fields" };
        let known: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
        self.found.borrow_mut().push(format!(
            "unknown {noun} {}, expected some of {}",
            unknown.join(", "),
            known.join(", ")
        ));
    }
}

impl<'de> Deserializer<'de> for Probe<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.value.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        let Some(map) = self.value.as_object() else {
            return self.value.deserialize_any(visitor);
        };
        self.note(map, fields);
        let known: Vec<_> = map.iter().filter(|(key, _)| fields.contains(&key.as_str())).collect();
        visitor.visit_map(Fields {
            rest: known.into_iter(),
            value: None,
            probe: self,
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value.as_object().and_then(|map| map.iter().next()) {
            Some((variant, value)) => visitor.visit_enum(Variant {
                variant,
                content: self.within(variant, value),
            }),
            None => self.value.deserialize_enum(name, variants, visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        identifier ignored_any
    }
}

/// The fields of a struct that it has.
struct Fields<'v> {
    rest: std::vec::IntoIter<(&'v String, &'v Value)>,
    value: Option<Probe<'v>>,
    probe: Probe<'v>,
}

impl<'v> MapAccess<'v> for Fields<'v> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'v>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.value = Some(self.probe.within(key, value));
        let key: StrDeserializer<'_, Error> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'v>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.value.take() {
            Some(probe) => seed.deserialize(probe),
            None => Err(serde::de::Error::custom("a value without a key")),
        }
    }
}

/// A variant of an enum, and what it holds.
struct Variant<'v> {
    variant: &'v str,
    content: Probe<'v>,
}

impl<'v> EnumAccess<'v> for Variant<'v> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'v>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let variant: StrDeserializer<'_, Error> = self.variant.into_deserializer();
        Ok((seed.deserialize(variant)?, self))
    }
}

impl<'v> VariantAccess<'v> for Variant<'v> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'v>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.content)
    }

    fn tuple_variant<V: Visitor<'v>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.content.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'v>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.content.deserialize_struct("", fields, visitor)
    }
}
