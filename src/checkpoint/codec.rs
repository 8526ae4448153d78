//! Numbers to bytes and back: what a safetensors file stores, little-endian and at any alignment.

use std::any::Any;

use half::{bf16, f16};
use safetensors::Dtype;

use crate::scalar::Scalar;

/// The name of `dtype` in a header and its width in bytes; `None` for those that are not read.
pub(crate) fn known(dtype: Dtype) -> Option<(&'static str, usize)> {
    Some(match dtype {
        Dtype::F64 => ("F64", 8),
        Dtype::F32 => ("F32", 4),
        Dtype::F16 => ("F16", 2),
        Dtype::BF16 => ("BF16", 2),
        Dtype::I64 => ("I64", 8),
        Dtype::I32 => ("I32", 4),
        Dtype::I16 => ("I16", 2),
        Dtype::I8 => ("I8", 1),
        Dtype::U64 => ("U64", 8),
        Dtype::U32 => ("U32", 4),
        Dtype::U16 => ("U16", 2),
        Dtype::U8 => ("U8", 1),
        Dtype::BOOL => ("BOOL", 1),
        _ => return None,
    })
}

/// Whether `dtype` is one that a model's parameters can be stored as.
pub(crate) fn is_floating(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// The dtype that numbers of type `A` are written as.
pub(crate) fn native_dtype<A: Scalar>() -> Dtype {
    if size_of::<A>() == 4 { Dtype::F32 } else { Dtype::F64 }
}

/// Appends the numbers that `bytes` holds to `values`. Numbers of type `A` keep every bit (also those of a NaN); others are rounded.
pub(crate) fn decode<A: Scalar>(dtype: Dtype, bytes: &[u8], values: &mut Vec<A>) {
    match dtype {
        Dtype::F64 => match as_type(values) {
            Some(values) => extend(values, bytes, f64::from_le_bytes),
            None => extend_rounded(values, bytes, f64::from_le_bytes),
        },
        Dtype::F32 => match as_type(values) {
            Some(values) => extend(values, bytes, f32::from_le_bytes),
            None => extend_rounded(values, bytes, |bytes| f32::from_le_bytes(bytes).into()),
        },
        Dtype::F16 => extend_rounded(values, bytes, |bytes| f16::from_le_bytes(bytes).to_f64()),
        Dtype::BF16 => extend_rounded(values, bytes, |bytes| bf16::from_le_bytes(bytes).to_f64()),
        Dtype::I64 => extend_rounded(values, bytes, |bytes| i64::from_le_bytes(bytes) as f64),
        Dtype::I32 => extend_rounded(values, bytes, |bytes| i32::from_le_bytes(bytes).into()),
        Dtype::I16 => extend_rounded(values, bytes, |bytes| i16::from_le_bytes(bytes).into()),
        Dtype::I8 => extend_rounded(values, bytes, |bytes| i8::from_le_bytes(bytes).into()),
        Dtype::U64 => extend_rounded(values, bytes, |bytes| u64::from_le_bytes(bytes) as f64),
        Dtype::U32 => extend_rounded(values, bytes, |bytes| u32::from_le_bytes(bytes).into()),
        Dtype::U16 => extend_rounded(values, bytes, |bytes| u16::from_le_bytes(bytes).into()),
        Dtype::U8 => extend_rounded(values, bytes, |[byte]: [u8; 1]| byte.into()),
        Dtype::BOOL => extend_rounded(values, bytes, |[byte]: [u8; 1]| f64::from(u8::from(byte != 0))),
        _ => unreachable!("a header with another dtype is refused"),
    }
}

/// Appends the bytes of `value` to `bytes`.
pub(crate) fn encode<A: Scalar>(value: A, bytes: &mut Vec<u8>) {
    let any: &dyn Any = &value;
    if let Some(value) = any.downcast_ref::<f32>() {
        bytes.extend_from_slice(&value.to_le_bytes());
    } else {
        bytes.extend_from_slice(&value.widen().to_le_bytes());
    }
}

/// `values`, if `B` is their type.
#[allow(clippy::ptr_arg)] // it is the vector that is cast
fn as_type<A: Scalar, B: Scalar>(values: &mut Vec<A>) -> Option<&mut Vec<B>> {
    let any: &mut dyn Any = values;
    any.downcast_mut()
}

fn extend<A, const WIDTH: usize>(values: &mut Vec<A>, bytes: &[u8], number: impl Fn([u8; WIDTH]) -> A) {
    values.extend(bytes.as_chunks().0.iter().map(|&bytes| number(bytes)));
}

fn extend_rounded<A: Scalar, const WIDTH: usize>(values: &mut Vec<A>, bytes: &[u8], number: impl Fn([u8; WIDTH]) -> f64) {
    extend(values, bytes, |bytes| A::cast(number(bytes)));
}
