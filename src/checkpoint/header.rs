//! The header of a safetensors file: read with every claim checked against the file, written with the same bytes each time.

use std::collections::BTreeMap;
use std::fmt;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::de::value::StrDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::codec::known;
use crate::error::{Error, Result, checked_len};

/// The longest header that is read or written, in bytes: room for more than a hundred thousand tensors.
pub(crate) const LONGEST_HEADER: usize = 16 << 20;

/// The key of a header that names no tensor.
pub(crate) const METADATA: &str = "__metadata__";

/// The contents of a header.
#[derive(Debug, Default)]
pub(crate) struct Header {
    pub(crate) metadata: BTreeMap<String, String>,
    /// In the order of their bytes, which follow each other without a gap.
    pub(crate) tensors: Vec<(String, TensorInfo)>,
}

impl Header {
    /// The header in `json`, of a file in which `data_len` bytes follow it.
    pub(crate) fn parse(json: &[u8], data_len: u64) -> Result<Self> {
        let mut header: Self = serde_json::from_slice(json).map_err(|error| malformed(format!("header: {error}")))?;
        header.tensors.sort_by_key(|(_, info)| info.data_offsets);
        let mut end = 0;
        for (name, info) in &header.tensors {
            end = check_tensor(name, info, end)?;
        }
        if end as u64 != data_len {
            return Err(malformed(format!(
                "the tensors take {end} bytes, but {data_len} bytes follow the header"
            )));
        }
        Ok(header)
    }

    /// The length and the text with which a file begins; padded, so that the numbers after it are aligned.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; 8];
        serde_json::to_writer(&mut bytes, self).map_err(|error| malformed(format!("header: {error}")))?;
        bytes.resize(bytes.len().next_multiple_of(8), b' ');
        let length = bytes.len() - 8;
        if length > LONGEST_HEADER {
            return Err(malformed(format!(
                "a header of {length} bytes is longer than the limit of {LONGEST_HEADER}"
            )));
        }
        bytes[..8].copy_from_slice(&(length as u64).to_le_bytes());
        Ok(bytes)
    }
}

pub(crate) fn malformed(reason: impl Into<String>) -> Error {
    Error::Malformed { reason: reason.into() }
}

/// Where the bytes of the tensor end, which must start at `start` and be as many as its shape takes.
fn check_tensor(name: &str, info: &TensorInfo, start: usize) -> Result<usize> {
    let Some((dtype, width)) = known(info.dtype) else {
        return Err(malformed(format!(
            "tensor `{name}` has the dtype {}, which is not supported; convert it to F32, F64, F16 or BF16",
            info.dtype
        )));
    };
    let shape = &info.shape;
    let elements = checked_len("checkpoint", shape, width.max(8))
        .map_err(|_| malformed(format!("tensor `{name}` has the shape {shape:?}, which memory cannot address")))?;
    let (first, end) = info.data_offsets;
    if first != start {
        let what = if first > start { "after a gap" } else { "within another tensor" };
        return Err(malformed(format!(
            "the bytes of tensor `{name}` start {what}, at {first} instead of {start}"
        )));
    }
    let expected = elements * width;
    if end.checked_sub(first) != Some(expected) {
        return Err(malformed(format!(
            "tensor `{name}` of {dtype} and shape {shape:?} takes {expected} bytes, but has those from {first} to {end}"
        )));
    }
    Ok(end)
}

/// One tensor of a header. Unlike safetensors' own type it takes any dtype, so that an unknown one can be reported with the tensor.
#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<Header, M::Error> {
        let mut metadata = None;
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                if metadata.is_some() {
                    return Err(M::Error::duplicate_field(METADATA));
                }
                metadata = Some(map.next_value::<Option<Unique>>()?.unwrap_or_default());
                continue;
            }
            let in_tensor = |error: M::Error| M::Error::custom(format!("tensor `{name}`: {error}"));
            let entry: Entry = map.next_value().map_err(in_tensor)?;
            let dtype = Dtype::deserialize(StrDeserializer::new(&entry.dtype)).map_err(in_tensor)?;
            let info = TensorInfo {
                dtype,
                shape: entry.shape,
                data_offsets: entry.data_offsets,
            };
            if tensors.contains_key(&name) {
                return Err(M::Error::custom(format!("two tensors are named `{name}`")));
            }
            tensors.insert(name, info);
        }
        Ok(Header {
            metadata: metadata.unwrap_or_default().0,
            tensors: tensors.into_iter().collect(),
        })
    }
}

/// Strings by key, each key once.
#[derive(Default)]
pub(super) struct Unique(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Unique;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map of strings")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<Unique, M::Error> {
        let mut strings = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            if let Some(_first) = strings.insert(key, value) {
                return Err(M::Error::custom("a key comes twice"));
            }
        }
        Ok(Unique(strings))
    }
}

impl Serialize for Header {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry(METADATA, &self.metadata)?;
        }
        for (name, info) in &self.tensors {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}
