//! The contents of a safetensors file, streamed in and out: no second copy of them is made.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

use ndarray::{ArrayD, ArrayViewD, IxDyn};
use safetensors::tensor::TensorInfo;

use super::codec::{decode, encode, known, native_dtype};
use super::file::replace;
use super::header::{Header, LONGEST_HEADER, malformed};
use super::kind::{START, recognized};
use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// Bytes that are read or written together.
const BLOCK: usize = 1 << 16;

/// Tensors about to be written.
pub(crate) struct Contents<'a, A> {
    header: Vec<u8>,
    /// In the order of their names.
    tensors: Vec<ArrayViewD<'a, A>>,
    len: usize,
}

impl<'a, A: Scalar> Contents<'a, A> {
    pub(crate) fn new(mut tensors: Vec<(String, ArrayViewD<'a, A>)>, metadata: BTreeMap<String, String>) -> Result<Self> {
        tensors.sort_by(|(first, _), (second, _)| first.cmp(second));
        if let Some([(name, _), _]) = tensors.array_windows().find(|[(first, _), (second, _)]| first == second) {
            return Err(malformed(format!("two tensors are named `{name}`")));
        }
        let mut header = Header {
            metadata,
            tensors: Vec::with_capacity(tensors.len()),
        };
        let mut views = Vec::with_capacity(tensors.len());
        let mut end = 0;
        for (name, tensor) in tensors {
            let start = end;
            end += tensor.len() * size_of::<A>();
            let info = TensorInfo {
                dtype: native_dtype::<A>(),
                shape: tensor.shape().to_vec(),
                data_offsets: (start, end),
            };
            header.tensors.push((name, info));
            views.push(tensor);
        }
        Ok(Self {
            header: header.to_bytes()?,
            tensors: views,
            len: end,
        })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.header.len() + self.len);
        self.write_to(&mut bytes).expect("memory takes all bytes");
        bytes
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        replace(path, |mut out| self.write_to(&mut out))
    }

    fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.header)?;
        let mut block = Vec::with_capacity(BLOCK);
        for tensor in &self.tensors {
            for &value in tensor {
                encode(value, &mut block);
                if block.len() >= BLOCK {
                    out.write_all(&block)?;
                    block.clear();
                }
            }
        }
        out.write_all(&block)
    }
}

/// Reads the header of a file of `len` bytes. Nothing is allocated that the file does not have the bytes for.
pub(crate) fn read_header(input: &mut impl Read, len: u64, failed: &dyn Fn(io::Error) -> Error) -> Result<Header> {
    let mut start = Vec::with_capacity(START);
    input.take(8).read_to_end(&mut start).map_err(failed)?;
    let length = match header_length(&start, len) {
        Ok(length) => length,
        Err(reason) => {
            input.take(START as u64 - 8).read_to_end(&mut start).map_err(failed)?;
            return Err(malformed(recognized(&start).unwrap_or(reason)));
        }
    };
    let mut json = vec![0; length];
    input.read_exact(&mut json).map_err(failed)?;
    start.extend_from_slice(&json[..length.min(START - 8)]);
    if let Some(reason) = recognized(&start) {
        return Err(malformed(reason));
    }
    Header::parse(&json, len - 8 - length as u64)
}

/// The length of the header of a file of `len` bytes that begins with `start`, or what is wrong with it.
fn header_length(start: &[u8], len: u64) -> std::result::Result<usize, String> {
    if len == 0 {
        return Err("the file is empty".to_owned());
    }
    let (Some(rest), Some(&length)) = (len.checked_sub(8), start.first_chunk()) else {
        return Err(format!("{len} bytes are too few even for the length of a header"));
    };
    let length = u64::from_le_bytes(length);
    if length > rest {
        return Err(format!("the header claims {length} bytes, but only {rest} follow"));
    }
    let short = usize::try_from(length).ok().filter(|&length| length <= LONGEST_HEADER);
    short.ok_or_else(|| format!("the header has {length} bytes, more than the limit of {LONGEST_HEADER}"))
}

/// Reads the next tensor.
pub(crate) fn read_tensor<A: Scalar>(
    input: &mut impl Read,
    name: &str,
    info: &TensorInfo,
    failed: &dyn Fn(io::Error) -> Error,
) -> Result<ArrayD<A>> {
    let width = known(info.dtype).map_or(1, |(_, width)| width);
    let mut remaining = info.data_offsets.1 - info.data_offsets.0;
    let mut values: Vec<A> = Vec::new();
    let elements = remaining / width;
    if values.try_reserve_exact(elements).is_err() {
        return Err(malformed(format!(
            "there is no memory for the {elements} numbers of tensor `{name}`"
        )));
    }
    let mut block = vec![0; remaining.min(BLOCK)];
    while remaining > 0 {
        let bytes = &mut block[..remaining.min(BLOCK)];
        input.read_exact(bytes).map_err(failed)?;
        decode(info.dtype, bytes, &mut values);
        remaining -= bytes.len();
    }
    ArrayD::from_shape_vec(IxDyn(&info.shape), values).map_err(|error| malformed(format!("tensor `{name}`: {error}")))
}
